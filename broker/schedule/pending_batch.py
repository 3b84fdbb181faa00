"""A batch of which messages wait to be due."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice
from operator import le
from typing import Final

from broker.schedule.due import Due
from magnetar.entry import Codec, EntryView, ScheduleMark, SchedulePlace, parse_header
from magnetar.runtime.network import Buffer

BATCH_OVERHEAD_BYTES: Final = 600
"""Of one batch in memory, beside its bytes and its columns."""
MESSAGE_OVERHEAD_BYTES: Final = 16

Waiting = tuple[ScheduleMark, Due]


def _resident_bytes(batch: Buffer) -> int:
    """Of a compressed one also its payloads, which are there beside it from when it is looked into
    until it is released: for all of a table at once while a run is made of it."""
    header = parse_header(batch)
    return len(batch) + (header.uncompressed_bytes if header.codec is not Codec.NONE else 0)


class PendingBatch:
    """Its bytes, and how far it has fired: messages in the order of (due time, number).

    `named`: what names its only message, when that is not its own place: it was moved here.
    """

    __slots__ = (
        "_kept", "_order", "_view", "_withdrawn", "at", "batch", "count", "dues_ms",
        "entry_id", "first_sequence", "ledger_id", "left", "named", "size_bytes",
    )

    ready = True

    def __init__(
        self, batch: Buffer, dues_ms: array[int], first_sequence: int,
        named: SchedulePlace | None = None,
    ) -> None:
        self.batch = batch
        self.dues_ms = dues_ms
        self.first_sequence = first_sequence
        self.named = named
        self.count = self.left = len(dues_ms)
        self.at = 0
        """So many were passed, of the order."""
        self.ledger_id = self.entry_id = -1
        self.size_bytes = (
            _resident_bytes(batch) + BATCH_OVERHEAD_BYTES + MESSAGE_OVERHEAD_BYTES * self.count
        )
        self._withdrawn = 0
        self._kept: tuple[int, int] | None = None
        self._view: EntryView | None = None
        self._order: array[int] | None = None
        if not all(map(le, dues_ms, islice(dues_ms, 1, None))):
            self._order = array("I", sorted(range(self.count), key=dues_ms.__getitem__))

    @property
    def view(self) -> EntryView:
        """Reads the messages; kept, because they mostly fire together."""
        if self._view is None:
            self._view = EntryView(self.batch, verify=False)
        return self._view

    @property
    def key(self) -> tuple[int, int]:
        """The record it came in."""
        return self.ledger_id, self.entry_id

    @property
    def least(self) -> ScheduleMark:
        """Of all its messages."""
        return self.mark_of(self._order[0] if self._order is not None else 0)

    def index(self, at: int) -> int:
        """Which message is the `at`-th of the order."""
        return self._order[at] if self._order is not None else at

    def mark_of(self, index: int) -> ScheduleMark:
        return ScheduleMark(self.dues_ms[index], self.first_sequence + index)

    def place_of(self, index: int) -> SchedulePlace:
        return self.named or SchedulePlace(self.ledger_id, self.entry_id, index)

    def is_withdrawn(self, index: int) -> bool:
        """It was cancelled, or waits elsewhere under another mark."""
        return bool(self._withdrawn >> index & 1)

    def withdraw(self, index: int) -> None:
        """A message that has not fired is not going to, from here."""
        self._withdrawn |= 1 << index
        self.left -= 1

    # As a source of messages that fire.

    @property
    def head(self) -> tuple[int, int] | None:
        """(due time, number) of the next that is to fire, past the withdrawn; None: no more."""
        if not self.left:
            return None
        while self.at < self.count:
            index = self._order[self.at] if self._order is not None else self.at
            if not (self._withdrawn and self._withdrawn >> index & 1):
                return self.dues_ms[index], self.first_sequence + index
            self.at += 1
        return None

    def current(self) -> Due:
        """The message of the head."""
        index = self.index(self.at)
        return Due(self.view, index, self.place_of(index))

    def advance(self) -> None:
        """The head fires."""
        self.at += 1
        self.left -= 1

    def pass_over(self, mark: ScheduleMark) -> None:
        """What is not behind `mark` fired before."""
        while self.at < self.count and self.mark_of(self.index(self.at)) <= mark:
            if not self.is_withdrawn(self.index(self.at)):
                self.left -= 1
            self.at += 1

    # Looking at it.

    def keep(self) -> None:
        """What waits now is what `kept` gives from here on, whatever becomes of it."""
        self._kept = (self.at, self._withdrawn)

    def kept(self) -> Iterator[Waiting]:
        """What waited when `keep` was called, in order."""
        assert self._kept is not None, "keep comes first"
        return self._from(*self._kept, ScheduleMark(-1, -1))

    def was_withdrawn(self, index: int) -> bool:
        """It did not wait here any more when `keep` was called."""
        assert self._kept is not None, "keep comes first"
        return bool(self._kept[1] >> index & 1)

    def waiting(self, after: ScheduleMark) -> Iterator[Waiting]:
        """Those that are still to fire, behind `after`, in their order."""
        if self.left:
            yield from self._from(self.at, self._withdrawn, after)

    def _from(self, start: int, withdrawn: int, after: ScheduleMark) -> Iterator[Waiting]:
        view = self.view  # those who look go on when it was released meanwhile
        for at in range(start, self.count):
            index = self.index(at)
            mark = self.mark_of(index)
            if mark > after and not withdrawn >> index & 1:
                yield mark, Due(view, index, self.place_of(index))

    def release(self) -> None:
        """Nothing of it fires any more; whoever still refers to it holds little."""
        self.left = 0
        self.batch = b""
        self._view = None
