"""The port, implemented: any broker does any call, wherever the topic is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from broker.administration.catalog import AdministeredCatalog
from broker.administration.listing import joined
from broker.administration.merging import sum_of_topics
from broker.administration.routed_schedule import RoutedSchedule
from broker.administration.routed_subscriptions import RoutedSubscriptions
from broker.administration.routing import Routing
from broker.schedule.remaining import in_the_way
from magnetar.admin.topic_values import (
    SpaceReport,
    StoredMessage,
    TopicInfo,
    TopicPage,
    TopicStats,
)
from magnetar.errors import InvalidArgument, ResourceInUse
from magnetar.message_id import MessageId
from magnetar.topic import TopicName


class RoutedAdministration:
    """A `TopicAdministration`."""

    def __init__(self, catalog: AdministeredCatalog, routing: Routing) -> None:
        self.topics = RoutedTopics(catalog, routing)
        self.subscriptions = RoutedSubscriptions(routing)
        self.messages = RoutedMessages(routing)
        self.schedule = RoutedSchedule(routing)


class RoutedTopics:
    """See `TopicOperations`."""

    def __init__(self, catalog: AdministeredCatalog, routing: Routing) -> None:
        self._catalog = catalog
        self._routing = routing

    async def create(
        self, topic: str, partitions: int = 0, properties: Mapping[str, str] | None = None
    ) -> TopicInfo:
        return await self._catalog.create(topic, partitions, properties)

    async def grow(self, topic: str, partitions: int) -> TopicInfo:
        return await self._catalog.grow(topic, partitions)

    async def list(
        self, namespace: str, pattern: str = "", *, page_size: int = 0, page: str = ""
    ) -> TopicPage:
        stored = await self._catalog.list(namespace, pattern, page_size=page_size, page=page)
        in_memory, unreachable = await self._routing.at_every_broker(
            lambda broker: broker.topics.list(
                namespace, pattern, page_size=page_size, page=page)
        )
        return replace(
            joined([*in_memory, stored], page_size), unreachable_brokers=unreachable
        )

    async def get(self, topic: str) -> TopicInfo:
        return await self._catalog.get(topic)

    async def stats(self, topic: str) -> TopicStats:
        found = await self._routing.where_used(
            topic, lambda owner, name: owner.topics.stats(name), lambda name: TopicStats(name)
        )
        base = TopicName.parse(topic).full
        return found[0] if found[0].topic == base else sum_of_topics(base, found)

    async def terminate(self, topic: str) -> tuple[MessageId, ...]:
        found = await self._routing.everywhere(
            topic, lambda owner, name: owner.topics.terminate(name)
        )
        return tuple(message_id for ids in found for message_id in ids)

    async def truncate(self, topic: str) -> int:
        return sum(await self._routing.where_used(
            topic, lambda owner, name: owner.topics.truncate(name), lambda _: 0
        ))

    async def delete(self, topic: str, force: bool = False) -> None:
        name = TopicName.parse(topic)
        if name.partition >= 0:
            raise InvalidArgument(
                f"{name.full} is a partition, and goes with {name.base.full}; truncate it, if only"
                " its messages are to go"
            )
        if not await self._catalog.partitions_of(name):
            await self._routing.at_owner(name, lambda owner, full: owner.topics.delete(full, force))
            return
        if not force:
            _refuse_if_used(await self.stats(topic))
        # From here on no partition comes into being, and the deletion is to be finished.
        await self._catalog.close_partitions(name)
        await self._end_partitions(name)

    async def finish_deletion(self, topic: str) -> None:
        """Go on with that of a partitioned topic, if it was interrupted."""
        name = TopicName.parse(topic)
        if await self._catalog.ends(name):
            await self._end_partitions(name)

    async def _end_partitions(self, name: TopicName) -> None:
        await self._routing.where_used(
            name.full, lambda owner, full: owner.topics.delete(full, True), lambda _: None
        )
        await self._catalog.forget(name)

    async def why_space(self, topic: str) -> SpaceReport:
        found = await self._routing.where_used(
            topic, lambda owner, name: owner.topics.why_space(name), lambda name: SpaceReport(name)
        )
        base = TopicName.parse(topic).full
        if found[0].topic == base:
            return found[0]
        return SpaceReport(
            base, sum(one.storage_bytes for one in found), partitions=tuple(found)
        )


def _refuse_if_used(stats: TopicStats) -> None:
    if stats.producers:
        raise ResourceInUse(
            f"{stats.topic} has {len(stats.producers)} connected producers, such as"
            f" {stats.producers[0].name!r}; close them, or delete by force"
        )
    if stats.subscriptions:
        raise ResourceInUse(
            f"{stats.topic} has {len(stats.subscriptions)} subscriptions, such as"
            f" {stats.subscriptions[0].name!r}; delete them, or delete the topic by force"
        )
    if stats.scheduled_messages:
        raise in_the_way(stats.topic, stats.scheduled_messages, "delete by force")


class RoutedMessages:
    """See `MessageOperations`."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing

    async def get(self, topic: str, message_id: MessageId) -> StoredMessage:
        names = await self._routing.names(topic)
        for name in names:
            if name.partition == message_id.partition:
                return await self._routing.at_owner(
                    name, lambda owner, full: owner.messages.get(full, message_id)
                )
        raise InvalidArgument(f"message {message_id} is of no partition of {topic}")

    async def last_ids(self, topic: str) -> tuple[MessageId, ...]:
        found = await self._routing.where_used(
            topic, lambda owner, name: owner.messages.last_ids(name), lambda _: ()
        )
        return tuple(message_id for ids in found for message_id in ids)
