"""A topic's log in terms of messages: ordinals, append times, and where both are found."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from broker.conversation import MessagePosition
from broker.log_index import LogIndex
from broker.memory_log import AnyLog
from broker.stored_entry import StoredEntry, parse_stored
from broker.tail_cache import TailCache
from ledger.log_entry import LogEntry
from ledger.position import BEFORE_FIRST, Position
from magnetar.entry import Prefix, ScheduleMark, encode_prefix
from magnetar.errors import (
    EntryNotFound,
    InvalidArgument,
    LedgerError,
    LedgerNotFound,
    MagnetarError,
)
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Buffer

OnStored = Callable[[StoredEntry | MagnetarError], None]


class _Appended(NamedTuple):
    """On its way to the bookies."""

    first_ordinal: int
    messages: int
    append_time_ms: int
    body: bytes
    on_stored: OnStored
    mark: ScheduleMark | None


class TopicLog:
    """Appends batches under the broker's prefix and finds entries by ordinal and by time.

    `next_ordinal` is the one the next append takes, `end_ordinal` the one after the last
    confirmed message: consumers never see beyond it.
    """

    def __init__(self, log: AnyLog, cache: TailCache, clock: Clock) -> None:
        self.log = log
        self._cache = cache
        self._clock = clock
        self._epoch = log.owner.epoch
        self._pending: deque[_Appended] = deque()
        self.next_ordinal = 0
        self.end_ordinal = 0
        self.append_time_ms = 0
        self.fired = ScheduleMark(-1, -1)
        """How far the schedule is in what is confirmed."""
        self.pending_bytes = 0
        self.appended_bytes = 0
        """Of all that was appended here, stored or not."""
        self.index = LogIndex(log)

    @property
    def last_position(self) -> Position:
        """The last confirmed entry; (-1, -1) while there is none."""
        return self.log.last_confirmed

    @property
    def pending_entries(self) -> int:
        return len(self._pending)

    def resume(
        self, next_ordinal: int, append_time_ms: int, mark: ScheduleMark | None = None
    ) -> None:
        """Go on from what a checkpoint and the entries after it say."""
        if mark is not None:
            self.fired = max(self.fired, mark)
        self.next_ordinal = self.end_ordinal = max(self.next_ordinal, next_ordinal)
        self.append_time_ms = max(self.append_time_ms, append_time_ms)
        self.index.end_ordinal = self.end_ordinal

    def learn_lengths(self) -> None:
        """What was read back tells how long the ledgers are that the last owner left open."""
        for info in self.log.record.ledgers:
            known = self.index.told_of(info.ledger_id)
            if known is not None and self.index.is_whole(info):
                self.log.learn_bytes(info.ledger_id, known[1])

    def append(
        self, batch: Buffer, count: int, on_stored: OnStored, mark: ScheduleMark | None = None
    ) -> None:
        """Append one batch; `on_stored` is called in the order of the appends. With a `mark` it
        is what the schedule fires up to there.

        The append time never falls, also when the clock does or an owner with a slower one
        takes over.
        """
        now_ms = self._clock.wall_ms()
        if now_ms > self.append_time_ms:
            self.append_time_ms = now_ms
        first = self.next_ordinal
        prefix = Prefix(self._epoch, self.append_time_ms, first, mark=mark)
        body = encode_prefix(prefix) + batch
        self.next_ordinal = first + count
        self.pending_bytes += len(body)
        self.appended_bytes += len(body)
        self.log.last_append_ms = self.append_time_ms
        self._pending.append(
            _Appended(first, count, self.append_time_ms, body, on_stored, mark)
        )
        self.log.append(body, self._appended)

    def _appended(self, result: Position | LedgerError) -> None:
        first, count, append_time_ms, body, on_stored, mark = self._pending.popleft()
        self.pending_bytes -= len(body)
        if isinstance(result, MagnetarError):
            on_stored(result)
            return
        entry = StoredEntry(
            result.ledger_id, result.entry_id, first, count, append_time_ms, body
        )
        assert first == self.end_ordinal, "receipts follow the order of the log"
        self.end_ordinal = first + count
        self.index.stored(
            result.ledger_id, result.entry_id, first, self.end_ordinal, len(body)
        )
        if mark is not None:
            self.fired = mark
        self._cache.put(entry)
        on_stored(entry)

    def cached(self, ledger_id: int, entry_id: int) -> StoredEntry | None:
        """The entry, if it is among the newest."""
        return self._cache.get(ledger_id, entry_id)

    async def read(self, after: Position, max_entries: int, max_bytes: int) -> list[StoredEntry]:
        """The confirmed entries after `after`, at least one if there is any."""
        found = await self.read_bodies(after, max_entries, max_bytes)
        return [parse_stored(entry.position, entry.body) for entry in found]

    async def read_bodies(
        self, after: Position, max_entries: int, max_bytes: int
    ) -> list[LogEntry]:
        """As `read`, not parsed."""
        start = max(
            Position(after.ledger_id, EntryId(after.entry_id + 1)), self.log.first_position
        )
        if start > self.log.last_confirmed:
            return []
        return await self.log.read(start, max_entries, max_bytes)

    async def entry_at(self, ledger_id: int, entry_id: int) -> StoredEntry:
        """The entry a client named. Raises InvalidArgument when this topic has no such entry:
        the ledger is looked for in the topic's own list before anything is read."""
        cached = self._cache.get(ledger_id, entry_id)
        if not self.has_ledger(ledger_id):
            raise InvalidArgument(f"{ledger_id}:{entry_id} is no message of this topic")
        if cached is not None:
            return cached
        wanted = Position(LedgerId(ledger_id), EntryId(entry_id))
        if entry_id >= 0 and wanted <= self.log.last_confirmed:
            found = await self.log.read(wanted, 1, 1)
            if found and found[0].position == wanted:
                return parse_stored(wanted, found[0].body)
        raise InvalidArgument(f"{ledger_id}:{entry_id} is no message of this topic")

    async def last_message(self) -> MessagePosition | None:
        """The newest message; None in an empty topic."""
        last = self.last_position
        if last.entry_id < 0 or not self.has_ledger(last.ledger_id):
            return None
        entry = await self.entry_at(last.ledger_id, last.entry_id)
        return MessagePosition(entry.ledger_id, entry.entry_id, entry.count - 1)

    def has_ledger(self, ledger_id: int) -> bool:
        return any(info.ledger_id == ledger_id for info in self.log.record.ledgers)

    def was_trimmed(self, ledger_id: int) -> bool:
        """The ledger may once have been this topic's: it is below all that it has now."""
        ledgers = self.log.record.ledgers
        return ledger_id < (ledgers[0].ledger_id if ledgers else self.log.record.last_ledger_id + 1)

    async def before_ordinal(self, ordinal: int) -> Position:
        """The position after which the entry holding `ordinal`, or the first later one, comes."""
        if ordinal >= self.end_ordinal:
            return self.last_position
        return await self._before(lambda entry: entry.end_ordinal <= ordinal)

    async def before_time(self, time_ms: int) -> Position:
        """The position after which the first entry appended at or after `time_ms` comes."""
        return await self._before(lambda entry: entry.append_time_ms < time_ms)

    async def ordinal_after(self, position: Position) -> int:
        """The first ordinal of what comes after `position`."""
        found = await self.read(position, 1, 1)
        return found[0].first_ordinal if found else self.end_ordinal

    async def first_ordinal_of(self, ledger_id: LedgerId) -> int | None:
        """The ordinal of a ledger's first message; None while it has none."""
        known = self.index.first_ordinal_of(ledger_id)
        if known is None:
            entry = await self._entry(ledger_id, 0)
            if entry is None:
                return None
            known = entry.first_ordinal
            self.index.begins(ledger_id, known)
        return known

    def forget_ledgers(self) -> None:
        """Drop what is remembered of ledgers that are trimmed."""
        self.index.forget(info.ledger_id for info in self.log.record.ledgers)

    async def _before(self, earlier: Callable[[StoredEntry], bool]) -> Position:
        """Before the first entry that is not `earlier`; entries that are come first."""
        while True:
            trimmed = self.log.record.trimmed_ledgers
            try:
                return await self._bisect(earlier)
            except (LedgerNotFound, EntryNotFound):
                if self.log.record.trimmed_ledgers == trimmed:
                    raise

    async def _bisect(self, earlier: Callable[[StoredEntry], bool]) -> Position:
        sizes = [
            (info.ledger_id, size)
            for info in self.log.record.ledgers
            if (size := self._entries_of(info.ledger_id, info.entries)) > 0
        ]
        low, high = 0, len(sizes)
        while low < high:
            middle = (low + high) // 2
            first = await self._entry(sizes[middle][0], 0)
            if first is not None and earlier(first):
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return BEFORE_FIRST
        ledger_id, size = sizes[low - 1]
        low, high = 1, size
        while low < high:
            middle = (low + high) // 2
            entry = await self._entry(ledger_id, middle)
            if entry is not None and earlier(entry):
                low = middle + 1
            else:
                high = middle
        return Position(LedgerId(ledger_id), EntryId(low - 1))

    def _entries_of(self, ledger_id: int, closed_entries: int) -> int:
        last = self.log.last_confirmed
        if ledger_id == last.ledger_id:
            return last.entry_id + 1
        return max(closed_entries, 0)

    async def _entry(self, ledger_id: int, entry_id: int) -> StoredEntry | None:
        cached = self._cache.get(ledger_id, entry_id)
        if cached is not None:
            return cached
        wanted = Position(LedgerId(ledger_id), EntryId(entry_id))
        if wanted > self.log.last_confirmed:
            return None
        found = await self.log.read(wanted, 1, 1)
        if not found or found[0].position != wanted:
            return None
        return parse_stored(wanted, found[0].body)
