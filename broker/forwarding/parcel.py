"""What a lane has been given, and the next parcel of it to send."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.forwarding.copies import Copy, Labels
from broker.state_records import PlannedPart
from broker.stored_entry import StoredEntry
from magnetar.entry import parse_header, parse_prefix
from magnetar.errors import InvalidFrame, MagnetarError

OnDone = Callable[[MagnetarError | None], None]
OnSettled = Callable[[int], None]
"""Told which messages of an entry are dealt with, each once."""


class Given:
    """Messages of one entry that are to go to another topic, until each is dealt with.

    `body` is None where so much is kept already that the entry is to be read again.
    """

    __slots__ = (
        "body", "count", "entry_id", "epoch", "first_ordinal", "labels", "ledger_id", "left",
        "on_settled", "size_bytes",
    )

    def __init__(
        self, entry: StoredEntry, mask: int, labels: Labels, on_settled: OnSettled, epoch: int,
        *, keep: bool,
    ) -> None:
        self.ledger_id = entry.ledger_id
        self.entry_id = entry.entry_id
        self.first_ordinal = entry.first_ordinal
        self.count = entry.count
        self.body = entry if keep else None
        self.size_bytes = _opened_bytes(entry)
        self.labels = labels
        self.on_settled = on_settled
        self.epoch = epoch
        self.left = mask

    @property
    def key(self) -> tuple[int, int]:
        """Of the entry."""
        return (self.ledger_id, self.entry_id)

    def settle(self, mask: int) -> None:
        """These are dealt with."""
        mask &= self.left
        self.left &= ~mask
        if not self.left:
            self.body = None
        if mask:
            self.on_settled(mask)


@dataclass(frozen=True, slots=True)
class Piece:
    """Messages of something given: they travel together or are cut further."""

    given: Given
    mask: int


@dataclass(slots=True)
class Parcel:
    """Pieces of one message each with their copies, in the order in which they are sent."""

    pieces: list[Piece] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    size_bytes: int = 0
    _masks: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, piece: Piece, copy: Copy) -> None:
        """One message more."""
        self.pieces.append(piece)
        self.copies.append(copy)
        self.size_bytes += copy.size_bytes
        self._masks[piece.given.key] = self.mask_of(piece.given) | piece.mask

    def mask_of(self, given: Given) -> int:
        """Which messages of that entry it holds, whoever gave them."""
        return self._masks.get(given.key, 0)

    def cut(self) -> list[Piece]:
        """Keep the first half; answers with the other."""
        middle = len(self.copies) // 2
        rest = self.pieces[middle:]
        del self.pieces[middle:], self.copies[middle:]
        for piece in rest:
            self._masks[piece.given.key] &= ~piece.mask
        return rest

    @property
    def parts(self) -> tuple[PlannedPart, ...]:
        """Which messages it holds."""
        ordinals = {piece.given.key: piece.given.first_ordinal for piece in self.pieces}
        return tuple(
            PlannedPart(*key, first_ordinal, self._masks[key])
            for key, first_ordinal in ordinals.items()
        )


class Waiting:
    """Pieces in the order in which they came, and those set aside because they cannot go.

    A key whose message is set aside takes its later messages with it, so that they keep their
    order; other keys go on.
    """

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()
        self._aside: deque[Piece] = deque()
        self._keys: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._pieces)

    @property
    def messages(self) -> int:
        """All of them, those set aside too."""
        return sum(piece.mask.bit_count() for piece in (*self._pieces, *self._aside))

    @property
    def messages_aside(self) -> int:
        return sum(piece.mask.bit_count() for piece in self._aside)

    @property
    def first_bytes(self) -> int:
        """What the oldest piece's entry takes, decompressed."""
        return self._pieces[0].given.size_bytes

    def add(self, piece: Piece) -> None:
        """Behind all others."""
        self._pieces.append(piece)

    def pop(self) -> Piece:
        """The oldest."""
        return self._pieces.popleft()

    def put_back(self, pieces: list[Piece]) -> None:
        """They were taken, in this order, and could not be sent."""
        self._pieces.extendleft(reversed(pieces))

    def set_aside(self, piece: Piece, key: str | None) -> None:
        """It cannot go as things are."""
        self._aside.append(piece)
        if key is not None:
            self._keys.add(key)

    def holds(self, key: str | None) -> bool:
        """An earlier message of the key is set aside."""
        return key in self._keys

    def try_aside_again(self) -> None:
        """What was set aside comes before everything else."""
        self._pieces.extendleft(reversed(self._aside))
        self._aside.clear()
        self._keys.clear()

    def take_all(self) -> list[Piece]:
        """Everything, in order; nothing waits any more."""
        self.try_aside_again()
        taken = list(self._pieces)
        self._pieces.clear()
        return taken


def _opened_bytes(entry: StoredEntry) -> int:
    try:
        return parse_header(parse_prefix(entry.body)[1]).uncompressed_bytes
    except InvalidFrame:  # told when its turn comes
        return len(entry.body)
