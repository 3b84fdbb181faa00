"""A topic on its owner: producers, the way of a batch into the log, and its subscriptions.

A batch is checked, compared with what its source stored before, given its place in the order of
the log, and acknowledged once Qa bookies hold it. When the log or the state ledger fails, the
topic closes: every session is told that the outcome of what was in flight is unknown, and the
next owner, which may be this broker, rebuilds everything from what is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from crc32c import crc32c

from broker.consumer_session import ConsumerSession
from broker.conversation import (
    ChecksumMismatch,
    OnDeliveries,
    OnEnded,
    OnReceipts,
    OpenConsumer,
    Receipt,
)
from broker.deduplication import BatchInFlight, Source
from broker.producer_session import ProducerSession
from broker.retention import Retention
from broker.settings import BrokerLimits
from broker.state_records import StateRecord, SubscriptionCreated, SubscriptionDeleted
from broker.stored_entry import StoredEntry
from broker.subscription import Subscription
from broker.topic_log import TopicLog
from broker.topic_state import OnDone, TopicState
from ledger.managed_log import LogPolicy
from magnetar.entry import check, parse_header
from magnetar.errors import (
    ConnectionFailed,
    InvalidArgument,
    InvalidFrame,
    MagnetarError,
    MessageTooLarge,
    NotOwner,
    NotSupported,
    OperationTimeout,
    ProducerFenced,
    SequenceOverlap,
    SubscriptionNotFound,
)
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Buffer
from tenants.policies import TopicPolicies


class DispatchGate(Protocol):
    """Whether this broker's claim on its topics is fresh enough to serve an exclusive consumer."""

    @property
    def open(self) -> bool: ...


@dataclass(slots=True)
class TopicCounters:
    """What the topics of a broker did, for the metrics."""

    published_messages: int = 0
    published_batches: int = 0
    published_bytes: int = 0
    duplicate_batches: int = 0
    refused_batches: int = 0
    failed_topics: int = 0


class Topic:
    """One loaded topic. Every public method may raise NotOwner once it is closing."""

    def __init__(
        self, name: str, log: TopicLog, policies: TopicPolicies, limits: BrokerLimits,
        clock: Clock, gate: DispatchGate, counters: TopicCounters,
        on_closed: Callable[[Topic], None],
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
        self.retention = Retention(log, self.state, policies, clock)
        self.producers: dict[str, ProducerSession] = {}
        self._temporary: list[Subscription] = []
        self._consumer_ids = 0
        self._names_given = 0
        self._exclusive_held_back = False
        self._held_back_end: asyncio.TimerHandle | None = None
        self._room_waiters: list[asyncio.Future[None]] = []
        self._opening: set[str] = set()
        self._notify_scheduled = False
        self.closing = False
        self.closed = False
        self.last_used_s = clock.monotonic_s()

    async def load(self) -> None:
        """Rebuild from the state ledger and the log's tail; raises what reading raises."""
        await self.state.load()
        self.state.sources.nobody_is_connected(self._clock.wall_ms())

    @property
    def name(self) -> str:
        """The full name."""
        return self._name

    @property
    def congested(self) -> bool:
        """More bytes are on their way to the bookies than may be."""
        return self.log.pending_bytes > self._limits.pending_publish_bytes

    @property
    def in_use(self) -> bool:
        """A producer or consumer is connected, or comes."""
        return bool(
            self.producers or self._opening or self._temporary or self.log.pending_entries
            or any(one.consumers for one in self.state.subscriptions.values())
        )

    def subscriptions(self) -> list[Subscription]:
        """All of them, readers too."""
        return [*self.state.subscriptions.values(), *self._temporary]

    def _refuse_if_closing(self) -> None:
        if self.closing:
            raise NotOwner(f"this broker gives up {self._name}; look it up again")

    # --- producers

    async def open_producer(
        self, name: str, epoch: int, reply: OnReceipts, ended: OnEnded
    ) -> ProducerSession:
        """A producer; an empty name gets an automatic one.

        Waits until no batch of an earlier session of the name is in flight, so that
        `last_sequence_id` is what is really stored. Raises ProducerFenced, InvalidArgument.
        """
        self._refuse_if_closing()
        new_name = not name
        if new_name:
            self._names_given += 1
            name = f"~{self.log.log.owner.epoch}-{self._names_given}"
        elif len(name.encode()) > 1024:
            raise InvalidArgument("a producer name has at most 1024 bytes")
        if len(self.producers) >= self._limits.producers_a_topic and name not in self.producers:
            raise InvalidArgument(f"{self._name} has all the producers it may have")
        source = self.state.sources.open(name, epoch, new_name=new_name)
        before = self.producers.pop(name, None)
        if before is not None:
            before.end(_taken_over(name, before.producer_epoch == source.epoch))
            source.idle_since_ms = 0
        session = ProducerSession(
            self, source, reply, ended, self.policies.max_message_size_bytes
        )
        self.producers[name] = session
        self._opening.add(name)
        try:
            if source.in_flight:
                await self._stored(source.in_flight[-1])
            if not source.automatic:
                await self._durable_epoch()
        except BaseException:
            session.close()
            raise
        finally:
            self._opening.discard(name)
        self._refuse_if_closing()
        if session.closed:
            raise _taken_over(name, session.producer_epoch == source.epoch)
        session.last_sequence_id = source.last_stored
        return session

    async def _stored(self, batch: BatchInFlight) -> None:
        """Wait for this batch and no other; raises NotOwner when the topic closes before."""
        is_stored = False

        def stored(_entry: StoredEntry) -> None:
            nonlocal is_stored
            is_stored = True

        batch.waiting.append(stored)
        while not is_stored:
            self._refuse_if_closing()
            # Woken as well by every other batch, and by the end of the topic.
            await self._room_or_end()

    async def _room_or_end(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room_waiters.append(waiter)
        await waiter

    async def _durable_epoch(self) -> None:
        """An epoch counts once it would survive this owner."""
        done: asyncio.Future[MagnetarError | None] = asyncio.get_running_loop().create_future()

        def written(error: MagnetarError | None) -> None:
            if not done.done():
                done.set_result(error)

        self.state.checkpoint(written)
        error = await done
        if error is not None:
            raise error

    def producer_closed(self, session: ProducerSession) -> None:
        """Called by the session when its stream ended."""
        self.last_used_s = self._clock.monotonic_s()
        if self.producers.get(session.producer_name) is session:
            del self.producers[session.producer_name]
            self.state.sources.closed(session.source, self._clock.wall_ms())

    def publish(self, session: ProducerSession, batch: Buffer) -> None:
        """Take one batch of a session; see ProducerSession.publish."""
        if self.closing:
            return
        header = parse_header(batch)
        receipt = Receipt(header.first_sequence_id, header.count)
        session.expect(receipt)
        if len(batch) > self.policies.max_message_size_bytes:
            self._refuse(session, receipt, MessageTooLarge(
                f"a batch of {len(batch)} bytes; this topic takes"
                f" {self.policies.max_message_size_bytes}"
            ))
            return
        try:
            check(batch, header)
        except InvalidFrame:
            if crc32c(memoryview(batch)[4:]) != int.from_bytes(batch[:4], "little"):
                raise ChecksumMismatch("a batch was damaged on its way; send it again") from None
            raise
        if header.delayed:
            self._refuse(session, receipt, NotSupported(
                "deliver_at is not yet supported by this version; send without it"
            ))
            return
        source = session.source
        if header.producer_name != source.name:
            self._refuse(session, receipt, InvalidArgument(
                f"the batch names producer {header.producer_name!r}, the stream {source.name!r}"
            ))
            return
        first, last = header.first_sequence_id, header.last_sequence_id
        if self.policies.deduplication and self._known(session, receipt, first, last):
            return
        flying = source.push(first, last)

        def stored(result: StoredEntry | MagnetarError) -> None:
            self._batch_stored(session, receipt, flying, result)

        self.log.append(batch, header.count, stored)

    def _known(
        self, session: ProducerSession, receipt: Receipt, first: int, last: int
    ) -> bool:
        """True when the batch was seen before, and its receipt is taken care of."""
        source = session.source
        try:
            known = source.check(first, last)
        except SequenceOverlap as error:
            session.barred = True
            overlap = error
            if source.in_flight:
                # Told only once what it overlaps is durable: the producer drops that part.
                source.in_flight[-1].waiting.append(
                    lambda _entry: session.settle(receipt, error=overlap)
                )
            else:
                session.settle(receipt, error=overlap)
            return True
        if known is None:
            return False
        self._counters.duplicate_batches += 1
        if isinstance(known, BatchInFlight):
            known.waiting.append(
                lambda entry: session.settle(receipt, entry.ledger_id, entry.entry_id)
            )
        else:
            session.settle(receipt, known.ledger_id, known.entry_id)
        return True

    def _refuse(self, session: ProducerSession, receipt: Receipt, error: MagnetarError) -> None:
        self._counters.refused_batches += 1
        session.settle(receipt, error=error)

    def _batch_stored(
        self, session: ProducerSession, receipt: Receipt, flying: BatchInFlight,
        result: StoredEntry | MagnetarError,
    ) -> None:
        if isinstance(result, MagnetarError):
            self.fail(result)
            return
        if self.closed:
            return
        source: Source = session.source
        self.state.sources.stored(source, flying, result.ledger_id, result.entry_id)
        self._counters.published_batches += 1
        self._counters.published_messages += result.count
        self._counters.published_bytes += len(result.body)
        session.settle(receipt, result.ledger_id, result.entry_id)
        for waiting in flying.waiting:
            waiting(result)
        self.state.entry_stored(len(result.body))
        if self._room_waiters and self.log.pending_bytes <= self._limits.pending_publish_bytes // 2:
            self._release_waiters()
        if not self._notify_scheduled:
            self._notify_scheduled = True
            asyncio.get_running_loop().call_soon(self.wake_dispatch)

    async def until_uncongested(self) -> None:
        """Wait for room; returns as well when the topic closes."""
        while self.congested and not self.closing:
            await self._room_or_end()

    def _release_waiters(self) -> None:
        waiters, self._room_waiters = self._room_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # --- consumers

    async def open_consumer(
        self, request: OpenConsumer, deliver: OnDeliveries, ended: OnEnded,
        backlog_bytes: Callable[[], int] = lambda: 0,
    ) -> ConsumerSession:
        """A consumer or reader. Raises ConsumerBusy, InvalidArgument."""
        self._refuse_if_closing()
        marker = f"consumer of {request.subscription}"
        self._opening.add(marker)
        try:
            if request.subscription:
                subscription = await self._subscription(request)
            else:
                subscription = await self._reader(request)
            session = await subscription.attach(
                request.kind, request.consumer_name, deliver, ended, backlog_bytes,
                request.filter,
            )
        finally:
            self._opening.discard(marker)
        if self.closing:
            session.close()
            self._refuse_if_closing()
        return session

    async def _subscription(self, request: OpenConsumer) -> Subscription:
        name = request.subscription
        if len(name.encode()) > 1024:
            raise InvalidArgument("a subscription name has at most 1024 bytes")
        found = self.state.subscriptions.get(name)
        if found is None:
            if len(self.state.subscriptions) >= self._limits.subscriptions_a_topic:
                raise InvalidArgument(f"{self._name} has all the subscriptions it may have")
            scratch = self._make(request, 0)
            _, floor = await scratch.locate(
                request.start, request.initial_position, 0, inclusive=request.start_inclusive
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
        """Forget a subscription and its cursor, durably; raises SubscriptionNotFound.

        Once begun it is done, also when nobody waits for it any more."""
        found = self.state.subscriptions.get(name)
        if found is None:
            raise SubscriptionNotFound(f"{self._name} has no subscription {name!r}")
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
        subscription.forgotten()

    def subscription_idle(self, subscription: Subscription) -> None:
        """The last consumer left; what is not durable ends with it."""
        self.last_used_s = self._clock.monotonic_s()
        if not subscription.durable:
            subscription.close()
            if subscription in self._temporary:
                self._temporary.remove(subscription)
            if self.state.subscriptions.get(subscription.name) is subscription:
                del self.state.subscriptions[subscription.name]

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

    def may_dispatch_exclusively(self) -> bool:
        """No other broker can still be serving the topic's exclusive consumers."""
        return self._gate.open and not self._exclusive_held_back

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
        self.policies = self.retention.policies = policies
        self.log.log.policy = log_policy

    async def maintain(self) -> None:
        """What is due from time to time: forget, checkpoint, roll, trim, compact."""
        if self.closing:
            return
        self.state.forget_sources(self._clock.wall_ms())
        if self.state.checkpoint_is_due:
            self.state.checkpoint(lambda _error: None)
        await self.retention.apply()
        if self.state.compaction_is_due:
            await self.state.compact()

    # --- ends

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
        try:
            async with asyncio.timeout(self._limits.drain_timeout_s):
                while self.log.pending_entries and not self.closed:
                    await self._clock.sleep(0.005)
                for session in list(self.producers.values()):
                    session.flush()
                for subscription in self.subscriptions():
                    subscription.dispatcher.paused = True
                    await subscription.flushed()
                if not self.closed and self.state.checkpoint_is_due:
                    await self._durable_epoch()
                if not self.closed:
                    await self.log.log.close()
        except TimeoutError:
            raise OperationTimeout(f"{self._name} did not come to rest in time") from None
        finally:
            if not self.closed:
                self._end_sessions(NotOwner(f"{self._name} moves; look it up again"))

    def _end_sessions(self, error: MagnetarError) -> None:
        self.closing = self.closed = True
        if self._held_back_end is not None:
            self._held_back_end.cancel()
        self._release_waiters()
        for producer in list(self.producers.values()):
            producer.end(error)
        for subscription in self.subscriptions():
            subscription.close()
            subscription.fail(error)
            for consumer in list(subscription.consumers):
                consumer.end(error)
        self.log.log.abandon(str(error))
        self._on_closed(self)


def _taken_over(name: str, same_producer: bool) -> MagnetarError:
    """A producer that reconnects may be overtaken by an opening it gave up: it tries again."""
    if same_producer:
        return ConnectionFailed(f"another stream of producer {name!r} came later; open it again")
    return ProducerFenced(f"a newer producer took over the name {name!r}")
