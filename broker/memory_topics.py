"""Non-persistent topics of a broker: where they are, how they begin, when they leave.

    lookup ─▶ MemoryOwnership ─ here ─▶ TopicRegistry ─▶ a Topic over a MemoryLog

No metadata are written and nothing lies on bookies. What happens to a topic's messages, its
subscriptions and its producers' sequence ids happens in this broker's memory, and ends when the
topic moves to another broker, when nobody uses it any more, or when the broker stops.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from broker.conversation import LookupResult
from broker.memory_keeper import MemoryBudget, MemoryKeeper
from broker.memory_log import MemoryLog
from broker.memory_ownership import MemoryOwnership
from broker.publishing import TopicCounters
from broker.settings import BrokerLimits
from broker.tail_cache import TailCache
from broker.topic import Topic
from broker.topic_log import TopicLog
from broker.topic_registry import TopicRegistry
from ledger.managed_log import LogPolicy
from magnetar.errors import NotOwner, TopicNotFound
from magnetar.ids import LedgerId
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Address
from magnetar.topic import TopicName
from metadata.brokers import BrokerRegistration
from metadata.topics import Owner
from tenants.policies import TopicPolicies
from tenants.resolver import PolicyResolver

ID_SHIFT = 20
"""Segments are numbered from the time in milliseconds, shifted by so many bits, so that no id of
another owner's, or of an earlier life of the topic, is given twice."""

MakeTopic = Callable[[str, TopicLog, TopicPolicies], Topic]


class MemoryTopics:
    """`make` makes a topic over a log."""

    def __init__(
        self, me: Callable[[], BrokerRegistration], ownership: MemoryOwnership,
        registry: TopicRegistry, resolver: PolicyResolver, clock: Clock, random: Random,
        limits: BrokerLimits, counters: TopicCounters, make: MakeTopic,
    ) -> None:
        self._me = me
        self._ownership = ownership
        self._registry = registry
        self._resolver = resolver
        self._clock = clock
        self._random = random
        self._limits = limits
        self._cache = TailCache(limits.memory_tail_bytes)
        self._counters = counters
        self._make = make
        self.budget = MemoryBudget(limits.memory_bytes)

    async def lookup(
        self, name: TopicName, unreachable_address: str, *, create: bool
    ) -> LookupResult:
        """Where the topic is served; made if that is here. Raises TopicNotFound."""
        place = await self._ownership.for_lookup(name.full, unreachable_address)
        if place.broker is not None:
            return LookupResult(str(place.broker.address), name.full, place.relay)
        await self._obtain(name, create)
        return LookupResult(str(self._me().address), name.full)

    async def owner_address(self, name: TopicName) -> Address | None:
        """Of the broker that serves the topic, for a relay; None: it is to be served here."""
        target = await self._ownership.for_opening(name.full)
        return None if target is None else target.address

    async def topic(self, name: TopicName, *, create: bool = True) -> Topic:
        """The open topic. Raises NotOwner when another broker serves it, TopicNotFound."""
        target = await self._ownership.for_opening(name.full)
        if target is not None:
            raise NotOwner(f"{name.full} is served by {target.address}; look it up again")
        return await self._obtain(name, create)

    async def _obtain(self, name: TopicName, create: bool) -> Topic:
        found = self._registry.get(name.full)
        if found is not None:
            return found
        if not create:
            raise TopicNotFound(f"{name.full} is in nobody's memory: it comes into being by use")
        return await self._registry.obtain(name.full)

    async def load(
        self, name: TopicName, log_policy: Callable[[TopicPolicies], LogPolicy]
    ) -> Topic:
        """A new topic, empty. Raises TopicNotFound where topics may not come into being by use."""
        me = self._me()
        policies = await self._resolver.resolve(name)
        if not policies.auto_create_topics:
            raise TopicNotFound(
                f"{name.full} is not there, and its namespace creates no topics by use"
            )
        now_ms = self._clock.wall_ms()
        keeper = MemoryKeeper(self.budget, self._counters, self._limits.memory_topic_bytes)
        memory = MemoryLog(
            name.full, Owner(me.broker_id, me.incarnation, now_ms),
            LedgerId((now_ms << ID_SHIFT) + self._random.getrandbits(ID_SHIFT - 1)),
            min(self._limits.memory_segment_bytes, self._limits.memory_topic_bytes // 4),
            self._clock, log_policy(policies), keeper.segment_began, self.budget.added,
        )
        log = TopicLog(memory, self._cache, self._clock)
        topic = self._make(name.full, log, policies)
        keeper.keep(topic, log, memory)
        topic.memory = keeper
        try:
            await topic.load()
            if self._me() is not me:
                raise NotOwner(f"this broker lost {name.full}; look it up again")
        except BaseException:
            topic.abandon()
            raise
        return topic

    def brokers_changed(self) -> None:
        """Give up what is another broker's now."""
        self._ownership.forget_gone()
        for topic in self._registry.all():
            if topic.memory is not None and self._ownership.known(topic.name) is not None:
                topic.abandon()

    async def keep_or_leave(self, topic: Topic) -> bool:
        """Looked at from time to time; False: the topic is another broker's, and is given up."""
        if await self._ownership.still_mine(topic.name):
            return True
        topic.abandon()
        return False
