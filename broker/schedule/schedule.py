"""A topic's schedule at work: records into its ledgers, what is due into the topic's log.

The asyncio shell around `core`. Firing needs no task: it goes on whenever a record or a fired
entry is stored, and by a timer at the next due time. Few fired entries are in flight at a time,
so that what becomes due meanwhile collects in the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.schedule.core import ScheduleCore, Taken
from broker.schedule.interface import ScheduleAnswer, SchedulePage
from broker.schedule.lane import ScheduleLane
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
from broker.settings import BrokerLimits
from broker.stored_entry import StoredEntry
from broker.topic_log import TopicLog
from ledger.position import BEFORE_FIRST, Position
from magnetar.entry import EntryView, ScheduleMark, SchedulePlace, gather, parse_header
from magnetar.errors import LedgerClosed, LedgerError, MagnetarError, NotOwner
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Buffer

REPLAY_ENTRIES = 256
REPLAY_BYTES = 4 << 20
SLEEP_MAX_S = 30.0
"""The wall clock is looked at again after so long at the latest: it may have been moved."""

OnRecorded = Callable[[Position], None]


@dataclass(slots=True)
class ScheduleCounters:
    """What the schedules of a broker did, for the metrics."""

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
        """Something was stored that a checkpoint should come to hold."""

    def fail(self, error: MagnetarError) -> None:
        """The topic cannot go on."""


class Schedule:
    """See the module."""

    def __init__(
        self, host: ScheduleHost, log: TopicLog, lane: ScheduleLane, limits: BrokerLimits,
        clock: Clock, counters: ScheduleCounters,
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
        self._timer: asyncio.Handle | None = None
        self._stopped = False
        self._waiters: list[asyncio.Future[None]] = []
        self._requests = Requests(self)

    # -- life ----------------------------------------------------------------------------------

    async def load(self) -> None:
        """Rebuild from the schedule's ledgers, after state and log were read: the log says how
        far it has the schedule. Raises what reading raises."""
        self.core.resume(self._log.fired, self._lane.next_sequence)
        after = BEFORE_FIRST
        while entries := await self._store.read_after(after, REPLAY_ENTRIES, REPLAY_BYTES):
            for entry in entries:
                after = entry.position
                self._replay(after, decode_schedule_record(entry.body))
        self._lane.position = max(self._lane.position, after)
        self._lane.next_sequence = self.core.next_sequence

    def _replay(self, position: Position, record: ScheduleRecord) -> None:
        times_ms: Sequence[int] = ()
        if isinstance(record, BatchScheduled):
            header = parse_header(record.batch)
            self._lane.sources.replay(
                header.producer_name, header.first_sequence_id, header.last_sequence_id,
                position.ledger_id, position.entry_id,
            )
        if not isinstance(record, Cancelled):
            times_ms = EntryView(record.batch, verify=False).delivery_times_ms()
        self.core.replay(position.ledger_id, position.entry_id, record, times_ms)

    def start(self) -> None:
        """Fire from now on."""
        self._stopped = False
        self.fire()

    def stop(self) -> None:
        """Fire no more; what is on its way goes on."""
        self._stopped = True
        self._disarm()
        self._wake()

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

    async def record_cancelled(self, targets: tuple[Target, ...]) -> None:
        """Cancel messages that wait, durably. Once begun it is done, also when nobody waits for
        it any more; raises NotOwner when the topic closes before."""
        body = encode_schedule_record(Cancelled(self._head(), targets))
        self.core.cancel(targets)
        await self._written(body)
        self._counters.cancelled_messages += len(targets)

    async def record_moved(self, target: Target, batch: bytes, deliver_at_ms: int) -> None:
        """Move a message that waits, as `record_cancelled` does; `batch` holds it alone."""
        body = encode_schedule_record(Moved(self._head(), target, batch))
        self.core.move(target, memoryview(body)[len(body) - len(batch):], deliver_at_ms)
        await self._written(body)
        self._counters.moved_messages += 1

    async def _written(self, body: bytes) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def failed(error: MagnetarError) -> None:
            if not done.done():
                done.set_exception(NotOwner(
                    f"the topic closed, and whether this was done is unknown; ask again: {error}"
                ))

        def stored(_place: Position) -> None:
            if not done.done():
                done.set_result(None)

        self._write(body, stored, failed)
        await done

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
            self._wake()
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

    async def entry_at(self, position: Position) -> bytes | None:
        """A record of the ledgers that are kept; None: there is no such one."""
        return await self._store.entry_at(position)

    # -- freeing -------------------------------------------------------------------------------

    async def free(self) -> None:
        """Delete the ledgers of which nothing waits, as far as the last checkpoint knows what
        was in them. Raises LedgerFenced."""
        if self.core.count == 0 and not self._store.pending_bytes:
            await self._store.roll()
        unneeded = min(self._lane.durable_position, self._before_oldest())
        if await self._store.trim(unneeded):
            kept = self._store.ledger_ids
            if kept:
                self.core.forget_before(kept[0])

    def _before_oldest(self) -> Position:
        """Nothing waits in records up to here."""
        oldest = self.core.oldest
        if oldest is None:
            return self._lane.position
        ledger_id, entry_id = oldest
        return Position(LedgerId(ledger_id), EntryId(entry_id - 1))

    # -- firing --------------------------------------------------------------------------------

    def fire(self) -> None:
        """Give one entry of what is due to the log, if anything is; then see when to go on."""
        self._disarm()
        if self._stopped or self._host.closing:
            return
        if self._firing < self._limits.schedule_entries_in_flight:
            taken = self.core.take(
                self._clock.wall_ms(), self._limits.schedule_entry_messages,
                self._limits.schedule_entry_bytes,
            )
            if taken is not None:
                self._append(taken)
        self._arm()

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
        self._wake()
        self.fire()

    def _arm(self) -> None:
        """Go on at the next due time; what waits for something in flight goes on with that."""
        core = self.core
        due_ms = core.next_due_ms
        if due_ms is None or core.held_back:
            return
        if self._firing >= self._limits.schedule_entries_in_flight:
            return
        loop = asyncio.get_running_loop()
        wait_s = (due_ms - self._clock.wall_ms()) / 1000
        if wait_s <= 0:
            self._timer = loop.call_soon(self.fire)
        else:
            self._timer = loop.call_later(min(wait_s, SLEEP_MAX_S), self.fire)

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
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter
        self._host.refuse_if_closing()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
