"""A topic's log in memory: what `ledger.managed_log` is for one on bookies, with nothing durable.

Entries stand in segments, which take the place of ledgers: the same positions, the same list in a
record, so that all that is built on a log works on it. An append is confirmed before it returns.
The oldest segments can be dropped at any time, and everything goes with the topic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from broker.schedule.runs.store import RunSink
from ledger.chain import OnAppended
from ledger.log_entry import LogEntry
from ledger.log_positions import UNKNOWN_ENTRIES, LogPositions
from ledger.managed_log import LogPolicy, ManagedLog
from ledger.position import BEFORE_FIRST, Position
from ledger.schedule_runs import Covered
from magnetar.errors import (
    LedgerClosed,
    LedgerError,
    LedgerFenced,
    LedgerNotFound,
    NotSupported,
)
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import Clock
from metadata.topics import LedgerInfo, Owner, ScheduleRun, TopicRecord

ENTRY_OVERHEAD_BYTES = 48
"""What an entry costs beside its body; without it many tiny ones would exceed the bounds."""


@dataclass(slots=True)
class _Segment:
    ledger_id: LedgerId
    entries: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def held_bytes(self) -> int:
        return self.size_bytes + len(self.entries) * ENTRY_OVERHEAD_BYTES


class MemoryState:
    """Remembers nothing: the topic's state lives as long as the topic."""

    size_bytes = 0
    blocked_reason: str | None = None

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._written = 0

    async def replay(self) -> list[bytes]:
        """Nothing is left of another owner's."""
        return []

    def append(self, record: bytes, on_done: OnAppended) -> None:
        """Done in the next turn of the loop."""
        self._written += 1
        error = self._log.error
        done = Position(LedgerId(0), EntryId(self._written)) if error is None else error
        asyncio.get_running_loop().call_soon(on_done, done)

    async def compact(self, snapshot_records: Sequence[bytes]) -> None:
        """There is nothing to replace."""


class NoRuns:
    """Of a schedule that is always empty."""

    finished: tuple[ScheduleRun, ...] = ()
    covered = Covered(BEFORE_FIRST, 0)

    async def begin(self) -> RunSink:
        """Raises NotSupported; there is never anything to write."""
        raise NotSupported("a non-persistent topic delays no messages")

    async def drop(self, ledger_ids: Sequence[LedgerId]) -> None:
        """There is nothing to drop."""

    async def drop_unfinished(self) -> None:
        """There is nothing to drop."""

    async def read(
        self, ledger_id: LedgerId, first: int, max_entries: int, max_bytes: int
    ) -> list[bytes]:
        """Raises LedgerNotFound."""
        raise LedgerNotFound(f"a non-persistent topic has no run {ledger_id}")


class MemorySchedule:
    """Always empty: what waits for its time is to be durable."""

    ledger_ids: tuple[LedgerId, ...] = ()
    pending_bytes = size_bytes = 0
    blocked_reason: str | None = None

    def __init__(self) -> None:
        self.runs = NoRuns()

    def append(self, record: bytes, on_done: OnAppended) -> None:
        """Raises NotSupported; publishing asks before it comes to that."""
        raise NotSupported("a non-persistent topic delays no messages")

    async def roll(self) -> None:
        """There is nothing to end."""

    async def trim(self, last_unneeded: Position) -> int:
        """There is nothing to free."""
        return 0

    def oldest_behind(self, last_unneeded: Position) -> int:
        """The first ledger that there could be."""
        return last_unneeded.ledger_id + 1

    async def read_after(
        self, after: Position, max_entries: int, max_bytes: int
    ) -> list[LogEntry]:
        """There is nothing to read."""
        return []

    async def entry_at(self, position: Position) -> bytes | None:
        """There is no entry."""
        return None


class MemoryLog(LogPositions):
    """See the module. `on_segment` is called when a segment begins; `added` is told the bytes of
    memory that were taken, or given back if below 0."""

    persistent: ClassVar[bool] = False
    doomed_ledgers: ClassVar[tuple[LedgerId, ...]] = ()
    pending_bytes = 0
    blocked_reason: str | None = None

    def __init__(
        self, name: str, owner: Owner, first_ledger_id: LedgerId, segment_bytes: int,
        clock: Clock, policy: LogPolicy, on_segment: Callable[[], None],
        added: Callable[[int], None],
    ) -> None:
        self.owner = owner
        self.policy = policy
        self._record = TopicRecord(name, owner, created_ms=clock.wall_ms())
        self._next_ledger_id = first_ledger_id
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._on_segment = on_segment
        self._added = added
        self._segments: dict[LedgerId, _Segment] = {}
        self._open: _Segment | None = None
        self.held_bytes = 0
        """Memory that the entries take."""
        self.error: LedgerError | None = None
        """Why nothing is appended any more."""
        self.last_confirmed = BEFORE_FIRST
        self.last_append_ms = 0
        self.state = MemoryState(self)
        self.schedule = MemorySchedule()

    # -- what is known -------------------------------------------------------------------------

    @property
    def record(self) -> TopicRecord:
        """As a durable log's, but for what is durable."""
        return self._record

    def bytes_of(self, info: LedgerInfo) -> int:
        """Bytes of a segment's entries; 0 of one that is gone."""
        segment = self._segments.get(info.ledger_id)
        return 0 if segment is None else segment.size_bytes

    def note_first_ordinal(self, ledger_id: LedgerId, ordinal: int) -> None:
        """Of a segment; whoever asks remembers it."""

    def learn_bytes(self, ledger_id: LedgerId, size_bytes: int) -> None:
        """They are known already."""

    # -- writing -------------------------------------------------------------------------------

    def append(self, body: bytes, on_done: OnAppended) -> None:
        """Append in order; `on_done` gets the position at once. After the end of the topic it
        gets LedgerClosed or LedgerFenced, in the next turn of the loop."""
        if self.error is not None:
            asyncio.get_running_loop().call_soon(on_done, self.error)
            return
        segment = self._open or self._begin()
        segment.entries.append(body)
        segment.size_bytes += len(body)
        held_bytes = len(body) + ENTRY_OVERHEAD_BYTES
        self.held_bytes += held_bytes
        position = Position(segment.ledger_id, EntryId(len(segment.entries) - 1))
        self.last_confirmed = position
        if segment.held_bytes >= self._segment_bytes:
            self._end()
        self._added(held_bytes)
        on_done(position)

    def _begin(self) -> _Segment:
        segment = self._open = _Segment(self._next_ledger_id)
        self._next_ledger_id = LedgerId(segment.ledger_id + 1)
        self._segments[segment.ledger_id] = segment
        self._record = replace(
            self._record, ledgers=(*self._record.ledgers, LedgerInfo(segment.ledger_id)),
            last_ledger_id=segment.ledger_id,
        )
        self._on_segment()
        return segment

    def _end(self) -> None:
        segment, self._open = self._open, None
        if segment is None:
            return
        ended = LedgerInfo(
            segment.ledger_id, len(segment.entries), segment.size_bytes,
            closed_ms=self._clock.wall_ms(), last_append_ms=self.last_append_ms,
        )
        self._record = replace(self._record, ledgers=(*self._record.ledgers[:-1], ended))

    async def roll(self) -> None:
        """The next append begins a segment."""
        self._end()

    async def trim(self, keep_from: Position) -> int:
        """Drop the closed segments whose entries all lie before `keep_from`; answers how many."""
        count = 0
        for info in self._record.ledgers:
            end = Position(info.ledger_id, EntryId(info.entries))
            if info.entries == UNKNOWN_ENTRIES or end > keep_from:
                break
            count += 1
        self._drop(count)
        return count

    def drop_oldest(self) -> bool:
        """Drop the oldest segment, also the one being written; False when there is none."""
        if not self._record.ledgers:
            return False
        if self._record.ledgers[0].entries == UNKNOWN_ENTRIES:
            self._end()
        self._drop(1)
        return True

    def _drop(self, count: int) -> None:
        gone = self._record.ledgers[:count]
        if not gone:
            return
        self._record = replace(
            self._record, ledgers=self._record.ledgers[count:],
            trimmed_ledgers=self._record.trimmed_ledgers + count,
        )
        freed_bytes = sum(self._segments.pop(info.ledger_id).held_bytes for info in gone)
        self.held_bytes -= freed_bytes
        self._added(-freed_bytes)

    async def tidy(self) -> None:
        """Nothing is left to be written down."""

    async def terminate(self) -> None:
        """Raises NotSupported."""
        raise NotSupported(f"{self._record.name} is not persistent: nothing would keep its end")

    async def mark_deleting(self) -> None:
        """Raises NotSupported."""
        raise NotSupported(f"{self._record.name} is not persistent: it ends with its last user")

    async def close(self) -> None:
        """Take no more appends; what is kept can be read until the topic is abandoned."""
        self.error = self.error or LedgerClosed(f"{self._record.name} is closed")

    def abandon(self, reason: str) -> None:
        """Forget everything."""
        self.error = LedgerFenced(f"{self._record.name} is given up: {reason}")
        self._end()
        self._drop(len(self._record.ledgers))

    # -- reading -------------------------------------------------------------------------------

    async def read(self, start: Position, max_entries: int, max_bytes: int) -> list[LogEntry]:
        """Entries from `start` on, within the bounds but at least one if there is any; goes
        across segments; [] at the end. `start` may be dropped."""
        found: list[LogEntry] = []
        size_bytes = 0
        position = self.resolve(start)
        while position <= self.last_confirmed and len(found) < max_entries:
            segment = self._segments.get(position.ledger_id)
            if segment is None:
                break  # everything is dropped
            for number in range(position.entry_id, len(segment.entries)):
                if found and (len(found) >= max_entries or size_bytes >= max_bytes):
                    return found
                body = segment.entries[number]
                found.append(LogEntry(Position(segment.ledger_id, EntryId(number)), body))
                size_bytes += len(body)
            following = self.position_after(found[-1].position)
            if following.ledger_id == position.ledger_id:
                break
            position = following
        return found


AnyLog = ManagedLog | MemoryLog
"""What a topic may be built on."""
