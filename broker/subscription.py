"""A subscription: its cursor, its consumers, and the durability of its acknowledgements.

Acknowledgements change the cursor at once, so that nothing acknowledged is sent again, and are
answered when their delta is on Qa bookies. What comes while a delta is being written goes into
the next one. Trimming looks at the durable floor only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol

from broker.backlog_expiry import BacklogExpiry
from broker.consumer_session import ConsumerSession, OnDone
from broker.conversation import (
    InitialPosition,
    MessagePosition,
    OnDeliveries,
    OnEnded,
)
from broker.cursor import Cursor, OrdinalBitmap, full_mask
from broker.dead_letter_port import DeadLetters
from broker.dispatcher import Dispatcher
from broker.expiry import Expiry
from broker.redelivery import RedeliveryCounts
from broker.selector import MessageFilter
from broker.settings import BrokerLimits
from broker.state_records import (
    Acknowledged,
    CursorReset,
    FilterSet,
    ForwardPlanned,
    Redelivered,
    StateRecord,
    SubscriptionCreated,
    SubscriptionKind,
)
from broker.stored_entry import StoredEntry
from broker.subscription_filter import SubscriptionFilter
from broker.topic_log import TopicLog
from ledger.position import Position
from magnetar.dead_letter import default_dead_letter_topic
from magnetar.errors import ConsumerBusy, InvalidArgument, MagnetarError
from magnetar.runtime.clock import Clock
from magnetar.topic import TopicName
from tenants.policies import TopicPolicies


class SubscriptionHost(Protocol):
    """What a subscription needs of its topic."""

    policies: TopicPolicies

    @property
    def name(self) -> str: ...

    @property
    def dead_letters(self) -> DeadLetters: ...

    def write_state(
        self, record: StateRecord, on_done: Callable[[MagnetarError | None], None]
    ) -> None:
        """Append to the state ledger; a failure closes the topic."""

    def may_dispatch_exclusively(self) -> bool: ...

    async def delete_subscription(self, name: str) -> None: ...

    def acknowledged(self, subscription: Subscription) -> None:
        """Its position moved, durably."""

    def subscription_idle(self, subscription: Subscription) -> None:
        """Its last consumer left."""

    def next_consumer_id(self) -> int: ...


class Subscription:
    """`durable` ones survive in the state ledger; a reader's has an empty name and one consumer.
    """

    def __init__(
        self, host: SubscriptionHost, log: TopicLog, name: str, kind: SubscriptionKind,
        durable: bool, floor: int, created_ms: int, limits: BrokerLimits, clock: Clock,
    ) -> None:
        self._host = host
        self._log = log
        self._limits = limits
        self.name = name
        self.kind = kind
        self.durable = durable
        self.created_ms = created_ms
        self.cursor = Cursor(floor)
        self.durable_floor = floor
        self.counts = RedeliveryCounts(recorded=durable)
        self.epoch = 0
        self.filter = SubscriptionFilter(self)
        self.expiry = Expiry(self, clock)
        self.backlog_expiry = BacklogExpiry(self, log, self.expiry, clock)
        self.dispatcher = Dispatcher(self, log, limits, clock, tracked=bool(name))
        self._delta = OrdinalBitmap()
        self._dirty = False
        self._waiting: list[OnDone] = []
        self._writing = False
        self._flush_scheduled = False
        self._start = asyncio.Lock()
        self._started = False
        self.deleted = False
        """Its deletion is being written: no snapshot may bring it back."""
        self._closed = False
        self.dead_letter_topic = ""
        self.dead_lettered_messages = 0
        self.forward_plans: dict[str, ForwardPlanned] = {}
        """By topic: messages on their way there, of which only it knows whether it has them."""
        self.created: asyncio.Future[None] | None = None
        """The write that makes a durable subscription; await it before the first use."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def topic_name(self) -> str:
        return self._host.name

    @property
    def consumers(self) -> list[ConsumerSession]:
        return self.dispatcher.consumers

    @property
    def backlog_messages(self) -> int:
        """Messages not acknowledged, exactly."""
        return max(
            0, self._log.end_ordinal - self.cursor.floor - self.cursor.acknowledged_above_floor
        )

    @property
    def dead_letter_target(self) -> str:
        """Where dead letters go, by its full name."""
        if self.dead_letter_topic:
            return TopicName.parse(self.dead_letter_topic).full
        return default_dead_letter_topic(self.topic_name, self.name)

    @property
    def policies(self) -> TopicPolicies:
        """What holds for the topic."""
        return self._host.policies

    @property
    def dead_letters(self) -> DeadLetters:
        """Who takes what is given up."""
        return self._host.dead_letters

    def wake(self) -> None:
        """Hand out what can be handed out."""
        self.dispatcher.schedule()

    def may_dispatch(self) -> bool:
        """An exclusive subscription waits while another broker may still serve it."""
        if self.expiry.full:
            return False
        if self.kind is SubscriptionKind.EXCLUSIVE and self.name:
            return self._host.may_dispatch_exclusively()
        return True

    # --- consumers

    async def attach(
        self, kind: SubscriptionKind, name: str, deliver: OnDeliveries, ended: OnEnded,
        backlog_bytes: Callable[[], int], wanted: MessageFilter | None = None,
    ) -> ConsumerSession:
        """A consumer more. Raises ConsumerBusy."""
        async with self._start:
            self._refuse_if_busy(kind)
            change = self.filter.agree(wanted)
            if change is not None:
                self._started = False
                if self.durable:
                    await self.write(change)
            if not self._started:
                self.dispatcher.restart(await self._log.before_ordinal(self.cursor.floor))
                self._started = True
            self._refuse_if_busy(kind)
            if not self.consumers:
                self.dispatcher.reader.filter = wanted
            self.kind = kind
            number = self._host.next_consumer_id()
            session = ConsumerSession(
                self, number, name or f"consumer-{number}", deliver, ended, backlog_bytes,
                self._limits.frame_bytes,
            )
            self.consumers.append(session)
            self.dispatcher.paused = False
            return session

    def _refuse_if_busy(self, kind: SubscriptionKind) -> None:
        if self.deleted:
            raise ConsumerBusy(f"subscription {self.name!r} is being deleted; try again")
        if not self.consumers:
            return
        if kind is not self.kind:
            raise ConsumerBusy(
                f"subscription {self.name!r} is in use as {self.kind.name.lower()}; use the same"
                " type or close its consumers"
            )
        if kind is SubscriptionKind.EXCLUSIVE:
            raise ConsumerBusy(f"exclusive subscription {self.name!r} has its consumer already")
        if len(self.consumers) >= self._limits.consumers_a_subscription:
            raise ConsumerBusy(f"subscription {self.name!r} has all the consumers it may have")

    def detach(self, session: ConsumerSession) -> None:
        """The consumer is gone; what it had goes to the others, or waits."""
        if session not in self.consumers:
            return
        self.consumers.remove(session)
        if self._closed:
            return
        if self.dispatcher.lost_track:
            self._started = False
        self.dispatcher.take_all_back(session)
        self._schedule_flush()
        if self.consumers:
            self.dispatcher.schedule()
        else:
            self.dispatcher.paused = True
            self._host.subscription_idle(self)

    async def unsubscribe(self, session: ConsumerSession) -> None:
        """Delete the subscription; only its last consumer may."""
        if not self.name:
            raise InvalidArgument("a reader has no subscription to delete")
        if self.consumers != [session]:
            raise ConsumerBusy(f"other consumers use subscription {self.name!r}")
        self.close()
        await self._host.delete_subscription(self.name)

    def forgotten(self) -> None:
        """It is deleted: what was acknowledged needs no record any more."""
        self.close()
        waiting, self._waiting = self._waiting, []
        for on_done in waiting:
            on_done(None)

    def close(self) -> None:
        """Stop all work; the topic goes away or the subscription is deleted."""
        self._closed = True
        self.dispatcher.close()
        for task in sorted(self._tasks, key=lambda task: task.get_name()):
            task.cancel()

    def fail(self, error: MagnetarError) -> None:
        """Answer whoever waits for an acknowledgement."""
        waiting, self._waiting = self._waiting, []
        for on_done in waiting:
            on_done(error)

    # --- acknowledgements

    def acknowledge(
        self, individual: Sequence[MessagePosition], cumulative: MessagePosition | None,
        on_done: OnDone,
    ) -> None:
        """See ConsumerSession.acknowledge."""
        if not self.name:
            on_done(None)
            return
        if cumulative is not None and self.kind is SubscriptionKind.SHARED:
            on_done(InvalidArgument("a shared subscription cannot acknowledge cumulatively"))
            return
        if len(individual) > self._limits.acknowledge_positions:
            on_done(InvalidArgument(
                f"acknowledge at most {self._limits.acknowledge_positions} positions at once"
            ))
            return
        flights = self.dispatcher.flights
        unknown: list[MessagePosition] = []
        try:
            for position in individual:
                flight = flights.get((position.ledger_id, position.entry_id))
                if flight is None:
                    unknown.append(position)
                else:
                    self._acknowledge_one(flight.first_ordinal, flight.count, position)
            if cumulative is not None:
                flight = flights.get((cumulative.ledger_id, cumulative.entry_id))
                if flight is None:
                    self._spawn(self._acknowledge_unknown(unknown, cumulative, on_done))
                    return
                self._acknowledge_through(flight.first_ordinal, flight.count, cumulative)
        except InvalidArgument as error:
            self._schedule_flush()
            on_done(error)
            return
        if unknown:
            self._spawn(self._acknowledge_unknown(unknown, None, on_done))
            return
        self._settle_with(on_done)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _acknowledge_unknown(
        self, individual: Sequence[MessagePosition], cumulative: MessagePosition | None,
        on_done: OnDone,
    ) -> None:
        """Positions not in flight here: of an earlier session, or not tracked."""
        try:
            for position in individual:
                if self._log.was_trimmed(position.ledger_id):
                    continue
                entry = await self._log.entry_at(position.ledger_id, position.entry_id)
                self._acknowledge_one(entry.first_ordinal, entry.count, position)
            if cumulative is not None and not self._log.was_trimmed(cumulative.ledger_id):
                entry = await self._log.entry_at(cumulative.ledger_id, cumulative.entry_id)
                self._acknowledge_through(entry.first_ordinal, entry.count, cumulative)
        except MagnetarError as error:
            self._schedule_flush()
            on_done(error)
            return
        self._settle_with(on_done)

    def _acknowledge_one(self, first: int, count: int, position: MessagePosition) -> None:
        mask = position.mask_of(count)
        self._dirty = True
        if mask == full_mask(count):
            self.cursor.add_range(first, first + count)
            self._delta.add_range(first, first + count)
        else:
            self.cursor.add_mask(first, mask)
            self._delta.add_mask(first, mask)
            if self.cursor.mask(first, count) != full_mask(count):
                return
        self.counts.forget(first)
        self.dispatcher.flights.pop((position.ledger_id, position.entry_id), None)

    def _acknowledge_through(self, first: int, count: int, position: MessagePosition) -> None:
        self.cursor.advance(first + position.mask_of(count).bit_length())
        self._dirty = True
        self.counts.forget_below(self.cursor.floor)
        self.dispatcher.acknowledged_below(self.cursor.floor)

    def pass_trimmed(self, first_ordinal: int) -> None:
        """No message below is there any more."""
        if self.cursor.floor < first_ordinal:
            self.cursor.advance(first_ordinal)
            self._dirty = True
            self.counts.forget_below(self.cursor.floor)
            self._schedule_flush()

    def pass_range(self, first: int, end: int) -> None:
        """Messages nobody is to get any more, such as expired ones."""
        if first < end:
            self.cursor.add_range(first, end)
            self.counts.forget_below(self.cursor.floor)
            if self.durable:
                self._delta.add_range(first, end)
                self._dirty = True
                self._schedule_flush()

    def in_flight_masks(self) -> dict[int, int]:
        """What is at consumers: messages of entries, by the entry's first ordinal."""
        found: dict[int, int] = {}
        for flight in self.dispatcher.flights.values():
            for part in flight.parts:
                found[flight.first_ordinal] = found.get(flight.first_ordinal, 0) | part.mask
        return found

    def passed_over(self, entry: StoredEntry, mask: int) -> None:
        """Messages that the filter does not want: done with, as durably as if acknowledged."""
        if not self.name:
            self.cursor.advance(entry.first_ordinal)  # so that it holds one entry's bits only
        mask &= ~self.cursor.mask(entry.first_ordinal, entry.count)
        if not mask:
            return
        self.cursor.add_mask(entry.first_ordinal, mask)
        self.counts.forget_below(self.cursor.floor)
        if self.durable:
            self._delta.add_mask(entry.first_ordinal, mask)
            self._dirty = True
            self._schedule_flush()

    def _settle_with(self, on_done: OnDone) -> None:
        if not self.durable or not (self._dirty or self._writing):
            self._dirty = self._dirty and self.durable
            self._delta = OrdinalBitmap()
            on_done(None)
        else:
            self._waiting.append(on_done)
            self._schedule_flush()
        self.dispatcher.schedule()

    # --- durability

    def _schedule_flush(self) -> None:
        if self.durable and not self._flush_scheduled and not self._writing:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Write what changed as one delta; the next one collects meanwhile."""
        self._flush_scheduled = False
        if self._writing or self._closed:
            return
        counts = self.counts.take_changes()
        if counts:
            self._host.write_state(Redelivered(self.name, counts), lambda _error: None)
        if not self._dirty and not self._waiting:
            return
        floor, waiting = self.cursor.floor, self._waiting
        record = Acknowledged(self.name, floor, tuple(self._delta.above(floor)))
        self._delta = OrdinalBitmap()
        self._waiting = []
        self._dirty = False
        self._writing = True
        epoch = self.epoch

        def written(error: MagnetarError | None) -> None:
            self._writing = False
            if error is None and epoch == self.epoch:
                self.durable_floor = max(self.durable_floor, floor)
                self._host.acknowledged(self)
            for on_done in waiting:
                on_done(error)
            if error is None and (self._dirty or self._waiting):
                self._schedule_flush()

        self._host.write_state(record, written)

    async def flushed(self) -> None:
        """Wait until everything acknowledged so far is durable; raises what prevents it."""
        if self._closed or not self.durable or not (
            self._dirty or self._writing or self._waiting
        ):
            return
        done: asyncio.Future[MagnetarError | None] = asyncio.get_running_loop().create_future()

        def settled(error: MagnetarError | None) -> None:
            if not done.done():
                done.set_result(error)

        self._settle_with(settled)
        error = await done
        if error is not None:
            raise error

    def restore(
        self,
        record: Acknowledged | CursorReset | Redelivered | FilterSet | ForwardPlanned,
    ) -> None:
        """A record of the state ledger, in order."""
        match record:
            case Acknowledged():
                self.cursor.advance(record.floor)
                self.cursor.add_chunks(record.chunks)
                self.counts.forget_below(self.cursor.floor)
            case CursorReset():
                self.cursor.reset(record.floor)
                self.counts.clear()
                self.forward_plans.clear()
            case ForwardPlanned():
                self.forward_plans[record.target] = record
            case FilterSet():
                self.filter.restore(record)
            case Redelivered():
                for counted in record.counts:
                    self.counts.restore(counted)
        self.durable_floor = self.cursor.floor

    def snapshot(self) -> list[StateRecord]:
        """The records that make the subscription as it is."""
        records: list[StateRecord] = [
            SubscriptionCreated(self.name, self.kind, self.cursor.floor, self.created_ms)
        ]
        records += self.filter.snapshot()
        records += self.forward_plans.values()
        chunks = self.cursor.chunks()
        for start in range(0, len(chunks), 256):
            part = tuple(chunks[start : start + 256])
            records.append(Acknowledged(self.name, self.cursor.floor, part))
        counts = self.counts.snapshot()
        for start in range(0, len(counts), 10_000):
            records.append(Redelivered(self.name, counts[start : start + 10_000]))
        return records

    # --- redelivery, seek, ends

    def redeliver(
        self, session: ConsumerSession, positions: Sequence[MessagePosition], *,
        counted: bool = True,
    ) -> None:
        """See ConsumerSession.redeliver and give_back."""
        if not self.name:
            return
        lost = []
        for position in positions[: self._limits.acknowledge_positions]:
            key = (position.ledger_id, position.entry_id)
            flight = self.dispatcher.flights.get(key)
            if flight is not None:
                with suppress(InvalidArgument):  # there is nobody to answer
                    self.dispatcher.take_back(
                        session, key, position.mask_of(flight.count), counted=counted)
            elif self.dispatcher.lost_track:
                lost.append(position)
        if lost:
            self._spawn(self._redeliver_lost(lost))
        self._schedule_flush()
        self.dispatcher.schedule()

    async def _redeliver_lost(self, positions: Sequence[MessagePosition]) -> None:
        for position in positions:
            try:
                entry = await self._log.entry_at(position.ledger_id, position.entry_id)
                mask = position.mask_of(entry.count)
            except MagnetarError:
                continue  # not a message of this topic, or unreadable now: it stays unacknowledged
            mask &= ~self.cursor.mask(entry.first_ordinal, entry.count)
            key = (entry.ledger_id, entry.entry_id)
            for part, redelivered in self.counts.split(entry.first_ordinal, mask) if mask else ():
                self.dispatcher.again(
                    key, entry.first_ordinal, entry.count, part, redelivered + 1
                )
        self._schedule_flush()
        self.dispatcher.schedule()

    async def seek(
        self, position: MessagePosition | None, initial: InitialPosition, publish_time_ms: int
    ) -> int:
        """See ConsumerSession.seek."""
        async with self._start:
            after, floor = await self.locate(position, initial, publish_time_ms)
            self.epoch += 1
            self.dispatcher.paused = True
            self.dispatcher.restart(after)
            self.cursor.reset(floor)
            self.counts.clear()
            self.forward_plans.clear()
            self.expiry.reset()
            self._delta = OrdinalBitmap()
            self._started = True
            self.durable_floor = min(self.durable_floor, floor)
            try:
                if self.durable:
                    await self.write(CursorReset(self.name, floor))
                    self.durable_floor = min(floor, self.cursor.floor)
            finally:
                # Whoever asked may be gone by now; the others are not.
                self.dispatcher.paused = not self.consumers
                self.dispatcher.schedule()
            return self.epoch

    async def locate(
        self, position: MessagePosition | None, initial: InitialPosition, publish_time_ms: int,
        *, inclusive: bool = True,
    ) -> tuple[Position, int]:
        """Where to read on, and the first ordinal that is meant. A message that was trimmed
        stands for the first one still there; another topic's raises InvalidArgument."""
        log = self._log
        if position is not None and not log.was_trimmed(position.ledger_id):
            entry = await log.entry_at(position.ledger_id, position.entry_id)
            mask = position.mask_of(entry.count)
            lowest = (mask & -mask).bit_length() - 1
            ordinal = entry.first_ordinal + (lowest if inclusive else mask.bit_length())
            return await log.before_ordinal(ordinal), ordinal
        if position is not None or (
            publish_time_ms <= 0 and initial is InitialPosition.EARLIEST
        ):
            after = await log.before_ordinal(0)
        elif publish_time_ms > 0:
            after = await log.before_time(publish_time_ms)
        else:
            return log.last_position, log.end_ordinal
        return after, await log.ordinal_after(after)

    async def write(self, record: StateRecord) -> None:
        """Append to the state ledger, and wait until it is durable."""
        done: asyncio.Future[MagnetarError | None] = asyncio.get_running_loop().create_future()

        def written(error: MagnetarError | None) -> None:
            if not done.done():
                done.set_result(error)

        self._host.write_state(record, written)
        error = await done
        if error is not None:
            raise error

    async def last_message(self) -> MessagePosition | None:
        """The newest message; None in an empty topic."""
        return await self._log.last_message()
