"""A subscription: its cursor, its consumers, and what they agreed on.

Acknowledgements and their durability are in `broker.acknowledging`, how messages reach consumers
in `broker.dispatcher`. Trimming looks at the durable floor only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from broker.acknowledging import Acknowledging
from broker.backlog_expiry import BacklogExpiry
from broker.bounds import BoundNotice
from broker.consumer_session import ConsumerSession, OnDone
from broker.conversation import (
    ConsumerEvent,
    InitialPosition,
    MessagePosition,
    OnDeliveries,
    OnEnded,
    OnEvent,
    OpenConsumer,
)
from broker.cursor import Cursor
from broker.dead_letter_port import DeadLetters
from broker.dispatch.mode import Mode
from broker.dispatch.returns import Failure
from broker.dispatch.waiting import Wait
from broker.dispatcher import Dispatcher
from broker.expiry import Expiry
from broker.redelivery import RedeliveryCounts, records_of
from broker.settings import BrokerLimits
from broker.state_records import (
    Acknowledged,
    CursorReset,
    FilterSet,
    ForwardPlanned,
    OptionsSet,
    Redelivered,
    StateRecord,
    SubscriptionCreated,
    SubscriptionKind,
)
from broker.stored_entry import StoredEntry
from broker.subscription_filter import SubscriptionFilter
from broker.subscription_name import group_of, member_of
from broker.subscription_options import SubscriptionOptions
from broker.subscription_report import snapshot_of
from broker.subscription_stats import Block, SubscriptionStats
from broker.topic_log import TopicLog
from broker.unburied import Unburied
from ledger.position import Position
from magnetar.dead_letter import default_dead_letter_topic
from magnetar.errors import ConsumerBusy, InvalidArgument, MagnetarError, SubscriptionNotFound
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

    @property
    def terminated(self) -> bool:
        """No message will ever come after those stored."""

    @property
    def state_problem(self) -> str | None:
        """Why the state ledger's appends wait, if they do."""

    def write_state(
        self, record: StateRecord, on_done: Callable[[MagnetarError | None], None]
    ) -> None:
        """Append to the state ledger; a failure closes the topic."""

    def guarded_dispatch_blocked(self) -> Block | None:
        """Why another broker may still be serving the topic; None: none can."""

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
        self.counts = RedeliveryCounts(recorded=durable)
        self.epoch = 0
        self.filter = SubscriptionFilter(self)
        self.options = SubscriptionOptions(self)
        self.expiry = Expiry(self, clock)
        self.backlog_expiry = BacklogExpiry(self, log, self.expiry, clock)
        self._partition = TopicName.parse(host.name).partition
        self.dispatcher = Dispatcher(
            self, log, limits, clock, self._mode(kind), tracked=bool(name))
        self._acknowledging = Acknowledging(
            self, self.dispatcher.returns, log, limits, clock, floor)
        self._notice = BoundNotice(self, clock)
        self.unburied = Unburied(self, self.dispatcher.returns, log, limits, clock)
        self._start = asyncio.Lock()
        self._started = False
        self.deleted = False
        """Its deletion is being written: no snapshot may bring it back."""
        self._closed = False
        self.dead_lettered_messages = 0
        self.forward_plans: dict[str, ForwardPlanned] = {}
        """By topic: messages on their way there, of which only it knows whether it has them."""
        self.created: asyncio.Future[None] | None = None
        """The write that makes a durable subscription; await it before the first use."""

    def _mode(self, kind: SubscriptionKind) -> Mode:
        return Mode(kind, self.options.holds(kind) and bool(self.name), self._partition)

    @property
    def topic_name(self) -> str:
        return self._host.name

    @property
    def group(self) -> str:
        """The broadcast group whose member this is; empty when it is none."""
        return group_of(self.name) if self.member else ""

    @property
    def member(self) -> str:
        """Its own name within the group."""
        return member_of(self.name)

    @property
    def consumers(self) -> list[ConsumerSession]:
        return self.dispatcher.consumers

    @property
    def durable_floor(self) -> int:
        """Everything below is acknowledged, and would survive this owner."""
        return self._acknowledging.durable_floor

    @property
    def backlog_messages(self) -> int:
        """Messages not acknowledged, exactly."""
        return max(
            0, self._log.end_ordinal - self.cursor.floor - self.cursor.acknowledged_above_floor
        )

    @property
    def max_deliveries(self) -> int:
        """Of a message before it is given up; 0: any number."""
        return self.options.max_deliveries

    @property
    def dead_letter_target(self) -> str:
        """Where dead letters go, by its full name."""
        if self.options.dead_letter_topic:
            return TopicName.parse(self.options.dead_letter_topic).full
        return default_dead_letter_topic(self.topic_name, group_of(self.name))

    @property
    def policies(self) -> TopicPolicies:
        """What holds for the topic."""
        return self._host.policies

    @property
    def dead_letters(self) -> DeadLetters:
        """Who takes what is given up."""
        return self._host.dead_letters

    @property
    def is_forwarding(self) -> bool:
        """See Topic.is_forwarding."""
        return bool(
            self.forward_plans or self.unburied.looking
            or self.dispatcher.waiting.messages[Wait.BURIAL]
        )

    @property
    def state_problem(self) -> str | None:
        """Why nothing can be made durable, if so."""
        return self._host.state_problem

    def snapshot_stats(self) -> SubscriptionStats:
        """What it is doing, and what it waits for."""
        return snapshot_of(self)

    # --- dispatch

    def wake(self) -> None:
        """Hand out what can be handed out."""
        self.dispatcher.schedule()

    def policies_changed(self) -> None:
        """What consumers may hold may be more than before."""
        self.backlog_expiry.changed()
        self.dispatcher.offer_all()

    def may_dispatch(self) -> bool:
        """Some subscriptions wait while another broker may still serve them, and all while
        nothing can be made durable."""
        return self.dispatch_blocked() is None

    def dispatch_blocked(self) -> Block | None:
        """Why nothing at all may go out; None when something may."""
        limit = self.limit_waited_for()
        if limit is None and self.name and self.dispatcher.mode.guarded:
            return self._host.guarded_dispatch_blocked()
        return limit

    def limit_waited_for(self) -> Block | None:
        """Of the reasons why nothing at all may go out: a limit that was reached."""
        if self.expiry.full:
            return Block.DEAD_LETTER_BOUND
        return Block.STATE_NOT_DURABLE if self._acknowledging.stalled else None

    def turn_ended(self) -> None:
        """See DispatchHost."""
        self._notice.look()
        if self._host.terminated:
            self._tell_end()

    def _tell_end(self) -> None:
        if not self.dispatcher.delivered_everything:
            return
        if self.dispatcher.mode.sharing and self.backlog_messages:
            return  # what others hold may still come to each of them
        for consumer in self.consumers:
            if not consumer.told_end and self.dispatcher.is_active(consumer):
                consumer.told_end = True
                consumer.tell(ConsumerEvent.END_OF_TOPIC)

    # --- consumers

    async def attach(
        self, request: OpenConsumer, deliver: OnDeliveries, ended: OnEnded,
        backlog_bytes: Callable[[], int], on_event: OnEvent,
    ) -> ConsumerSession:
        """A consumer more. Raises ConsumerBusy, InvalidArgument."""
        async with self._start:
            self._refuse_if_busy(request.kind)
            changes = [
                change for change in (
                    self.options.agree(request), self.filter.agree(request.filter)
                ) if change is not None
            ]
            mode = self._mode(request.kind)
            if any(isinstance(change, FilterSet) for change in changes) or (
                mode != self.dispatcher.mode
            ):
                self._started = False
            if self.durable:
                for change in changes:
                    await self.write(change)
            if not self._started:
                self.dispatcher.change_mode(mode)
                self.dispatcher.restart(await self._log.before_ordinal(self.cursor.floor))
                self._started = True
            self._refuse_if_busy(request.kind)
            if not self.consumers:
                self.dispatcher.reader.filter = request.filter
            self.kind = request.kind
            number = self._host.next_consumer_id()
            session = ConsumerSession(
                self, number, request.consumer_name or f"consumer-{number}", deliver, ended,
                backlog_bytes, on_event, self._limits.frame_bytes,
            )
            self.dispatcher.join(session)
            return session

    def _refuse_if_busy(self, kind: SubscriptionKind) -> None:
        name = group_of(self.name)
        if self.deleted:
            raise ConsumerBusy(f"subscription {name!r} is being deleted; try again")
        if not self.consumers:
            return
        if kind is not self.kind:
            raise ConsumerBusy(
                f"subscription {name!r} is in use as {self.kind.name.lower()}, not as"
                f" {kind.name.lower()}; use the same type or close its consumers"
            )
        if kind is SubscriptionKind.EXCLUSIVE:
            raise ConsumerBusy(f"exclusive subscription {name!r} has its consumer already")
        if kind is SubscriptionKind.BROADCAST:
            raise ConsumerBusy(
                f"member {self.member!r} of broadcast subscription {name!r} has its consumer"
                " already"
            )
        if len(self.consumers) >= self._limits.consumers_a_subscription:
            raise ConsumerBusy(f"subscription {name!r} has all the consumers it may have")

    def detach(self, session: ConsumerSession) -> None:
        """The consumer is gone; what it had goes to the others, or waits."""
        if session not in self.consumers:
            return
        if self._closed:
            self.consumers.remove(session)
            return
        if self.dispatcher.lost_track:
            self._started = False
        self.dispatcher.leave(session)
        self._acknowledging.schedule_flush()
        if not self.consumers:
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
        self._acknowledging.answer(None)

    def close(self) -> None:
        """Stop all work; the topic goes away or the subscription is deleted."""
        self._closed = True
        self.unburied.close()
        self.dispatcher.close()
        self._acknowledging.close()

    def fail(self, error: MagnetarError) -> None:
        """Answer whoever waits for an acknowledgement."""
        self._acknowledging.answer(error)

    # --- acknowledgements

    def acknowledge(
        self, individual: Sequence[MessagePosition], cumulative: MessagePosition | None,
        on_done: OnDone,
    ) -> None:
        """See ConsumerSession.acknowledge."""
        if not self.name:
            on_done(None)
        elif cumulative is not None and not self.dispatcher.mode.cumulative:
            why = (
                "other consumers may have what lies between" if self.dispatcher.mode.sharing
                else "with hold_failed_keys, what lies between may wait for a message that failed"
            )
            on_done(InvalidArgument(
                f"a {self.kind.name.lower()} subscription cannot acknowledge cumulatively: {why}"
            ))
        else:
            self._acknowledging.acknowledge(individual, cumulative, on_done)

    async def flushed(self) -> None:
        """Wait until everything acknowledged so far is durable; raises what prevents it."""
        await self._acknowledging.flushed()

    def pass_trimmed(self, first_ordinal: int) -> None:
        """No message below is there any more."""
        self._acknowledging.pass_trimmed(first_ordinal)
        self.expiry.forget_below(self.cursor.floor)

    def pass_range(self, first: int, end: int) -> None:
        """Messages nobody is to get any more, such as expired ones; none is at a consumer."""
        self._acknowledging.pass_range(first, end)

    def passed_over(self, entry: StoredEntry, mask: int) -> None:
        """Messages that are not wanted, or expired: done with, as durably as if acknowledged."""
        key = (entry.ledger_id, entry.entry_id)
        self._acknowledging.pass_mask(key, entry.first_ordinal, entry.count, mask)

    def in_flight_masks(self) -> dict[int, int]:
        """What is at consumers: messages of entries, by the entry's first ordinal."""
        found: dict[int, int] = {}
        for flight in self.dispatcher.flights.values():
            for part in flight.parts:
                found[flight.first_ordinal] = found.get(flight.first_ordinal, 0) | part.mask
        return found

    def position_moved(self) -> None:
        """See AcknowledgingHost."""
        self._host.acknowledged(self)

    # --- state

    def restore(
        self,
        record: (
            Acknowledged | CursorReset | Redelivered | FilterSet | OptionsSet | ForwardPlanned
        ),
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
            case OptionsSet():
                self.options.restore(record)
            case Redelivered():
                for counted in record.counts:
                    self.counts.restore(counted)
        self._acknowledging.durable_floor = self.cursor.floor

    def loaded(self) -> None:
        """All records are restored."""
        self.counts.forget_acknowledged(self.cursor)
        self.unburied.look()

    def snapshot(self) -> list[StateRecord]:
        """The records that make the subscription as it is."""
        records: list[StateRecord] = [
            SubscriptionCreated(self.name, self.kind, self.cursor.floor, self.created_ms)
        ]
        records += self.filter.snapshot()
        records += self.options.snapshot()
        records += self.forward_plans.values()
        chunks = self.cursor.chunks()
        for start in range(0, len(chunks), 256):
            part = tuple(chunks[start : start + 256])
            records.append(Acknowledged(self.name, self.cursor.floor, part))
        records += records_of(self.name, self.counts.snapshot())
        return records

    def write_state(
        self, record: StateRecord, on_done: Callable[[MagnetarError | None], None]
    ) -> None:
        """Append to the state ledger."""
        self._host.write_state(record, on_done)

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

    # --- redelivery, seek

    def negative(
        self, session: ConsumerSession, positions: Sequence[MessagePosition], *, delay_ms: int = 0,
        reason: str = "", counted: bool = True,
    ) -> None:
        """See ConsumerSession.negative."""
        if not self.name:
            return
        session.told_end = False  # told again when this too has come, or was given up
        failure = Failure(counted, delay_ms / 1000, reason)
        most = self._limits.acknowledge_positions
        self._failed(session, positions[:most], failure)
        if len(positions) > most:
            self._acknowledging.spawn(self._failed_too(session, positions[most:], failure))

    async def _failed_too(
        self, session: ConsumerSession, positions: Sequence[MessagePosition], failure: Failure
    ) -> None:
        """More than others are to wait for at once."""
        most = self._limits.acknowledge_positions
        for start in range(0, len(positions), most):
            await asyncio.sleep(0)
            if not session.closed:
                self._failed(session, positions[start : start + most], failure)

    def _failed(
        self, session: ConsumerSession, positions: Sequence[MessagePosition], failure: Failure
    ) -> None:
        lost = []
        for position in positions:
            key = (position.ledger_id, position.entry_id)
            flight = self.dispatcher.flights.get(key)
            if flight is not None:
                with suppress(InvalidArgument):  # there is nobody to answer
                    self.dispatcher.returns.take_back(
                        session, key, position.mask_of(flight.count), failure)
            elif self.dispatcher.lost_track:
                lost.append(position)
        if lost:
            self._acknowledging.spawn(self._take_lost_back(lost, failure))
        self._acknowledging.schedule_flush()
        self.dispatcher.offer(session)

    async def _take_lost_back(
        self, positions: Sequence[MessagePosition], failure: Failure
    ) -> None:
        beginnings = self.dispatcher.beginnings
        for position in positions:
            try:
                entry = await self._log.entry_at(position.ledger_id, position.entry_id)
                mask = position.mask_of(entry.count)
            except MagnetarError:
                continue  # not a message of this topic, or unreadable now: it stays unacknowledged
            if beginnings != self.dispatcher.beginnings:
                return  # all that is not acknowledged comes again
            mask &= ~self.cursor.mask(entry.first_ordinal, entry.count)
            mask &= ~self.dispatcher.returns.known_of((entry.ledger_id, entry.entry_id))
            for part, before in self.counts.split(entry.first_ordinal, mask) if mask else ():
                self.dispatcher.returns.lost(entry, part, before, failure)
        self._acknowledging.schedule_flush()
        self.dispatcher.schedule()

    async def seek(
        self, position: MessagePosition | None, initial: InitialPosition, publish_time_ms: int
    ) -> int:
        """See ConsumerSession.seek."""
        async with self._start:
            after, floor = await self.locate(position, initial, publish_time_ms)
            if self.deleted:  # the record would move one that was made since under its name
                raise SubscriptionNotFound(f"subscription {self.name!r} was deleted meanwhile")
            self.epoch += 1
            self.dispatcher.paused = True
            self.dispatcher.restart(after)
            self.cursor.reset(floor)
            self.counts.clear()
            self.forward_plans.clear()
            self.dispatcher.returns.take_all_up_again()
            self.expiry.reset()
            self._acknowledging.forget_delta()
            self._started = True
            acknowledging = self._acknowledging
            acknowledging.durable_floor = min(acknowledging.durable_floor, floor)
            for consumer in self.consumers:
                consumer.told_end = False
            try:
                if self.durable:
                    await self.write(CursorReset(self.name, floor))
                    acknowledging.durable_floor = min(floor, self.cursor.floor)
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

    async def last_message(self) -> MessagePosition | None:
        """The newest message; None in an empty topic."""
        return await self._log.last_message()
