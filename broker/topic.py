"""A topic on its owner: what holds publishing and subscriptions together, and how it ends.

When the log or the state ledger fails, the topic closes: every session is told that the outcome
of what was in flight is unknown, and the next owner, which may be this broker, rebuilds
everything from what is durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from broker import broadcast_groups
from broker.backlog_quota import BacklogQuota
from broker.consumer_session import ConsumerSession
from broker.conversation import (
    MessagePosition,
    OnDeliveries,
    OnEnded,
    OnEvent,
    OpenConsumer,
)
from broker.dead_letters import TopicDeadLetters
from broker.forwarding.lane import LaneOffice
from broker.forwarding.lanes import TopicLanes
from broker.memory_keeper import MemoryKeeper
from broker.publish_gate import PublishGate
from broker.publishing import Publishing, TopicCounters
from broker.pull_sessions import PullSessions
from broker.retention import Retention
from broker.schedule.memory import ScheduleMemory
from broker.schedule.remaining import in_the_way
from broker.schedule.schedule import Schedule
from broker.settings import BrokerLimits
from broker.state_records import StateRecord, SubscriptionCreated, SubscriptionDeleted
from broker.subscription import Subscription
from broker.subscription_name import SEPARATOR
from broker.subscription_stats import Block
from broker.topic_log import TopicLog
from broker.topic_state import OnDone, TopicState
from broker.truncation import truncate
from ledger.managed_log import LogPolicy
from magnetar.errors import (
    ConnectionFailed,
    InvalidArgument,
    MagnetarError,
    NotOwner,
    OperationTimeout,
    ResourceExists,
    ResourceInUse,
    SubscriptionNotFound,
    TopicNotFound,
)
from magnetar.runtime.clock import Clock
from tenants.policies import TopicPolicies

_log = logging.getLogger(__name__)


class DispatchGate(Protocol):
    """Whether this broker's claim on its topics is fresh enough to serve an exclusive consumer."""

    @property
    def open(self) -> bool: ...


class Topic:
    """One loaded topic. Every public method may raise NotOwner once it is closing."""

    def __init__(
        self, name: str, log: TopicLog, policies: TopicPolicies, limits: BrokerLimits,
        clock: Clock, gate: DispatchGate, counters: TopicCounters,
        on_closed: Callable[[Topic], None], office: LaneOffice, memory: ScheduleMemory,
    ) -> None:
        self._name = name
        self.log = log
        self.policies = policies
        self._limits = limits
        self._clock = clock
        self._gate = gate
        self._counters = counters
        self._on_closed = on_closed
        self.state = TopicState(log, limits, self._restored_subscription, self.fail)
        self.retention = Retention(self, log, self.state, clock)
        self.quota = BacklogQuota(self, log, clock)
        self.gate = PublishGate(log, self.quota, self.release_producers)
        self.schedule = Schedule(
            self, log, self.state.schedule, limits, clock, counters.schedules, memory
        )
        self.publishing = Publishing(
            self, log, self.state, self.schedule, limits, clock, counters
        )
        self.lanes = TopicLanes(self, log, office)
        self.dead_letters = TopicDeadLetters(self, self.lanes)
        self.pulls = PullSessions(self, clock)
        self.memory: MemoryKeeper | None = None
        """Of a topic that is not persistent."""
        self._temporary: list[Subscription] = []
        self._consumer_ids = 0
        self._exclusive_held_back = False
        self._held_back_end: asyncio.TimerHandle | None = None
        self._opening: set[str] = set()
        self._notify_scheduled = False
        self.closing = False
        self.closed = False
        self.last_used_s = clock.monotonic_s()

    async def load(self) -> None:
        """Rebuild from the state ledger and the log's tail; raises what reading raises."""
        await self.state.load()
        await self.schedule.load()
        self.state.sources.know(self.state.schedule.sources.names)
        self.state.sources.nobody_is_connected(self._clock.wall_ms())
        self.lanes.resume()
        for subscription in self.state.subscriptions.values():
            subscription.loaded()
        self.publishing.loaded()
        self.schedule.start()
        self.quota.loaded()

    @property
    def name(self) -> str:
        """The full name."""
        return self._name

    @property
    def in_use(self) -> bool:
        """A producer or consumer is connected, or comes."""
        return bool(
            self.publishing.producers or self.publishing.opening or self._opening
            or self._temporary or self.log.pending_entries
            or any(one.consumers for one in self.state.subscriptions.values())
            or self.schedule.count or self.is_forwarding
        )

    @property
    def is_forwarding(self) -> bool:
        """Messages are on their way to other topics, or should be."""
        return bool(
            self.lanes.waiting_messages
            or any(one.is_forwarding for one in self.state.subscriptions.values())
        )

    def subscriptions(self) -> list[Subscription]:
        """All of them, readers too."""
        return [*self.state.subscriptions.values(), *self._temporary]

    def subscription_named(self, name: str, member: str = "") -> Subscription | None:
        """A subscription, or the member of a broadcast group; None: there is none."""
        found = self.state.subscriptions.get(name)
        if found is None and member:
            found = self.state.subscriptions.get(f"{name}{SEPARATOR}{member}")
        return found

    def members_of(self, group: str) -> list[Subscription]:
        """Of a broadcast group, by name; empty when there is none."""
        subscriptions = self.state.subscriptions
        return [subscriptions[name] for name in broadcast_groups.members_of(group, subscriptions)]

    def subscription_names(self) -> list[str]:
        """What clients know subscriptions by, a broadcast group once."""
        return broadcast_groups.shown_names(self.state.subscriptions)

    def lane_hosts(self) -> Mapping[str, Subscription]:
        """Readers forward nothing."""
        return self.state.subscriptions

    def sample_traffic(self, now_s: float) -> None:
        """Called from time to time, so that rates can be told."""
        self.publishing.traffic.sample(now_s)
        for subscription in self.subscriptions():
            subscription.dispatcher.traffic.sample(now_s)

    def refuse_if_closing(self) -> None:
        if self.closing:
            raise NotOwner(f"this broker gives up {self._name}; look it up again")

    # --- producers

    def touch(self) -> None:
        """Somebody uses the topic, or did until now."""
        self.last_used_s = self._clock.monotonic_s()

    def something_stored(self) -> None:
        """Look once, soon, whether consumers want it."""
        if not self._notify_scheduled:
            self._notify_scheduled = True
            asyncio.get_running_loop().call_soon(self.wake_dispatch)

    def entry_stored(self, size_bytes: int) -> None:
        """Of the schedule: see TopicState.entry_stored. Nothing else tells of it those who wait
        for room, or for everything to be stored."""
        self.state.entry_stored(size_bytes)
        self.publishing.release_if_room()

    async def durable_epoch(self) -> None:
        """An epoch counts once it would survive this owner."""
        done: asyncio.Future[MagnetarError | None] = asyncio.get_running_loop().create_future()

        def written(error: MagnetarError | None) -> None:
            if not done.done():
                done.set_result(error)

        self.state.checkpoint(written)
        error = await done
        if error is not None:
            raise error

    # --- consumers

    async def open_consumer(
        self, request: OpenConsumer, deliver: OnDeliveries, ended: OnEnded,
        backlog_bytes: Callable[[], int] = lambda: 0, on_event: OnEvent = lambda _event: None,
    ) -> ConsumerSession:
        """A consumer or reader. Raises ConsumerBusy, InvalidArgument."""
        self.refuse_if_closing()
        marker = f"consumer of {request.subscription}"
        self._opening.add(marker)
        try:
            if request.subscription:
                subscription = await self._subscription(request)
            else:
                subscription = await self._reader(request)
            session = await subscription.attach(request, deliver, ended, backlog_bytes, on_event)
        finally:
            self._opening.discard(marker)
        if self.closing:
            session.close()
            self.refuse_if_closing()
        return session

    async def create_subscription(self, request: OpenConsumer) -> None:
        """A durable one without a consumer. Raises ResourceExists, InvalidArgument."""
        self.refuse_if_closing()
        if request.subscription in self.subscription_names():
            raise ResourceExists(f"{self._name} has a subscription {request.subscription!r}")
        await self._subscription(request)

    async def _subscription(self, request: OpenConsumer) -> Subscription:
        request = broadcast_groups.named(request, self.state.subscriptions)
        name = request.subscription
        found = self.state.subscriptions.get(name)
        if found is None:
            if len(self.state.subscriptions) >= self._limits.subscriptions_a_topic:
                raise InvalidArgument(f"{self._name} has all the subscriptions it may have")
            scratch = self._make(request, 0)
            _, floor = await scratch.locate(
                request.start, request.initial_position, request.start_time_ms,
                inclusive=request.start_inclusive,
            )
            found = self.state.subscriptions.get(name)
        if found is None:
            found = self.state.subscriptions[name] = self._make(request, floor)
            if found.durable:
                found.created = asyncio.ensure_future(self._write(SubscriptionCreated(
                    name, request.kind, floor, found.created_ms
                )))
        if found.created is not None:
            await asyncio.shield(found.created)  # whoever comes second waits as well
        return found

    async def _reader(self, request: OpenConsumer) -> Subscription:
        scratch = self._make(request, 0)
        _, floor = await scratch.locate(
            request.start, request.initial_position, 0, inclusive=request.start_inclusive
        )
        reader = self._make(request, floor)
        self._temporary.append(reader)
        return reader

    def _make(self, request: OpenConsumer, floor: int) -> Subscription:
        return Subscription(
            self, self.log, request.subscription, request.kind,
            request.durable and bool(request.subscription), floor, self._clock.wall_ms(),
            self._limits, self._clock,
        )

    def _restored_subscription(self, record: SubscriptionCreated) -> Subscription:
        return Subscription(
            self, self.log, record.name, record.kind, True, record.floor, record.created_ms,
            self._limits, self._clock,
        )

    async def delete_subscription(self, name: str) -> None:
        """Forget a subscription and its cursor, or a broadcast group with all its members,
        durably; raises SubscriptionNotFound.

        Once begun it is done, also when nobody waits for it any more."""
        found = self.state.subscriptions.get(name)
        if found is None:
            members = broadcast_groups.members_of(name, self.state.subscriptions)
            if not members:
                raise SubscriptionNotFound(f"{self._name} has no subscription {name!r}")
            await asyncio.gather(*map(self.delete_subscription, members))
            return
        found.deleted = True
        if found.durable:
            await asyncio.shield(asyncio.ensure_future(self._delete(found)))
        else:
            self._forget(found)

    async def _delete(self, subscription: Subscription) -> None:
        await self._write(SubscriptionDeleted(subscription.name))
        self._forget(subscription)

    def _forget(self, subscription: Subscription) -> None:
        if self.state.subscriptions.get(subscription.name) is subscription:
            del self.state.subscriptions[subscription.name]
            self.lanes.forget(subscription.name)
            self.quota.look_soon()
        subscription.forgotten()

    def subscription_idle(self, subscription: Subscription) -> None:
        """The last consumer left; what is not durable ends with it."""
        self.touch()
        if not subscription.durable:
            subscription.close()
            if subscription in self._temporary:
                self._temporary.remove(subscription)
            if self.state.subscriptions.get(subscription.name) is subscription:
                del self.state.subscriptions[subscription.name]
                self.lanes.forget(subscription.name)

    def durable_subscriptions(self) -> Iterator[Subscription]:
        """Those that hold messages back."""
        return (one for one in self.state.subscriptions.values() if one.durable)

    def acknowledged(self, subscription: Subscription) -> None:
        """Its position moved, durably."""
        self.quota.moved(subscription)

    def release_producers(self) -> None:
        """What held them back does so no more."""
        self.publishing.release_waiters()

    def next_consumer_id(self) -> int:
        """Unique within the topic on this owner."""
        self._consumer_ids += 1
        return self._consumer_ids

    def wake_dispatch(self) -> None:
        """Something may be there to be delivered."""
        self._notify_scheduled = False
        for subscription in self.state.subscriptions.values():
            subscription.dispatcher.schedule()
        for subscription in self._temporary:
            subscription.dispatcher.schedule()

    # --- ownership

    def guarded_dispatch_blocked(self) -> Block | None:
        """Why another broker may still be serving them; None: none can."""
        if self._exclusive_held_back:
            return Block.HELD_BACK
        return None if self._gate.open else Block.SESSION_SUSPENDED

    def hold_back_exclusive(self, seconds: float) -> None:
        """The last owner may not know yet that it is no more: wait, or until `let_go`."""
        self._exclusive_held_back = True
        self._held_back_end = asyncio.get_running_loop().call_later(seconds, self.let_go)

    def let_go(self) -> None:
        """The last owner serves no more."""
        if self._held_back_end is not None:
            self._held_back_end.cancel()
            self._held_back_end = None
        if self._exclusive_held_back:
            self._exclusive_held_back = False
            self.wake_dispatch()

    # --- state

    @property
    def terminated(self) -> bool:
        """No message comes after those stored."""
        return self.gate.terminated

    @property
    def state_problem(self) -> str | None:
        """Why what is appended to the state ledger waits, if so."""
        return self.log.log.state.blocked_reason

    def write_state(self, record: StateRecord, on_done: OnDone) -> None:
        """Append a record to the state ledger; see TopicState.write."""
        self.state.write(record, on_done)

    async def _write(self, record: StateRecord) -> None:
        done: asyncio.Future[MagnetarError | None] = asyncio.get_running_loop().create_future()

        def written(error: MagnetarError | None) -> None:
            if not done.done():
                done.set_result(error)

        self.state.write(record, written)
        error = await done
        if error is not None:
            raise error

    def follow(self, policies: TopicPolicies, log_policy: LogPolicy) -> None:
        """From now on these policies hold; producers see a new size limit when they reconnect."""
        self.policies = policies
        for subscription in self.subscriptions():
            subscription.policies_changed()
        self.quota.look_soon()
        self.log.log.policy = log_policy

    async def maintain(self) -> None:
        """What is due from time to time: forget, checkpoint, roll, trim, compact."""
        if self.closing:
            return
        if self.memory is not None:
            self.memory.tell()
        self.state.forget_sources(self._clock.wall_ms())
        await self._expire_backlogs()
        if self.state.checkpoint_is_due:
            self.state.checkpoint(lambda _error: None)
        await self.log.log.tidy()
        await self.quota.maintain()
        await self.retention.apply()
        await self.schedule.maintain()
        if self.state.compaction_is_due:
            await self.state.compact()

    async def _expire_backlogs(self) -> None:
        for subscription in list(self.state.subscriptions.values()):
            try:
                await subscription.backlog_expiry.run()
                await subscription.flushed()  # so that the space can be freed in this round
            except MagnetarError as error:
                # Another subscription may well be readable where it is.
                _log.warning("%s, %s: expiring is put off: %s", self._name, subscription.name,
                             error)

    # --- ends

    async def terminate(self) -> MessagePosition | None:
        """See TopicLifecycle.terminate."""
        self.refuse_if_closing()
        last = await self.gate.terminate(
            self.publishing.drained, lambda: self.scheduled_in_the_way("terminate it after that")
        )
        self.wake_dispatch()
        return last

    def scheduled_in_the_way(self, otherwise: str) -> ResourceInUse | None:
        """Why the topic cannot end while messages wait for their time, if some do."""
        waiting = self.schedule.count
        return in_the_way(self._name, waiting, otherwise) if waiting else None

    async def truncate(self) -> int:
        """See TopicLifecycle.truncate."""
        self.refuse_if_closing()
        return await truncate(self.log, self.subscriptions(), self.durable_epoch)

    async def mark_deleted(self) -> None:
        """The topic is not there any more: everybody is told, and nothing is written again.
        Raises LedgerFenced, which closes the topic as well."""
        await self.log.log.mark_deleting()
        if not self.closed:
            self._end_sessions(TopicNotFound(f"{self._name} was deleted"))

    def fail(self, error: MagnetarError) -> None:
        """The log or the state cannot go on: close without waiting for anything."""
        if self.closed:
            return
        self._counters.failed_topics += 1
        self._end_sessions(ConnectionFailed(
            f"{self._name} closed on this broker, what was in flight is unknown: {error}"
        ))

    def abandon(self) -> None:
        """Another broker owns the topic, or this one's session ended: stop at once."""
        if not self.closed:
            self._end_sessions(NotOwner(f"this broker lost {self._name}; look it up again"))

    async def close(self) -> None:
        """Stop publishing, let what is in flight settle, make all state durable, close the log,
        tell the clients. Raises what prevented it; the topic is closed all the same."""
        if self.closing:
            return
        self.closing = True
        self.lanes.close()
        self.schedule.stop()
        try:
            async with asyncio.timeout(self._limits.drain_timeout_s):
                while (
                    self.log.pending_entries or self.schedule.in_flight
                ) and not self.closed:
                    await self._clock.sleep(0.005)
                for session in list(self.publishing.producers.values()):
                    session.flush()
                for subscription in self.subscriptions():
                    subscription.dispatcher.paused = True
                    await subscription.flushed()
                if not self.closed and self.state.checkpoint_is_due:
                    await self.durable_epoch()
                if not self.closed:
                    await self.log.log.close()
        except TimeoutError:
            raise OperationTimeout(f"{self._name} did not come to rest in time") from None
        finally:
            if not self.closed:
                self._end_sessions(NotOwner(f"{self._name} moves; look it up again"))

    def _end_sessions(self, error: MagnetarError) -> None:
        self.closing = self.closed = True
        self.quota.close()
        self.lanes.close()
        self.pulls.close()
        if self._held_back_end is not None:
            self._held_back_end.cancel()
        self.schedule.stop()
        if self.memory is not None:
            self.memory.ended()
        self.publishing.end(error)
        for subscription in self.subscriptions():
            subscription.close()
            subscription.fail(error)
            for consumer in list(subscription.consumers):
                consumer.end(error)
        self.log.log.abandon(str(error))
        self._on_closed(self)

