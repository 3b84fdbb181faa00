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
from magnetar.errors import InvalidArgument, InvalidFrame
from magnetar.message import Message, ReceivedEntry
from magnetar.picked_view import PickedView
from magnetar.wire.frames import Delivered

Position = tuple[int, int]

FIRST_WINDOW = 1_000
"""Messages the broker may send before their size is known."""
WINDOW_BYTES = 8 << 20
LARGEST_WINDOW = 50_000
SHARED_WINDOW_BYTES = 64 << 10
"""Of each of many queues that share a window, at least."""
SHARED_WINDOW = 256
"""The same in messages, where they are small."""
HELD_ENTRIES = 100_000
"""Beyond it the oldest are forgotten, and may be seen again after a reconnect."""
MOST_MESSAGES = (1 << 31) - 1
"""What a broker lets be asked for."""


Meant = list[int] | range
"""Batch indexes, growing."""
Refuse = Callable[[Position, EntryView, Meant], Meant]
"""Told of each delivery; answers with the messages that are to be handed out."""


@dataclass(slots=True)
class Held:
    """Bits over an entry's batch indexes."""

    meant: int
    handed_out: int = 0
    given_back: int = 0
    acknowledged: int = 0


def bits_of(indexes: Meant) -> int:
    """The bitmap with these bits set."""
    if isinstance(indexes, range):
        return ((1 << len(indexes)) - 1) << indexes.start
    bits = 0
    for index in indexes:
        bits |= 1 << index
    return bits


def opened_delivery(
    client_part: memoryview, delivered: Delivered
) -> tuple[EntryView, Meant]:
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


def check_size(messages: int | None) -> None:
    """Of a queue whose user chose it; raises InvalidArgument."""
    if messages is not None and not (
        isinstance(messages, int) and 1 <= messages <= MOST_MESSAGES
    ):
        raise InvalidArgument(
            f"receiver_queue_size is a number from 1 to {MOST_MESSAGES}, not {messages!r}")


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
        self._queues = 1
        self._entries: deque[ReceivedEntry] = deque()
        self.refuse: Refuse | None = None
        self._held: dict[Position, Held] = {}
        self.paused = False
        """No permits are given."""
        self._granted = 0
        """Permits given on this link and not used up by deliveries."""
        self._epoch = 0
        self._new_link = True
        self.count = 0
        """Messages ready to be handed out."""
        self.queued_bytes = 0
        """Content of the entries that have some."""
        self.last_handed_out: tuple[int, int, int] | None = None
        self.first_delivered: Position | None = None
        """Where delivery began, until something is handed out."""

    def add(self, delivered: Delivered, not_above: tuple[int, int, int] | None = None) -> None:
        """Take a delivery; raises InvalidFrame for bytes that are no entry.

        Messages up to `not_above` (ledger, entry, index) were handed out before.
        """
        _, client_part = parse_prefix(delivered.entry)
        view, meant = opened_delivery(client_part, delivered)
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
        if self.refuse is not None:
            meant = self.refuse(position, view, meant)
        if not meant:
            return
        if self.first_delivered is None:
            self.first_delivered = position
        self._follow_size(view)
        self._append(ReceivedEntry(
            self._topic_name, self._partition, *position, view, meant,
            delivered.redelivery_count, delivered.epoch))

    def _append(self, entry: ReceivedEntry) -> None:
        self._entries.append(entry)
        self.count += len(entry.meant)
        self.queued_bytes += entry.view.header.uncompressed_bytes

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
        if not self.count:
            return None
        entry = self._entries[0]
        if entry.next_index == len(entry.meant):
            entry = self._first()
        at = entry.next_index
        entry.next_index = at + 1
        self.count -= 1
        if entry.next_index == len(entry.meant):
            self._hand_out_rest(self._entries.popleft())
        return Message(entry, entry.meant[at])

    def pop_many(
        self, most: int, most_bytes: int | None = None, *, at_least_one: bool = True
    ) -> list[Message]:
        """Up to `most` messages; a limit in bytes still lets one through."""
        found: list[Message] = []
        while self.count and most > 0:
            entry = self._first()
            at, stop = entry.next_index, min(len(entry.meant), entry.next_index + most)
            if most_bytes is not None:
                fitting, most_bytes = _fitting(
                    entry, at, stop, most_bytes, at_least_one and not found)
                if fitting == at:
                    break
                stop = fitting
            found += [Message(entry, index) for index in entry.meant[at:stop]]
            entry.next_index = stop
            self.count -= stop - at
            most -= stop - at
            if stop == len(entry.meant):
                self._hand_out_rest(self._entries.popleft())
        return found

    def _first(self) -> ReceivedEntry:
        """The entry with the next message; there is one."""
        entry = self._entries[0]
        while entry.next_index == len(entry.meant):  # the rest of it was withdrawn
            self._hand_out_rest(self._entries.popleft())
            entry = self._entries[0]
        return entry

    def withdraw(self, entry: ReceivedEntry, bits: int) -> int:
        """Do not hand these messages out; answers with those that had not been."""
        at = entry.next_index
        left = [index for index in entry.meant[at:] if not bits >> index & 1]
        found = bits_of(entry.meant[at:]) & bits
        if found:
            entry.meant = [*entry.meant[:at], *left]
            self.count -= found.bit_count()
            self.given_back(entry.position, found)
        return found

    def withdraw_all(self) -> dict[Position, int]:
        """Do not hand out anything of what has come; answers with what that was."""
        found: dict[Position, int] = {}
        for entry in self._entries:
            if bits := self.withdraw(entry, -1):
                found[entry.position] = found.get(entry.position, 0) | bits
            self._hand_out_rest(entry)
        self._drop(lambda _: True)
        return found

    def in_hand(self) -> dict[Position, int]:
        """What was handed out and is neither durably acknowledged nor given back, once
        everything queued was withdrawn."""
        return {
            position: bits for position, held in self._held.items()
            if (bits := held.handed_out & ~held.given_back & ~held.acknowledged)
        }

    def share_window(self, queues: int, least: int) -> None:
        """This is one of so many queues that together fetch ahead what one would, but each has
        a window of at least so many messages."""
        if self._fixed_window is not None:
            self._window = max(self._fixed_window // queues, min(least, self._fixed_window))
        elif queues > self._queues:
            self._window = max(self._window * self._queues // queues, least)
        self._queues = queues

    def due_permits(self) -> int:
        """Permits to give now, or 0: they are given in bulk."""
        if self.paused:
            return 0
        due = self._window - self._granted - self.count
        if due * 4 < self._window:
            return 0
        self._granted += due
        return due

    @property
    def permits_due(self) -> bool:
        due = self._window - self._granted - self.count
        return due * 4 >= self._window and not self.paused

    @property
    def full_at(self) -> int:
        """With so many messages ready, more may never come before some are handed out."""
        return max(self._window * 3 // 4, 1)

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
        self.queued_bytes = sum(
            entry.view.header.uncompressed_bytes for entry in self._entries)
        self.count = sum(len(entry.meant) - entry.next_index for entry in self._entries)

    def _hold(self, position: Position, meant: Meant) -> Meant:
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
        self.queued_bytes -= entry.view.header.uncompressed_bytes
        if entry.next_index:
            self.last_handed_out = (*entry.position, entry.meant[entry.next_index - 1])
        self._mark_handed_out(entry)

    def _mark_handed_out(self, entry: ReceivedEntry) -> None:
        held = self._held.get(entry.position)
        if held is not None:
            held.handed_out |= bits_of(entry.meant[:entry.next_index])

    def _follow_size(self, view: EntryView) -> None:
        if self._fixed_window is None:
            size = (view.header.uncompressed_bytes + view.header.properties_bytes) // view.count
            window_bytes = max(WINDOW_BYTES // self._queues, SHARED_WINDOW_BYTES)
            largest = max(LARGEST_WINDOW // self._queues, SHARED_WINDOW)
            window = min(max(window_bytes // (size + 32), 1), largest)
            self._window = (self._window + window + 1) // 2


def _fitting(
    entry: ReceivedEntry, at: int, stop: int, most_bytes: int, one_in_any_case: bool
) -> tuple[int, int]:
    """Where to stop between `at` and `stop`, and how many bytes are left then."""
    for place in range(at, stop):
        size = entry.view.message_bytes(entry.meant[place])
        if size > most_bytes and not (one_in_any_case and place == at):
            return place, most_bytes
        most_bytes = max(most_bytes - size, 0)
    return stop, most_bytes
