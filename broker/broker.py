"""The broker's core: which topics are its own, and the way to them. Free of any transport.

    lookup, open_producer, open_consumer ─▶ Ownership (here, elsewhere, relay)
                                               └─ here ─▶ TopicRegistry ─▶ Topic

SUSPENDED changes nothing for publishing and acknowledging, which fencing decides, and stops
exclusive dispatch after two thirds of the session in silence. LOST closes every topic; with its
next session the broker comes back under a new incarnation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from random import Random

from broker.consumer_session import ConsumerSession
from broker.conversation import (
    SHARED_ACCESS,
    Access,
    LookupResult,
    NotServing,
    OnDeliveries,
    OnEnded,
    OnEvent,
    OnReceipts,
    OpenConsumer,
)
from broker.forwarding.byte_budget import ByteBudget
from broker.forwarding.lane import ForwardCounters, LaneLimits, LaneOffice
from broker.forwarding.port import Forwarder, NoForwarder
from broker.memory_ownership import MemoryOwnership
from broker.memory_topics import MemoryTopics
from broker.ownership import Decision, Ownership, Probe, Verdict
from broker.producer_session import ProducerSession
from broker.publishing import TopicCounters
from broker.schedule.memory import ScheduleMemory
from broker.schedule_rounds import ScheduleRounds
from broker.settings import BrokerSettings
from broker.tail_cache import TailCache
from broker.topic import Topic
from broker.topic_catalog import TopicCatalog
from broker.topic_deletion import TopicDeletion
from broker.topic_lifecycle import TopicLifecycle
from broker.topic_log import TopicLog
from broker.topic_registry import TopicRegistry
from broker.topic_rounds import TopicRounds
from broker.topic_watches import TopicWatches
from ledger.driver import LedgerStore
from ledger.managed_log import LogPolicy, ManagedLog
from ledger.quorum import Quorums
from magnetar.errors import (
    InvalidArgument,
    LedgerError,
    LedgerFenced,
    MagnetarError,
    MetadataError,
    NotFound,
    NotOwner,
    TopicNotFound,
)
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Address
from magnetar.topic import TopicName
from metadata.brokers import BrokerDirectory, BrokerRegistration, BrokerRepository
from metadata.partitioned_topics import AnyTopicRecord, PartitionedTopicRecord
from metadata.store import Cancel, MetadataStore, SessionState
from metadata.topics import Owner, TopicRecord, TopicRepository
from tenants.policies import TopicPolicies
from tenants.resolver import PolicyResolver

SILENCE_SHARE = 2 / 3
"""Share of the session timeout in silence after which exclusive dispatch stops."""

MAINTAINED_AT_ONCE = 64
RELEASED = ""
"""As an owner's incarnation: nobody's."""

_log = logging.getLogger(__name__)


class SessionGate:
    """Open while this broker's session was heard of recently enough, on the monotonic clock."""

    __slots__ = ("_store",)

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    @property
    def open(self) -> bool:
        store = self._store
        if store.state is SessionState.CONNECTED:
            silence_s = store.silence_s()
            return silence_s == 0 or silence_s < store.session_timeout_s * SILENCE_SHARE
        return (
            store.state is SessionState.SUSPENDED
            and store.silence_s() < store.session_timeout_s * SILENCE_SHARE
        )


class Broker:
    """One broker. `address` and `admin_address` are what clients are told; `forwarder` publishes
    to other topics for it."""

    def __init__(
        self, store: MetadataStore, ledgers: LedgerStore, resolver: PolicyResolver, clock: Clock,
        random: Random, settings: BrokerSettings, probe: Probe, address: Address,
        admin_address: Address | None = None, forwarder: Forwarder | None = None,
        lane_limits: LaneLimits | None = None,
    ) -> None:
        self._store = store
        self._ledgers = ledgers
        self._resolver = resolver
        self._clock = clock
        self._random = random
        self.settings = settings
        self._address = address
        self._admin_address = admin_address
        self._topics = TopicRepository(store)
        self.catalog = TopicCatalog(store, resolver, clock)
        self.topic_watches = TopicWatches(self.catalog, resolver, clock, settings.limits)
        self._brokers = BrokerRepository(store)
        self.directory: BrokerDirectory = self._brokers.directory()
        self._registration: BrokerRegistration | None = None
        self._serving = False
        self._stopping = False
        self._gate = SessionGate(store)
        self.cache = TailCache(settings.limits.tail_cache_bytes)
        self.counters = TopicCounters()
        self.schedules = ScheduleMemory(settings.limits.schedule_memory_bytes, clock)
        self.lanes = LaneOffice(
            forwarder or NoForwarder(), ByteBudget(settings.limits.forwarding_bytes), clock, random,
            ForwardCounters(), lane_limits or LaneLimits(),
        )
        self.registry = TopicRegistry(self._load, settings.limits)
        self.ownership = Ownership(
            self._me, self._brokers, self.directory, probe, clock, settings.limits
        )
        self._memory = MemoryTopics(
            self._me, MemoryOwnership(self._me, self.directory, probe, clock, settings.limits),
            self.registry, resolver, clock, random, settings.limits, self.counters,
            self._make_topic,
        )
        self._deletion = TopicDeletion(store, self.catalog, ledgers, self._me)
        self.lifecycle = TopicLifecycle(
            self.catalog, self.registry, self._deletion, self._topic
        )
        self.rounds = TopicRounds(
            store, resolver, self.registry, self.ownership, self.directory, settings.broker_id,
            self.existing_topic, self._deletion.finish, clock, settings.limits,
        )
        self.schedule_rounds = ScheduleRounds(
            store, self.registry, self.ownership, self.directory, settings.broker_id,
            lambda: self.serving, self.existing_topic, clock, settings.limits,
        )
        self._held_back: dict[str, Owner] = {}
        self._watches: dict[str, Cancel] = {}
        self._cancels: list[Cancel] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._register_task: asyncio.Task[None] | None = None
        self._policies_task: asyncio.Task[None] | None = None
        self._policies_stale = False
        self._maintaining: dict[str, asyncio.Task[None]] = {}

    # --- life

    @property
    def serving(self) -> bool:
        """Registered with a live session and not stopping."""
        return self._serving and not self._stopping

    @property
    def address(self) -> Address:
        """What clients are told."""
        return self._address

    @property
    def incarnation(self) -> str:
        """Tells this life of the broker from its others."""
        return self._me().incarnation

    async def start(self) -> None:
        """Join the cluster."""
        self._cancels.append(self._store.on_session(self._session_changed))
        await self.directory.start()
        self._cancels.append(self.directory.on_change(self._brokers_changed))
        self._cancels.append(self._resolver.on_change(self._policies_changed))
        await self._register()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._maintain_forever(), name="maintenance"),
            loop.create_task(self._reopen_gate_forever(), name="gate"),
            loop.create_task(self.rounds.run(), name="rounds over unused topics"),
            loop.create_task(self.schedule_rounds.run(), name="rounds over schedules"),
        ]

    async def stop(self) -> None:
        """Leave in good order: close every topic, tell the clients, take the registration back."""
        self._stopping = True
        self.topic_watches.stop()
        for task in self._running_tasks():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        # Who dies with a topic leaves work behind, as the rounds of the other brokers see it.
        owned = [
            (topic.name, topic.log.log.owner) for topic in self.registry.all()
            if topic.memory is None and not topic.is_forwarding
        ]
        for error in await self.registry.unload_all():
            _log.warning("a topic did not close in good order: %s", error)
        await self._deletion.stop()
        await asyncio.gather(*(self._release(name, owner) for name, owner in owned))
        for cancel in (*self._cancels, *self._watches.values()):
            cancel()
        self._watches.clear()
        with contextlib.suppress(MetadataError):
            await self._brokers.unregister(self.settings.broker_id)
        await self.directory.stop()
        self._serving = False

    def crash(self) -> None:
        """Stop at once, as a killed process would: for tests and the simulator."""
        self._stopping = True
        self._serving = False
        self.topic_watches.stop()
        for task in self._running_tasks():
            task.cancel()
        for cancel in (*self._cancels, *self._watches.values()):
            cancel()
        self.registry.abandon_all()
        self._deletion.abandon()

    def _running_tasks(self) -> list[asyncio.Task[None]]:
        single = (self._register_task, self._policies_task)
        return [
            *self._tasks, *self._maintaining.values(),
            *(task for task in single if task is not None),
        ]

    def _me(self) -> BrokerRegistration:
        if self._registration is None:
            raise NotServing("this broker has no metadata session now; try another")
        return self._registration

    async def _register(self) -> None:
        registration = BrokerRegistration(
            self.settings.broker_id, f"{self._random.getrandbits(64):016x}", self._address,
            self._admin_address,
        )
        await self._brokers.register(registration)
        self._registration = registration
        self._serving = True

    def _session_changed(self, state: SessionState) -> None:
        if state is SessionState.LOST:
            # Whatever this incarnation owned is free for others from now on.
            self._serving = False
            self._registration = None
            self.registry.abandon_all()
        elif state is SessionState.CONNECTED:
            if self._registration is None and not self._stopping:
                task = self._register_task
                if task is None or task.done():
                    self._register_task = asyncio.get_running_loop().create_task(
                        self._register_again(), name="register"
                    )
            self._wake_all()

    async def _register_again(self) -> None:
        while self._registration is None:
            try:
                await self._register()
            except MetadataError as error:
                _log.warning("cannot register, trying again: %s", error)
                await self._clock.sleep(0.2)

    async def _reopen_gate_forever(self) -> None:
        """Dispatch looks at the gate whenever it runs; this only notices that it reopened."""
        was_open = True
        while True:
            await self._clock.sleep(self._store.session_timeout_s / 12)
            now_open = self._gate.open
            if now_open and not was_open:
                self._wake_all()
            was_open = now_open

    def _policies_changed(self) -> None:
        if self._policies_task is None or self._policies_task.done():
            self._policies_task = asyncio.get_running_loop().create_task(self._follow_policies())
        else:
            self._policies_stale = True

    async def _follow_policies(self) -> None:
        """Bring the loaded topics' policies up to date; what cannot be read stays as it was."""
        self._policies_stale = True
        while self._policies_stale:
            self._policies_stale = False
            for topic in self.registry.all():
                try:
                    policies = await self._resolver.resolve(TopicName.parse(topic.name))
                except MagnetarError as error:
                    _log.warning("%s keeps its policies: %s", topic.name, error)
                else:
                    topic.follow(policies, _log_policy(policies))

    def _wake_all(self) -> None:
        for topic in self.registry.all():
            topic.wake_dispatch()

    def _brokers_changed(self) -> None:
        if self._registration is not None:
            self._memory.brokers_changed()
        mine = self.directory.get(self.settings.broker_id)
        if mine is not None and self._registration is not None and (
            mine.incarnation != self._registration.incarnation
        ):
            self._check_replaced()
        self.schedule_rounds.look_soon()
        for name, owner in list(self._held_back.items()):
            alive = self.directory.get(owner.broker_id)
            if alive is None or alive.incarnation != owner.incarnation:
                self._let_go(name)

    def _check_replaced(self) -> None:
        """The view shows another life of this broker: an older one's, or one that took over."""
        loop = asyncio.get_running_loop()
        if self._register_task is None or self._register_task.done():
            self._register_task = loop.create_task(self._leave_if_replaced(), name="replaced")

    async def _leave_if_replaced(self) -> None:
        with contextlib.suppress(MetadataError):
            current = await self._brokers.get(self.settings.broker_id)
            mine = self._registration
            if mine is not None and current.incarnation != mine.incarnation:
                _log.error("another process took over the broker id %s", current.broker_id)
                self._serving = False
                self._stopping = True
                self.registry.abandon_all()

    async def _maintain_forever(self) -> None:
        while True:
            await self._clock.sleep(self.settings.limits.maintenance_interval_s)
            now_s = self._clock.monotonic_s()
            for number, topic in enumerate(self.registry.all()):
                topic.sample_traffic(now_s)
                # A topic that waits for bookies must not keep the others waiting.
                if topic.name not in self._maintaining:
                    task = asyncio.get_running_loop().create_task(self._maintain(topic))
                    self._maintaining[topic.name] = task
                if number % MAINTAINED_AT_ONCE == MAINTAINED_AT_ONCE - 1:
                    await asyncio.sleep(0)

    async def _maintain(self, topic: Topic) -> None:
        limits = self.settings.limits
        try:
            if topic.closing:
                return  # and released by whoever ends it
            idle_s = self._clock.monotonic_s() - topic.last_used_s
            if not topic.in_use and idle_s >= limits.idle_unload_s:
                await self.registry.unload(topic)
                if topic.memory is None:
                    await self._release(topic.name, topic.log.log.owner)
            elif topic.memory is None or await self._memory.keep_or_leave(topic):
                await topic.maintain()
        except MagnetarError as error:
            _log.warning("%s: maintenance put off: %s", topic.name, error)
        finally:
            self._maintaining.pop(topic.name, None)

    # --- what clients ask

    async def lookup(
        self, topic: str, unreachable_address: str = "", *, create: bool = True,
        must_exist: bool = False,
    ) -> LookupResult:
        """Where `topic` is served; see Ownership. Raises InvalidTopicName, TopicNotFound; made if
        missing, unless `create` is False. `must_exist`: see TopicCatalog.obtain."""
        name = TopicName.parse(topic)
        self._refuse_unless_serving()
        if not name.persistent:
            return await self._memory.lookup(name, unreachable_address, create=create)
        if self.registry.get(name.full) is not None:
            return LookupResult(str(self._address), name.full)
        record = await (
            self._obtain(name, must_exist) if create else self.catalog.existing(name))
        if isinstance(record, PartitionedTopicRecord):
            return LookupResult(str(self._address), name.full, partitions=record.partitions)
        decision = await self.ownership.for_lookup(name.full, record.owner, unreachable_address)
        if decision.verdict is Verdict.HERE:
            await self.registry.obtain(name.full, decision)
            return LookupResult(str(self._address), name.full)
        assert decision.broker is not None
        relay = decision.verdict is Verdict.RELAY
        return LookupResult(str(decision.broker.address), name.full, relay)

    async def owner_address(self, topic: str) -> Address | None:
        """The registered broker that owns the topic, for a relay; None: it is to be served here."""
        name = TopicName.parse(topic)
        self._refuse_unless_serving()
        if not name.persistent:
            return await self._memory.owner_address(name)
        if self.registry.get(name.full) is not None:
            return None
        record = await self._record(name)
        decision = await self.ownership.for_opening(record.owner)
        return None if decision.broker is None else decision.broker.address

    async def open_producer(
        self, topic: str, producer_name: str, producer_epoch: int, reply: OnReceipts,
        ended: OnEnded, access: Access = SHARED_ACCESS,
    ) -> ProducerSession:
        """See Publishing.open_producer. Raises NotOwner when another broker serves the topic."""
        opened = await self._topic(topic)
        return await opened.publishing.open_producer(
            producer_name, producer_epoch, reply, ended, access
        )

    async def open_consumer(
        self, request: OpenConsumer, deliver: OnDeliveries, ended: OnEnded,
        backlog_bytes: Callable[[], int] = lambda: 0, on_event: OnEvent = lambda _event: None,
    ) -> ConsumerSession:
        """See Topic.open_consumer. Raises NotOwner when another broker serves the topic."""
        opened = await self._topic(request.topic, must_exist=request.must_exist)
        return await opened.open_consumer(request, deliver, ended, backlog_bytes, on_event)

    def _refuse_unless_serving(self) -> None:
        if not self.serving:
            raise NotServing("this broker is joining or leaving the cluster; try another")

    async def topic_here(self, topic: str) -> Topic:
        """The topic, loaded, if it is this broker's or can be. Raises NotOwner when another
        broker serves it, InvalidTopicName, TopicNotFound."""
        return await self._topic(topic)

    async def existing_topic(self, topic: str) -> Topic:
        """The open topic, for administration. Raises TopicNotFound, and NotOwner when another
        broker serves it."""
        return await self._topic(topic, create=False)

    async def _topic(
        self, topic: str, *, create: bool = True, must_exist: bool = False
    ) -> Topic:
        name = TopicName.parse(topic)
        self._refuse_unless_serving()
        found = self.registry.get(name.full)
        if found is not None:
            return found
        if not name.persistent:
            return await self._memory.topic(name, create=create and not must_exist)
        record = await self._record(name, create, must_exist)
        decision = await self.ownership.for_opening(record.owner)
        if decision.broker is not None:
            raise NotOwner(f"{name.full} is served by {decision.broker.address}; look it up again")
        return await self.registry.obtain(name.full, decision)

    async def _record(
        self, name: TopicName, create: bool = True, must_exist: bool = False
    ) -> TopicRecord:
        """The record of a topic that is a log itself, made now where the policy allows."""
        record = await (
            self._obtain(name, must_exist) if create else self.catalog.existing(name))
        if isinstance(record, PartitionedTopicRecord):
            raise InvalidArgument(
                f"{name.full} is partitioned; open its partitions {name.with_partition(0).local}"
                f" to {name.with_partition(record.partitions - 1).local}"
            )
        return record

    async def _obtain(self, name: TopicName, must_exist: bool = False) -> AnyTopicRecord:
        """The record of what has the name; see TopicCatalog.obtain."""
        record = await self.catalog.obtain(name, must_exist=must_exist)
        while isinstance(record, TopicRecord) and record.deleting:
            if must_exist:
                raise TopicNotFound(f"{name.full} is being deleted")
            await self.registry.until_closed(name.full)
            decision = await self.ownership.for_opening(record.owner)
            if decision.broker is not None:
                return record  # whoever asks is sent to the broker that deletes it
            await self._deletion.finish(name.full)
            record = await self.catalog.obtain(name)
        return record

    # --- loading

    async def _load(self, name: str, decision: Decision) -> Topic:
        """Take the topic's record, recover its ledgers, rebuild its state."""
        me, parsed = self._me(), TopicName.parse(name)
        if not parsed.persistent:
            return await self._memory.load(parsed, _log_policy)
        policies = await self._resolver.resolve(parsed)
        topic: Topic | None = None

        async def may_take(owner: Owner | None) -> bool:
            """The record may name another than the one that was decided about."""
            return owner == decision.former or (
                (await self.ownership.for_opening(owner)).verdict is Verdict.HERE
            )

        def fenced(error: LedgerError) -> None:
            if topic is not None:
                topic.fail(error)

        self.rounds.took(name)
        try:
            log = await ManagedLog.open(
                name, me.broker_id, me.incarnation, topics=self._topics, ledgers=self._ledgers,
                clock=self._clock, policy=_log_policy(policies), on_fenced=fenced,
                may_take=may_take,
            )
        except LedgerFenced as error:
            raise NotOwner(f"another broker took {name}: {error}; look it up again") from error
        except NotFound as error:
            raise NotOwner(f"{name} was deleted meanwhile; look it up again") from error
        if log.record.deleting:
            log.abandon("it is being deleted")
            raise NotOwner(f"{name} is being deleted; look it up again")
        topic = self._make_topic(name, TopicLog(log, self.cache, self._clock), policies)
        try:
            await topic.load()
        except BaseException:
            topic.abandon()
            raise
        if self._registration is not me or topic.closed:
            topic.abandon()
            raise NotOwner(f"this broker lost {name} while loading it; look it up again")
        self._watch(topic, log.owner)
        if decision.former is not None and decision.hold_back:
            self._held_back[name] = decision.former
            topic.hold_back_exclusive(self._store.session_timeout_s)
        return topic

    def _make_topic(self, name: str, log: TopicLog, policies: TopicPolicies) -> Topic:
        return Topic(
            name, log, policies, self.settings.limits, self._clock, self._gate, self.counters,
            self._closed, self.lanes, self.schedules,
        )

    async def _release(self, name: str, mine: Owner) -> None:
        """Give up the owner field, so that the next owner need not wait for our end. The epoch
        stays, for the next one to be above it."""
        with contextlib.suppress(MetadataError):
            record, version = await self._topics.get(name)
            if record.owner == mine and self.registry.get(name) is None:
                released = Owner(mine.broker_id, RELEASED, mine.epoch)
                await self._topics.update(replace(record, owner=released), version)

    def _let_go(self, name: str) -> None:
        self._held_back.pop(name, None)
        topic = self.registry.get(name)
        if topic is not None:
            topic.let_go()

    def _closed(self, topic: Topic) -> None:
        self.registry.remove(topic)
        if topic.memory is None and topic.schedule.count:
            self.schedule_rounds.left(topic.name)
        self._held_back.pop(topic.name, None)
        cancel = self._watches.pop(topic.name, None)
        if cancel is not None:
            cancel()

    def _watch(self, topic: Topic, mine: Owner) -> None:
        """Learn at once when another broker takes the topic: safe without, but impolite."""
        loop = asyncio.get_running_loop()
        reading: list[asyncio.Task[None]] = []

        async def read() -> None:
            with contextlib.suppress(MagnetarError):
                try:
                    owner = (await self._topics.get(topic.name))[0].owner
                except NotFound:
                    owner = None
                if owner != mine and not topic.closing:
                    topic.abandon()

        def changed() -> None:
            if not topic.closed and (not reading or reading[0].done()):
                reading[:] = [loop.create_task(read())]
            elif reading:
                reading[0].add_done_callback(lambda _task: None if topic.closed else changed())

        self._watches[topic.name] = self._topics.watch(topic.name, changed)


def _log_policy(policies: TopicPolicies) -> LogPolicy:
    return LogPolicy(
        Quorums(policies.ensemble_size, policies.write_quorum, policies.ack_quorum),
        policies.max_ledger_bytes, policies.max_ledger_entries, policies.max_ledger_age_ms,
    )


