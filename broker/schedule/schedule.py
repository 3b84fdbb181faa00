"""A topic's schedule at work: records into its ledgers, what is due into the topic's log.

The asyncio shell around `core`. Firing needs no task: it goes on whenever a record or a fired
entry is stored, and by a timer at the next due time. Few fired entries are in flight at a time,
and after one that had all that was due there is a pause, so that what becomes due meanwhile
collects in the next one.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Protocol, TypeVar

from broker.schedule.core import NOTHING, ScheduleCore, Taken
from broker.schedule.due import Due
from broker.schedule.interface import ScheduleAnswer, SchedulePage
from broker.schedule.lane import ScheduleLane
from broker.schedule.memory import ScheduleMemory
from broker.schedule.records import (
    BatchScheduled,
    Cancelled,
    Head,
    Moved,
    ScheduleRecord,
    Target,
    decode_schedule_record,
    encode_schedule_record,
)
from broker.schedule.requests import Requests
from broker.schedule.runs.blocks import Name
from broker.schedule.runs.loading import BlockLoader
from broker.schedule.runs.reader import RunReader
from broker.schedule.upkeep import Upkeep
from broker.settings import BrokerLimits
from broker.stored_entry import StoredEntry
from broker.topic_log import TopicLog
from ledger.position import Position
from ledger.schedule_runs import Covered
from magnetar.entry import EntryView, ScheduleMark, SchedulePlace, gather, parse_header
from magnetar.errors import (
    LedgerClosed,
    LedgerError,
    LedgerNotFound,
    MagnetarError,
    NotOwner,
)
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Buffer
from magnetar.waiters import Waiters

REPLAY_ENTRIES = 256
REPLAY_BYTES = 4 << 20
AHEAD_MS = 1_000
"""Blocks of runs are loaded so long before what is in them is due."""
LOOK_AHEAD_EVERY_MS = 50
LISTED_AT_ONCE = 1_000
"""Messages that are looked at in memory, and in each run, before those are sorted."""
SLEEP_MAX_S = 30.0
"""The wall clock is looked at again after so long at the latest: it may have been moved."""

OnRecorded = Callable[[Position], None]
Told = TypeVar("Told")


@dataclass(slots=True)
class ScheduleCounters:
    """What the schedules of a broker did, for the metrics. None of it counts as published."""

    scheduled_messages: int = 0
    fired_messages: int = 0
    fired_entries: int = 0
    cancelled_messages: int = 0
    moved_messages: int = 0


class ScheduleHost(Protocol):
    """What a schedule needs of its topic."""

    closing: bool

    def refuse_if_closing(self) -> None:
        """Raises NotOwner."""

    def something_stored(self) -> None:
        """Consumers may have something to receive."""

    def entry_stored(self, size_bytes: int) -> None:
        """Something was stored that a checkpoint should come to hold, and that makes room."""

    def release_producers(self) -> None:
        """Those that wait for room may look again."""

    def fail(self, error: MagnetarError) -> None:
        """The topic cannot go on."""


class Schedule:
    """See the module."""

    def __init__(
        self, host: ScheduleHost, log: TopicLog, lane: ScheduleLane, limits: BrokerLimits,
        clock: Clock, counters: ScheduleCounters, memory: ScheduleMemory,
    ) -> None:
        self._host = host
        self._log = log
        self._store = log.log.schedule
        self._lane = lane
        self._limits = limits
        self._clock = clock
        self._counters = counters
        self.core = ScheduleCore()
        self._firing = 0
        """Fired entries on their way into the log."""
        self._collects_until_s = 0.0
        """What becomes due before goes into one entry; by the monotonic clock."""
        self._timer: asyncio.Handle | None = None
        self._stopped = False
        self._something_stored = Waiters()
        self._requests = Requests(self)
        self._pauses = 0
        """Nothing new is fired while there are any."""
        self._look_ahead_ms = 0
        """When blocks of runs are looked for again."""
        self._memory = memory
        self._reader = RunReader(self._store.runs)
        self._loader = BlockLoader(self.core, self._reader, clock, self.fire)
        self._upkeep = Upkeep(
            self.core, self._store.runs, self._reader, clock, self._freeze,
            lambda: self._log.fired, self._oldest_ledger, self._changed, host.fail, limits,
        )

    # -- life ----------------------------------------------------------------------------------

    async def load(self) -> None:
        """Rebuild from the runs and the schedule's ledgers, after state and log were read: the
        log says how far it has the schedule. Raises what reading raises."""
        core, runs = self.core, self._store.runs
        covered = runs.covered
        core.resume(self._log.fired, self._lane.next_sequence, covered.sequence)
        await runs.drop_unfinished()
        for run in await asyncio.gather(
            *(self._reader.open(run, core.handed) for run in runs.finished)
        ):
            core.resume_run(run)
        after = min(covered.record, self._lane.position)
        while entries := await self._store.read_after(after, REPLAY_ENTRIES, REPLAY_BYTES):
            for entry in entries:
                after = entry.position
                self._replay(after, decode_schedule_record(entry.body), after > covered.record)
        self._lane.position = max(self._lane.position, after)
        self._lane.next_sequence = core.next_sequence

    def _replay(self, position: Position, record: ScheduleRecord, waits: bool) -> None:
        """`waits`: no run has what came in with it."""
        times_ms: Sequence[int] = ()
        if isinstance(record, BatchScheduled):
            header = parse_header(record.batch)
            self._lane.sources.replay(
                header.producer_name, header.first_sequence_id, header.last_sequence_id,
                position.ledger_id, position.entry_id,
            )
        if not isinstance(record, Cancelled):
            times_ms = EntryView(record.batch, verify=False).delivery_times_ms()
        if waits:
            self.core.replay(position.ledger_id, position.entry_id, record, times_ms)
        self.core.resume(NOTHING, record.head.first_sequence + len(times_ms), 0)

    def start(self) -> None:
        """Fire from now on."""
        self._stopped = False
        self._changed()

    def stop(self) -> None:
        """Fire no more; what is on its way goes on."""
        self._stopped = True
        self._disarm()
        self._loader.stop()
        self._upkeep.stop()
        self._memory.left(self)
        self._something_stored.wake()

    @property
    def blocked_reason(self) -> str | None:
        """Why nothing fires, for an operator; None when nothing is in the way."""
        return self._loader.blocked_reason or self._upkeep.blocked_reason

    @property
    def congested(self) -> bool:
        """Producers are to wait: too much is in memory, of all topics, and some of it here."""
        return self._memory.full and self.core.memory_bytes > 0

    def room_again(self) -> None:
        """Producers that wait may go on."""
        self._host.release_producers()

    @property
    def count(self) -> int:
        """Messages that wait to be due."""
        return self.core.count

    @property
    def next_due_ms(self) -> int | None:
        """When the first of them is due; None: none waits."""
        return self.core.next_due_ms

    @property
    def pending_bytes(self) -> int:
        """Bytes of records on their way to the bookies."""
        return self._store.pending_bytes

    @property
    def in_flight(self) -> bool:
        """Records or fired entries are on their way to the bookies."""
        return bool(self._store.pending_bytes or self._firing)

    # -- records -------------------------------------------------------------------------------

    def append(self, batch: Buffer, deliver_at_ms: Sequence[int], on_stored: OnRecorded) -> None:
        """Schedule a batch; `on_stored` gets its place, in the order of the calls. A failure
        closes the topic instead."""
        head = self._head()
        body = encode_schedule_record(BatchScheduled(head, batch))
        count = len(deliver_at_ms)
        self.core.admit(memoryview(body)[len(body) - len(batch):], deliver_at_ms)

        def stored(place: Position) -> None:
            self._counters.scheduled_messages += count
            on_stored(place)

        self._write(body, stored)

    def record_cancelled(self, targets: tuple[Target, ...]) -> asyncio.Future[None]:
        """Cancel messages that wait, from this call on: no task of its own, before whose turn
        they might fire. Done when that is durable, also when nobody waits for it any more; raises
        NotOwner when the topic closes before."""
        body = encode_schedule_record(Cancelled(self._head(), targets))
        self.core.cancel(targets)

        def stored() -> None:
            self._counters.cancelled_messages += len(targets)

        return self._written(body, stored)

    def record_moved(
        self, target: Target, batch: bytes, deliver_at_ms: int
    ) -> asyncio.Future[None]:
        """Move a message that waits, as `record_cancelled` does; `batch` holds it alone."""
        body = encode_schedule_record(Moved(self._head(), target, batch))
        self.core.move(target, memoryview(body)[len(body) - len(batch):], deliver_at_ms)

        def stored() -> None:
            self._counters.moved_messages += 1

        return self._written(body, stored)

    def _written(self, body: bytes, on_stored: Callable[[], None]) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def failed(error: MagnetarError) -> None:
            if not done.done():
                done.set_exception(NotOwner(
                    f"the topic closed, and whether this was done is unknown; ask again: {error}"
                ))

        def stored(_place: Position) -> None:
            on_stored()
            if not done.done():
                done.set_result(None)

        self._write(body, stored, failed)
        return done

    def _head(self) -> Head:
        core = self.core
        return Head(
            self._log.log.owner.epoch, self._clock.wall_ms(), core.next_sequence, core.floor_ms
        )

    def _write(
        self, body: bytes, on_stored: OnRecorded,
        on_failed: Callable[[MagnetarError], None] = lambda _error: None,
    ) -> None:
        def done(result: Position | LedgerError) -> None:
            if isinstance(result, LedgerError):
                on_failed(result)
                if not isinstance(result, LedgerClosed):
                    self._host.fail(result)
                return
            self.core.stored(result.ledger_id, result.entry_id)
            self._lane.position = result
            self._lane.next_sequence = max(self._lane.next_sequence, self.core.next_sequence)
            on_stored(result)
            self._host.entry_stored(len(body))
            self._memory.changed(self)
            self._something_stored.wake()
            self.fire()

        self._store.append(body, done)

    # -- what may be asked ---------------------------------------------------------------------

    async def cancel(self, places: Sequence[SchedulePlace]) -> list[ScheduleAnswer]:
        """See ScheduleAdministration."""
        return await self._requests.cancel(places)

    async def move(self, place: SchedulePlace, deliver_at_ms: int) -> ScheduleAnswer:
        """See ScheduleAdministration."""
        return await self._requests.move(place, deliver_at_ms)

    async def list(
        self, *, from_ms: int = 0, until_ms: int | None = None, limit: int = 100,
        cursor: str = "",
    ) -> SchedulePage:
        """See ScheduleAdministration."""
        return await self._requests.list(
            from_ms=from_ms, until_ms=until_ms, limit=limit, cursor=cursor
        )

    async def waiting(
        self, after: ScheduleMark, limit: int, tell: Callable[[ScheduleMark, Due], Told]
    ) -> Sequence[tuple[ScheduleMark, Told]]:
        """What `tell` says of the first that wait behind a mark, in memory and in runs, in order.
        They may be more than memory holds, so none is kept."""
        found: list[tuple[ScheduleMark, Told]] = []
        bound: ScheduleMark | None = after
        while bound is not None and len(found) < limit:
            after, core = bound, self.core
            some = min(limit - len(found), LISTED_AT_ONCE)
            in_memory = [
                (mark, tell(mark, due)) for mark, due in islice(core.waiting(after), some)
            ]
            runs = list(core.runs.values())
            try:
                in_runs, bound = await self._reader.waiting(
                    runs, max(after, core.handed), some, tell
                )
            except LedgerNotFound:
                if runs == list(core.runs.values()):
                    raise
            if runs != list(core.runs.values()):
                bound = after  # a flush or a merge changed them while they were read
                continue
            in_runs = [
                one for one in in_runs if one[0] > core.handed and not core.is_buried(one[0])
            ]
            if len(in_memory) == some:
                last = in_memory[-1][0]
                bound = last if bound is None else min(bound, last)
            merged = heapq.merge(in_memory, in_runs, key=lambda one: one[0])
            found += [one for one in merged if bound is None or one[0] <= bound]
        return found[:limit]

    async def name_in_runs(self, place: SchedulePlace) -> Name | None:
        """What the runs know of a message; None: nothing."""
        while True:
            runs = list(self.core.runs.values())
            try:
                name = await self._reader.find(runs, place)
            except LedgerNotFound:
                if runs == list(self.core.runs.values()):
                    raise
            else:
                if runs == list(self.core.runs.values()):
                    return name

    async def message_in_runs(self, mark: ScheduleMark) -> Due | None:
        """The message under a mark; None: it is not there, or not any more."""
        try:
            return await self._reader.message(list(self.core.runs.values()), mark)
        except LedgerNotFound:
            return None

    async def entry_at(self, position: Position) -> bytes | None:
        """A record of the ledgers that are kept; None: there is no such one."""
        return await self._store.entry_at(position)

    # -- freeing -------------------------------------------------------------------------------

    async def maintain(self) -> None:
        """Keep small what lies on the bookies: begin to write a run when little of the ledgers is
        needed, drop what nobody needs, as far as the last checkpoint knows what was in it. Raises
        LedgerFenced."""
        await self._upkeep.tidy()
        waits_bytes = self.core.memory_bytes
        enough_bytes = self._limits.schedule_ledger_bytes + 2 * waits_bytes
        if waits_bytes and self._store.size_bytes > enough_bytes:
            self.reduce()
        await self.free()
        if not self.core.count and self.core.memory_bytes:
            self.reduce()  # only a run can free the ledgers of what was cancelled in runs

    async def free(self) -> None:
        """Delete the ledgers that nobody needs. Raises LedgerFenced."""
        if self.core.oldest is None and not self._store.pending_bytes:
            await self._store.roll()
        async with self._quiet():
            unneeded = min(self._lane.durable_position, self._before(self.core.oldest))
            oldest = self.core.oldest_needed(self._store.oldest_behind(unneeded))
            unneeded = min(unneeded, self._before(oldest))
        if await self._store.trim(unneeded):
            oldest_ledger = self._oldest_ledger()
            self.core.history.forget(lambda place: self.core.is_needed(place, oldest_ledger))

    def _oldest_ledger(self) -> int:
        """The first of the schedule's ledgers that is kept, or will be."""
        kept = self._store.ledger_ids
        return kept[0] if kept else self._lane.position.ledger_id + 1

    def _before(self, record: tuple[int, int] | None) -> Position:
        """The place before a record; None: the end of all that is stored."""
        if record is None:
            return self._lane.position
        return Position(LedgerId(record[0]), EntryId(record[1] - 1))

    # -- memory --------------------------------------------------------------------------------

    @property
    def memory_bytes(self) -> int:
        """Of what waits in memory."""
        return self.core.memory_bytes

    @property
    def is_reducing(self) -> bool:
        """It writes what waited in memory to a run, or cannot any more."""
        return self._upkeep.is_flushing or self._stopped

    def reduce(self) -> None:
        """Write what waits in memory to a run, soon."""
        self._upkeep.flush()

    async def _freeze(self) -> Covered:
        async with self._quiet():
            self.core.freeze()
            return Covered(self._lane.position, self.core.stored_sequence)

    @asynccontextmanager
    async def _quiet(self) -> AsyncIterator[None]:
        """While all that the log was given is durable there: what left the memory of the schedule
        and is not yet there is nowhere else but in records. Not to be awaited within."""
        self._pauses += 1
        try:
            while self._firing:
                await self.until_something_is_stored()
            yield
        finally:
            self._pauses -= 1
            self.fire()

    def _changed(self) -> None:
        """Runs, or what waits in memory, are not what they were."""
        if not self._stopped:
            self._memory.changed(self)
            self._look_ahead_ms = 0
            self.fire()

    # -- firing --------------------------------------------------------------------------------

    def fire(self) -> None:
        """Give one entry of what is due to the log, if anything is; then see when to go on."""
        self._disarm()
        if self._stopped or self._host.closing:
            return
        now_ms = self._clock.wall_ms()
        if self.core.runs and now_ms >= self._look_ahead_ms:
            self._look_ahead_ms = now_ms + LOOK_AHEAD_EVERY_MS
            self._loader.load(now_ms + AHEAD_MS)
        if not self._is_busy and self._clock.monotonic_s() >= self._collects_until_s:
            taken = self.core.take(
                now_ms, self._limits.schedule_entry_messages, self._limits.schedule_entry_bytes
            )
            if taken is not None:
                self._append(taken)
                self._collect(now_ms)
        self._arm()

    def _collect(self, now_ms: int) -> None:
        """An entry costs about the same whatever is in it: once nothing more is due, wait for
        more. What is still due goes at once."""
        due_ms = self.core.next_due_ms
        if due_ms is None or due_ms > now_ms:
            pause_s = self._limits.schedule_entry_pause_ms / 1000
            self._collects_until_s = self._clock.monotonic_s() + pause_s

    @property
    def _is_busy(self) -> bool:
        return self._pauses > 0 or self._firing >= self._limits.schedule_entries_in_flight

    def _append(self, taken: Taken) -> None:
        batch = gather(
            [(due.view, due.batch_index) for due in taken.messages],
            [due.place for due in taken.messages],
        )
        self._firing += 1

        def stored(result: StoredEntry | MagnetarError) -> None:
            self._fired(taken, result)

        self._log.append(batch, len(taken.messages), stored, taken.mark)

    def _fired(self, taken: Taken, result: StoredEntry | MagnetarError) -> None:
        self._firing -= 1
        if isinstance(result, MagnetarError):
            self._host.fail(result)
            return
        counters = self._counters
        counters.fired_messages += len(taken.messages)
        counters.fired_entries += 1
        self._host.entry_stored(len(result.body))
        self._host.something_stored()
        self._memory.changed(self)
        self._something_stored.wake()
        self.fire()

    def _arm(self) -> None:
        """Go on at the next due time; what waits for something in flight goes on with that, and
        what waits for a block with the block."""
        core, loop = self.core, asyncio.get_running_loop()
        due_ms, now_ms = core.next_due_ms, self._clock.wall_ms()
        if due_ms is None or core.held_back or self._is_busy:
            return
        if core.is_ready:
            collects_ms = (self._collects_until_s - self._clock.monotonic_s()) * 1000
            wait_ms = max(due_ms - now_ms, ceil(collects_ms))
        else:
            wait_ms = due_ms - AHEAD_MS - now_ms
            if wait_ms <= 0:
                self._loader.load(now_ms + AHEAD_MS)
                return
        if wait_ms <= 0:
            self._timer = loop.call_soon(self.fire)
            return
        if core.runs and wait_ms > LOOK_AHEAD_EVERY_MS:
            wait_ms = max(wait_ms - AHEAD_MS, LOOK_AHEAD_EVERY_MS)
        self._timer = loop.call_later(min(wait_ms / 1000, SLEEP_MAX_S), self.fire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def refuse_if_closing(self) -> None:
        """Raises NotOwner."""
        self._host.refuse_if_closing()

    # -- waiting -------------------------------------------------------------------------------

    @property
    def fired(self) -> ScheduleMark:
        """As far as the log durably has the schedule."""
        return self._log.fired

    async def until_something_is_stored(self) -> None:
        """A record, or a fired entry; raises NotOwner when the topic closes."""
        self._host.refuse_if_closing()
        await self._something_stored.wait()
        self._host.refuse_if_closing()
