"""Visits topics that nobody uses and something is to be done for.

A topic without users is unloaded, or lost its broker, and nobody loads it again; yet its retention
and its messages' time to live go on, and what its last owner began may have to be finished. So
each broker walks through its share of all topics, slowly, and loads those that are due; maintenance
then does the rest, and unloads them again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable

from broker.ownership import Ownership, preferred
from broker.settings import BrokerLimits
from broker.topic_registry import TopicRegistry
from magnetar.errors import InvalidArgument, MagnetarError
from magnetar.runtime.clock import Clock
from magnetar.topic import TopicName
from metadata.brokers import BrokerDirectory
from metadata.partitioned_topics import PartitionedTopicRecord, PartitionedTopicRepository
from metadata.store import MetadataStore
from metadata.tenants import NamespaceRepository, TenantRepository
from metadata.topics import NO_LEDGER_ID, TopicRecord, TopicRepository
from tenants.policies import UNLIMITED, BacklogQuotaPolicy, TopicPolicies
from tenants.resolver import PolicyResolver

VISIT_AGAIN_MS = 24 * 3_600_000
"""A topic of which a visit could free nothing is visited again after so long at the latest."""
MINUTE_MS = 60_000
RELEASED = ""
"""As an owner's incarnation: nobody's."""

_log = logging.getLogger(__name__)

Visit = Callable[[str], Awaitable[object]]
"""Loads a topic of that full name here, or finishes its deletion."""


class TopicRounds:
    """Of one broker."""

    def __init__(
        self, store: MetadataStore, resolver: PolicyResolver,
        registry: TopicRegistry, ownership: Ownership, directory: BrokerDirectory,
        broker_id: str, open_topic: Visit, finish_deletion: Visit, clock: Clock,
        limits: BrokerLimits,
    ) -> None:
        self._tenants = TenantRepository(store)
        self._namespaces = NamespaceRepository(store)
        self._topics = TopicRepository(store)
        self._resolver = resolver
        self._registry = registry
        self._ownership = ownership
        self._directory = directory
        self._broker_id = broker_id
        self._open_topic = open_topic
        self._finish_deletion = finish_deletion
        self._clock = clock
        self._limits = limits
        self._partitioned = PartitionedTopicRepository(store)
        self._ending: set[str] = set()
        """Partitioned topics whose deletion was under way in the last round."""
        self.finish_partitioned: Visit = _nobody_can
        """Goes on with such a deletion; set by who administers topics at other brokers too."""
        self._taken: set[str] = set()
        """Topics this broker took: their records may name it although it has let go of them, and
        no other broker looks after them then."""
        self._visited: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self.visits = 0
        """Topics loaded for their maintenance alone."""

    def took(self, name: str) -> None:
        """The topic's record is about to name this broker."""
        self._taken.add(name)

    async def run(self) -> None:
        """Walk for ever."""
        while True:
            await self._clock.sleep(self._limits.topic_round_interval_s)
            try:
                await self.walk()
            except MagnetarError as error:
                _log.info("the round over unused topics is put off: %s", error)
            except Exception:
                _log.exception("the round over unused topics failed")

    async def walk(self) -> None:
        """One round. Raises what the metadata store raises."""
        seen, self._ending = self._ending, set()
        async for name in self._mine():
            await self._clock.sleep(1 / self._limits.topic_round_reads_a_second)
            try:
                record, _ = await self._topics.get(name.full)
            except InvalidArgument:
                await self._finish_if_ending(name, is_stuck=name.full in seen)
                continue  # its partitions come by themselves
            except MagnetarError as error:
                _log.info("%s is not looked at in this round: %s", name, error)
                continue
            try:
                if await self._is_due(name, record):
                    await self._visit(name, record)
            except MagnetarError as error:
                _log.info("%s is not visited in this round: %s", name, error)

    async def _finish_if_ending(self, name: TopicName, *, is_stuck: bool) -> None:
        """Of a partitioned topic; whoever began its deletion gets a round's time to end it."""
        try:
            record = await self._partitioned.read(name.full)
            if not isinstance(record, PartitionedTopicRecord) or not record.deleting:
                return
            self._ending.add(name.full)
            if is_stuck:
                _log.info("goes on with the deletion of %s", name)
                await self.finish_partitioned(name.full)
        except MagnetarError as error:
            _log.info("the deletion of %s is not gone on with in this round: %s", name, error)

    async def _mine(self) -> AsyncIterator[TopicName]:
        """This broker's share of all topics, and what it took, as far as it has not loaded it."""
        gone = set(self._taken)
        for tenant in await self._tenants.list():
            for namespace in await self._namespaces.list(tenant):
                for full in await self._topics.list(tenant, namespace):
                    gone.discard(full)
                    mine = full in self._taken or self._is_preferred(full)
                    if mine and self._registry.get(full) is None:
                        yield TopicName.parse(full)
        self._taken -= gone

    def _is_preferred(self, full: str) -> bool:
        chosen = preferred(full, self._directory.all())
        return chosen is not None and chosen.broker_id == self._broker_id

    async def _is_due(self, name: TopicName, record: TopicRecord) -> bool:
        if self._registry.is_busy_with(name.full):
            return False
        owner = record.owner
        if owner is not None and owner.incarnation == RELEASED:
            owner = None
        alive = None if owner is None else await self._ownership.owner_alive(owner)
        if alive is not None and alive.broker_id == self._broker_id:
            # It failed here, or could not be released: nobody else looks after it.
            return bool(record.deleting or record.every_ledger)
        self._taken.discard(name.full)
        if alive is not None or not self._is_preferred(name.full):
            return False
        if owner is not None and record.every_ledger:
            return True  # it died with the topic, and may have left work
        if record.deleting or record.doomed_ledgers or record.has_schedule:
            return True
        if not record.ledgers:
            return False
        dues_ms = dues_ms_of(record, await self._resolver.resolve(name))
        now_ms = self._clock.wall_ms()
        oldest, visited_ms = self._visited.get(name.full, (NO_LEDGER_ID, 0))
        if oldest != record.ledgers[0].ledger_id or now_ms - visited_ms >= VISIT_AGAIN_MS:
            visited_ms = 0
        return any(visited_ms < due_ms <= now_ms for due_ms in dues_ms)

    async def _visit(self, name: TopicName, record: TopicRecord) -> None:
        oldest = record.ledgers[0].ledger_id if record.ledgers else NO_LEDGER_ID
        self._visited[name.full] = (oldest, self._clock.wall_ms())
        self._visited.move_to_end(name.full)
        while len(self._visited) > self._limits.topics:
            self._visited.popitem(last=False)
        self.visits += 1
        await (self._finish_deletion if record.deleting else self._open_topic)(name.full)
        await self._clock.sleep(1 / self._limits.topic_round_visits_a_second)


async def _nobody_can(_topic: str) -> None:
    """Stays as it is until somebody asks for the deletion again."""


def dues_ms_of(record: TopicRecord, policies: TopicPolicies) -> list[int]:
    """When a visit may free something of a topic without users; none: nothing ever.

    What it had consumed, and need not keep, it gave up before it was unloaded; so this is about
    time, and about policies that were changed since.
    """
    oldest = record.ledgers[0]
    since_ms = oldest.last_append_ms or oldest.closed_ms
    dues_ms = []
    if policies.retention_minutes != UNLIMITED:
        dues_ms.append(since_ms + policies.retention_minutes * MINUTE_MS)
    elif policies.retention_bytes != UNLIMITED:
        dues_ms.append(since_ms)
    if policies.message_ttl_ms:
        dues_ms.append(since_ms + policies.message_ttl_ms)
    if policies.backlog_quota_policy is BacklogQuotaPolicy.EVICT_OLDEST:
        if policies.backlog_quota_age_ms != UNLIMITED:
            dues_ms.append(since_ms + policies.backlog_quota_age_ms)
        if policies.backlog_quota_bytes != UNLIMITED:
            dues_ms.append(since_ms)
    return dues_ms
