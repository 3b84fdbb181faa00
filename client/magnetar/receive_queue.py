"""What a consumer has been given and has not handed out yet, without any I/O.

Guards three things: the broker never has leave to send more than the window; messages of before
a seek are not handed out after it; and a new link does not bring again what the user has in
hand. For the last, each entry that has messages neither acknowledged nor given back is held: a
bit a message, not the bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from magnetar.entry import EntryView, parse_header, parse_prefix
from magnetar.errors import InvalidFrame
from magnetar.message import Message, ReceivedEntry
from magnetar.picked_view import PickedView
from magnetar.wire.frames import Delivered

Position = tuple[int, int]

FIRST_WINDOW = 1_000
"""Messages the broker may send before their size is known."""
WINDOW_BYTES = 8 << 20
LARGEST_WINDOW = 50_000
HELD_ENTRIES = 100_000
"""Beyond it the oldest are forgotten, and may be seen again after a reconnect."""


@dataclass(slots=True)
class Held:
    """Bits over an entry's batch indexes."""

    meant: int
    handed_out: int = 0
    given_back: int = 0
    acknowledged: int = 0


def bits_of(indexes: list[int] | range) -> int:
    """The bitmap with these bits set."""
    if isinstance(indexes, range):
        return ((1 << len(indexes)) - 1) << indexes.start
    bits = 0
    for index in indexes:
        bits |= 1 << index
    return bits


def _opened(
    client_part: memoryview, delivered: Delivered
) -> tuple[EntryView, list[int] | range]:
    """The entry, read by the batch indexes of its messages' ids, and which of them are meant."""
    if delivered.picked:
        cut = PickedView(client_part, delivered.picked)
        return cut, cut.indexes
    view = EntryView(client_part)
    count = view.count
    skip = int.from_bytes(delivered.skip, "little") & ((1 << count) - 1)
    if skip:
        return view, [index for index in range(count) if not skip >> index & 1]
    return view, range(count)


class ReceiveQueue:
    """`fixed_window` in messages; None lets it follow the size of the messages."""

    def __init__(
        self, topic_name: str, partition: int, *, fixed_window: int | None = None,
        holds: bool = True,
    ) -> None:
        self._topic_name = topic_name
        self._partition = partition
        self._fixed_window = fixed_window
        self._holds = holds
        self._window = fixed_window or FIRST_WINDOW
        self._entries: deque[ReceivedEntry] = deque()
        self._held: dict[Position, Held] = {}
        self._granted = 0
        """Permits given on this link and not used up by deliveries."""
        self._epoch = 0
        self._new_link = True
        self.count = 0
        """Messages ready to be handed out."""
        self.last_handed_out: tuple[int, int, int] | None = None
        self.first_delivered: Position | None = None
        """Where delivery began, until something is handed out."""

    def add(self, delivered: Delivered, not_above: tuple[int, int, int] | None = None) -> None:
        """Take a delivery; raises InvalidFrame for bytes that are no entry.

        Messages up to `not_above` (ledger, entry, index) were handed out before.
        """
        _, client_part = parse_prefix(delivered.entry)
        view, meant = _opened(client_part, delivered)
        self._granted -= len(meant)
        if delivered.epoch > self._epoch:
            self.begin_epoch(delivered.epoch)
        elif self._new_link:
            self._epoch = delivered.epoch  # another broker counts from the beginning
        self._new_link = False
        if delivered.epoch < self._epoch:
            return
        position = (delivered.ledger_id, delivered.entry_id)
        if not_above is not None and (*position, 0) <= not_above:
            if position < not_above[:2]:
                return
            meant = [index for index in meant if index > not_above[2]]
        if self._holds:
            meant = self._hold(position, meant)
        if not meant:
            return
        if self.first_delivered is None:
            self.first_delivered = position
        self._follow_size(view)
        self._entries.append(ReceivedEntry(
            self._topic_name, self._partition, *position, view, meant,
            delivered.redelivery_count, delivered.epoch))
        self.count += len(meant)

    def pass_over(self, delivered: Delivered) -> None:
        """An entry that cannot be read used up permits all the same: those its header tells of,
        or, when not even that can be read, all there were."""
        try:
            count = parse_header(parse_prefix(delivered.entry)[1]).count
        except InvalidFrame:
            self._granted = min(self._granted, 0)
            return
        skip = int.from_bytes(delivered.skip, "little") & ((1 << count) - 1)
        self._granted -= count - skip.bit_count()

    def pop(self) -> Message | None:
        """The next message, or None."""
        if not self._entries:
            return None
        entry = self._entries[0]
        at = entry.next_index
        entry.next_index = at + 1
        self.count -= 1
        if entry.next_index == len(entry.meant):
            self._hand_out_rest(self._entries.popleft())
        return Message(entry, entry.meant[at])

    def pop_many(self, most: int) -> list[Message]:
        """Up to `most` messages."""
        found: list[Message] = []
        while self._entries and most > 0:
            entry = self._entries[0]
            at, stop = entry.next_index, min(len(entry.meant), entry.next_index + most)
            found += [Message(entry, index) for index in entry.meant[at:stop]]
            entry.next_index = stop
            self.count -= stop - at
            most -= stop - at
            if stop == len(entry.meant):
                self._hand_out_rest(self._entries.popleft())
        return found

    def due_permits(self) -> int:
        """Permits to give now, or 0: they are given in bulk."""
        due = self._window - self._granted - self.count
        if due * 4 < self._window:
            return 0
        self._granted += due
        return due

    @property
    def permits_due(self) -> bool:
        return (self._window - self._granted - self.count) * 4 >= self._window

    def acknowledged(self, position: Position, bits: int | None) -> None:
        """These messages are durably acknowledged; None: the whole entry."""
        held = self._held.get(position)
        if held is None:
            return
        held.acknowledged |= held.meant if bits is None else bits
        if not held.meant & ~held.acknowledged:
            del self._held[position]

    def acknowledged_up_to(self, position: Position, index: int) -> None:
        """As `acknowledged`, for everything up to and with a message (-1: the whole entry)."""
        for held_position in [known for known in self._held if known <= position]:
            whole = held_position < position or index < 0
            self.acknowledged(held_position, None if whole else (2 << index) - 1)

    def given_back(self, position: Position, bits: int) -> None:
        """The user wants these messages again."""
        held = self._held.get(position)
        if held is not None:
            held.given_back |= bits

    def begin_epoch(self, epoch: int) -> None:
        """A seek happened: nothing of before it is handed out any more."""
        if epoch > self._epoch or self._new_link:
            self._epoch, self._new_link = epoch, False
            self._drop(lambda entry: entry.epoch < epoch)
            self._held.clear()
            self.last_handed_out = self.first_delivered = None

    def new_link(self) -> None:
        """The broker of the next link sends everything not acknowledged again."""
        for entry in self._entries:
            self._mark_handed_out(entry)
        for entry in self._entries:
            if (held := self._held.get(entry.position)) is not None:
                held.handed_out &= ~bits_of(entry.meant[entry.next_index:])
        self.last_handed_out = self.resume_after
        self._drop(lambda _: True)
        for held in self._held.values():
            held.handed_out &= ~held.given_back
            held.given_back = 0
        self._granted = 0
        self._new_link = True

    @property
    def resume_after(self) -> tuple[int, int, int] | None:
        """The last message handed out, for readers; partly read entries included."""
        if self._entries and self._entries[0].next_index:
            entry = self._entries[0]
            return (*entry.position, entry.meant[entry.next_index - 1])
        return self.last_handed_out

    def _drop(self, unwanted: Callable[[ReceivedEntry], bool]) -> None:
        self._entries = deque(entry for entry in self._entries if not unwanted(entry))
        self.count = sum(len(entry.meant) - entry.next_index for entry in self._entries)

    def _hold(self, position: Position, meant: list[int] | range) -> list[int] | range:
        bits = bits_of(meant)
        held = self._held.get(position)
        if held is None:
            if len(self._held) >= HELD_ENTRIES:
                del self._held[next(iter(self._held))]
            self._held[position] = Held(bits)
            return meant
        in_hand = held.handed_out & ~held.given_back
        held.given_back &= ~bits
        held.handed_out &= ~bits | in_hand
        held.meant |= bits
        if bits & in_hand:
            return [index for index in meant if not in_hand >> index & 1]
        return meant

    def _hand_out_rest(self, entry: ReceivedEntry) -> None:
        self.last_handed_out = (*entry.position, entry.meant[-1])
        self._mark_handed_out(entry)

    def _mark_handed_out(self, entry: ReceivedEntry) -> None:
        held = self._held.get(entry.position)
        if held is not None:
            held.handed_out |= bits_of(entry.meant[:entry.next_index])

    def _follow_size(self, view: EntryView) -> None:
        if self._fixed_window is None:
            size = (view.header.uncompressed_bytes + view.header.properties_bytes) // view.count
            window = min(max(WINDOW_BYTES // (size + 32), 1), LARGEST_WINDOW)
            self._window = (self._window + window + 1) // 2
