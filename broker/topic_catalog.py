"""Which topics there are: created, grown and listed here, plain and partitioned alike.

    T               plain: one log
    T               partitioned: no log, but partitions T-partition-0 .. T-partition-(n-1),
                    each a log of its own that comes into being by its first use

A name is one of the two. What changed is told to the watchers of the namespace afterwards.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from broker.topic_pattern import TopicPattern
from magnetar.errors import (
    AlreadyExists,
    BadVersion,
    InvalidArgument,
    MetadataError,
    NotFound,
    ResourceExists,
    TopicNotFound,
)
from magnetar.runtime.clock import Clock
from magnetar.topic import TopicName
from metadata.partitioned_topics import (
    AnyTopicRecord,
    PartitionedTopicRecord,
    PartitionedTopicRepository,
    check_partitions,
)
from metadata.store import Cancel, MetadataStore
from metadata.topic_generations import TopicGenerations
from metadata.topics import TopicRecord, TopicRepository
from tenants.global_order import check_partitions_keep_order
from tenants.policies import TopicPolicies
from tenants.resolver import PolicyResolver

PARTITION_MARK: Final = "-partition-"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class CatalogTopic:
    """A topic as users name it. `partitions` 0: it has none and is a log itself."""

    name: str
    partitions: int = 0


class TopicCatalog:
    """The topics of the cluster. Every method may raise MetadataError."""

    def __init__(self, store: MetadataStore, resolver: PolicyResolver, clock: Clock) -> None:
        self._topics = TopicRepository(store)
        self._partitioned = PartitionedTopicRepository(store)
        self._generations = TopicGenerations(store)
        self._resolver = resolver
        self._clock = clock

    async def obtain(self, name: TopicName, *, must_exist: bool = False) -> AnyTopicRecord:
        """The topic's record, made now where the policy allows. With `must_exist` only that of a
        partition is made, whose topic exists.

        Raises TopicNotFound, also for a partition that the topic does not have.
        """
        try:
            return await self._partitioned.read(name.full)
        except NotFound:
            policies = await self._resolver.resolve(name)
        if name.partition >= 0:
            return await self._obtain_partition(name, policies, must_exist)
        if must_exist:
            raise TopicNotFound(f"{name.full} does not exist")
        if not policies.auto_create_topics:
            raise TopicNotFound(
                f"{name.full} does not exist, and its namespace creates none by use"
            )
        with contextlib.suppress(AlreadyExists):
            partitions = 0 if policies.global_order else policies.auto_create_partitions
            await self._create(name, partitions, {})
        return await self._existing(name)

    async def partitions_of(self, name: TopicName) -> int:
        """How many partitions the topic has; 0: it is plain, as every one that is not
        persistent. Raises TopicNotFound."""
        if not name.persistent:
            return 0
        record = await self._existing(name)
        return record.partitions if isinstance(record, PartitionedTopicRecord) else 0

    async def create_topic(
        self, name: TopicName, partitions: int = 0, properties: Mapping[str, str] | None = None
    ) -> None:
        """Create a plain topic, or a partitioned one. Raises ResourceExists when the name is
        taken by either kind, NamespaceNotFound, InvalidArgument."""
        if not name.persistent:
            raise InvalidArgument("non-persistent topics come into being by use, not by creation")
        if name.partition >= 0:
            raise InvalidArgument(
                f"{name.full} is named as a partition; create {name.base.full} with partitions"
            )
        if partitions:
            check_partitions(partitions)
        check_partitions_keep_order(name, await self._resolver.resolve(name), partitions)
        try:
            await self._create(name, partitions, properties or {})
        except AlreadyExists:
            raise ResourceExists(await self._what_is_there(name)) from None

    async def grow_topic(self, name: TopicName, partitions: int) -> None:
        """Give a partitioned topic more partitions. Raises InvalidArgument for fewer than it has
        and for a plain topic, TopicNotFound."""
        check_partitions(partitions)
        record = await self._existing(name)
        if isinstance(record, TopicRecord):
            raise InvalidArgument(f"{name.full} is not partitioned, so it cannot get partitions")
        check_partitions_keep_order(name, await self._resolver.resolve(name), partitions)
        try:
            await self._partitioned.grow(name.full, partitions)
        except NotFound:
            raise TopicNotFound(f"{name.full} was deleted meanwhile") from None
        await self.tell_changed(name)

    async def close_partitions(self, name: TopicName) -> list[TopicName]:
        """Begin the deletion of a partitioned topic: no partition comes into being any more.

        Answers with the partitions that may exist and are to be deleted next; `forget_topic`
        ends the deletion. Raises TopicNotFound, also for a plain topic.
        """
        try:
            record = await self._partitioned.mark_deleting(name.full)
        except NotFound:
            raise TopicNotFound(f"there is no partitioned topic {name.full}") from None
        await self.tell_changed(name)
        return [name.with_partition(number) for number in range(record.partitions)]

    async def ends(self, name: TopicName) -> bool:
        """Whether the partitioned topic is being deleted, or gone; so is one whose name belongs
        to a plain topic now."""
        try:
            record = await self._partitioned.read(name.full)
        except NotFound:
            return True
        return isinstance(record, TopicRecord) or record.deleting

    async def forget_topic(self, name: TopicName) -> None:
        """Delete a partitioned topic's record, its partitions being gone. Raises TopicNotFound."""
        try:
            await self._partitioned.delete(name.full)
        except NotFound:
            raise TopicNotFound(f"there is no partitioned topic {name.full}") from None
        await self.tell_changed(name)

    async def list_topics(
        self, tenant: str, namespace: str, pattern: str = ""
    ) -> list[CatalogTopic]:
        """The namespace's topics, without their partitions, by name; with a `pattern` those
        whose full name it matches. Raises InvalidArgument for a pattern that cannot be read."""
        wanted = TopicPattern(pattern) if pattern else None
        found = await self.partitions_by_topic(tenant, namespace)
        return [
            CatalogTopic(name, found[name]) for name in sorted(found)
            if wanted is None or wanted.matches(name)
        ]

    async def partitions_by_topic(self, tenant: str, namespace: str) -> dict[str, int]:
        """How many partitions each of the namespace's topics has, by full name; 0: plain."""
        # In this order: a base topic is in the index before it is among the names.
        names = await self._topics.list(tenant, namespace)
        partitioned = await self._partitioned.list(tenant, namespace)
        found: dict[str, int] = {}
        for name in names:
            # Most names are not worth parsing.
            base = TopicName.parse(name).base.full if PARTITION_MARK in name else name
            if base not in partitioned:
                found[name] = 0
        for record in partitioned.values():
            if record is not None and not record.deleting:
                found[record.name] = record.partitions
        return found

    async def find(self, name: TopicName) -> CatalogTopic | None:
        """The topic as users name it; None when it does not exist, or is being deleted."""
        try:
            record = await self.existing(name)
        except TopicNotFound:
            return None
        if isinstance(record, TopicRecord):
            return CatalogTopic(name.full)
        return None if record.deleting else CatalogTopic(name.full, record.partitions)

    async def tell_changed(self, name: TopicName) -> None:
        """Tell the watchers of the topic's namespace that it was created, deleted or grown."""
        try:
            await self._generations.advance(name.tenant, name.namespace)
        except MetadataError as error:
            _log.warning("watchers learn of %s only by their next re-reading: %s", name, error)

    def watch_namespace(
        self, tenant: str, namespace: str, callback: Callable[[], None]
    ) -> Cancel:
        """Call back after topics of the namespace were created, deleted or grown."""
        return self._generations.watch(tenant, namespace, callback)

    def watch_topic(self, name: TopicName, callback: Callable[[], None]) -> Cancel:
        """Call back after changes of the topic's record."""
        return self._partitioned.watch(name.full, callback)

    async def existing(self, name: TopicName) -> AnyTopicRecord:
        """The topic's record; raises TopicNotFound, also for a plain one that is being deleted."""
        record = await self._existing(name)
        if isinstance(record, TopicRecord) and record.deleting:
            raise TopicNotFound(f"{name.full} is being deleted")
        return record

    async def _existing(self, name: TopicName) -> AnyTopicRecord:
        try:
            return await self._partitioned.read(name.full)
        except NotFound:
            raise TopicNotFound(f"{name.full} does not exist") from None

    async def _create(
        self, name: TopicName, partitions: int, properties: Mapping[str, str]
    ) -> None:
        now_ms, pairs = self._clock.wall_ms(), tuple(sorted(properties.items()))
        if partitions:
            await self._partitioned.create(PartitionedTopicRecord(
                name.full, partitions, now_ms, properties=pairs
            ))
        else:
            await self._topics.create(TopicRecord(
                name.full, created_ms=now_ms, properties=pairs
            ))
        await self.tell_changed(name)

    async def _obtain_partition(
        self, name: TopicName, policies: TopicPolicies, must_exist: bool
    ) -> TopicRecord:
        base = name.base
        await self._check_partition(name, policies, must_exist)
        with contextlib.suppress(AlreadyExists):
            await self._topics.create(TopicRecord(name.full, created_ms=self._clock.wall_ms()))
        try:
            # A deletion that began meanwhile may have looked for partitions before this one.
            await self._check_partition(name, policies, must_exist)
        except TopicNotFound:
            with contextlib.suppress(NotFound, BadVersion):
                record, version = await self._topics.get(name.full)
                if record.owner is None:
                    await self._topics.delete(name.full, version)
            raise
        try:
            return (await self._topics.get(name.full))[0]
        except NotFound:
            raise TopicNotFound(f"{base.full} was deleted meanwhile") from None

    async def _check_partition(
        self, name: TopicName, policies: TopicPolicies, must_exist: bool
    ) -> None:
        base, number = name.base, name.partition
        try:
            record: AnyTopicRecord = await self._partitioned.read(base.full)
        except NotFound:
            may_make = policies.auto_create_topics and not must_exist
            if not may_make or number >= policies.auto_create_partitions:
                raise TopicNotFound(
                    f"there is no partitioned topic {base.full}, so no {name.full}"
                ) from None
            record = await self.obtain(base)
        if isinstance(record, TopicRecord):
            raise TopicNotFound(f"{base.full} is not partitioned, so there is no {name.full}")
        if record.deleting:
            raise TopicNotFound(f"{base.full} is being deleted")
        if number >= record.partitions:
            raise TopicNotFound(
                f"{base.full} has {record.partitions} partitions, numbered from 0: no {number}"
            )

    async def _what_is_there(self, name: TopicName) -> str:
        with contextlib.suppress(NotFound):
            record = await self._partitioned.read(name.full)
            if isinstance(record, PartitionedTopicRecord):
                deleting = ", being deleted" if record.deleting else ""
                return f"{name.full} exists, with {record.partitions} partitions{deleting}"
        return f"{name.full} exists, without partitions"
