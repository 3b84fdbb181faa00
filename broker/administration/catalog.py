"""Which topics there are: what the metadata alone can answer."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from broker.administration.limits import PROPERTIES_BYTES
from broker.administration.listing import check_page, page_of, split_namespace
from broker.topic_catalog import TopicCatalog
from magnetar.admin.topic_values import TopicInfo, TopicPage, TopicSummary
from magnetar.errors import BadVersion, InvalidArgument, NotFound, NotSupported, ResourceNotFound
from magnetar.topic import TopicName
from metadata.brokers import BrokerDirectory
from metadata.partitioned_topics import PartitionedTopicRecord
from metadata.store import MetadataStore
from metadata.tenants import NamespaceRepository, PolicyRepository
from metadata.topics import TopicRecord
from tenants.errors import NamespaceNotFound


class AdministeredCatalog:
    """Makes, lists and shows topics; loads none."""

    def __init__(
        self, store: MetadataStore, catalog: TopicCatalog, brokers: BrokerDirectory
    ) -> None:
        self._namespaces = NamespaceRepository(store)
        self._policies = PolicyRepository(store)
        self._catalog = catalog
        self._brokers = brokers

    async def partitions_of(self, name: TopicName) -> int:
        """0 for a topic without partitions. Raises TopicNotFound."""
        return await self._catalog.partitions_of(name)

    async def create(
        self, topic: str, partitions: int = 0, properties: Mapping[str, str] | None = None
    ) -> TopicInfo:
        """See `TopicOperations.create`."""
        name = _persistent(topic)
        checked = _checked_properties(properties or {})
        try:
            await self._catalog.create_topic(name, partitions, checked)
        except NamespaceNotFound as error:
            raise ResourceNotFound(str(error)) from None
        return await self.get(topic)

    async def grow(self, topic: str, partitions: int) -> TopicInfo:
        """See `TopicOperations.grow`."""
        await self._catalog.grow_topic(_persistent(topic), partitions)
        return await self.get(topic)

    async def close_partitions(self, name: TopicName) -> None:
        """Begin the deletion of a partitioned topic: no partition comes into being any more."""
        await self._catalog.close_partitions(name)

    async def ends(self, name: TopicName) -> bool:
        """Whether the partitioned topic is being deleted, or gone."""
        return await self._catalog.ends(name)

    async def forget(self, name: TopicName) -> None:
        """End it: its partitions are gone, now its policies and its record go. Raises
        TopicNotFound when it is gone, or was made again."""
        with contextlib.suppress(NotFound, BadVersion):
            _, version = await self._policies.get_topic(name.full)
            if await self._catalog.ends(name):
                await self._policies.delete_topic(name.full, version)
        await self._catalog.forget_topic(name)

    async def get(self, topic: str) -> TopicInfo:
        """See `TopicOperations.get`."""
        name = _persistent(topic)
        record = await self._catalog.existing(name)
        properties = dict(record.properties)
        if isinstance(record, PartitionedTopicRecord):
            return TopicInfo(
                name.full, record.partitions, record.created_ms, properties=properties
            )
        return TopicInfo(
            name.full, 0, record.created_ms, record.terminated, self._living_owner(record),
            properties,
        )

    def _living_owner(self, record: TopicRecord) -> str:
        owner = record.owner
        alive = None if owner is None else self._brokers.get(owner.broker_id)
        if owner is None or alive is None or alive.incarnation != owner.incarnation:
            return ""
        return owner.broker_id

    async def list(
        self, namespace: str, pattern: str = "", *, page_size: int = 0, page: str = ""
    ) -> TopicPage:
        """See `TopicOperations.list`. A page begins after the name that `page` is."""
        tenant, name = split_namespace(namespace)
        check_page(pattern, page_size)
        try:
            await self._namespaces.get(tenant, name)
        except NotFound:
            raise ResourceNotFound(f"there is no namespace {namespace}") from None
        return page_of(
            [
                TopicSummary(one.name, one.partitions)
                for one in await self._catalog.list_topics(tenant, name)
            ],
            namespace, pattern, page_size, page,
        )


def _persistent(topic: str) -> TopicName:
    name = TopicName.parse(topic)
    if not name.persistent:
        raise NotSupported(f"{name.full} is not persistent: it has no record to administer")
    return name


def _checked_properties(properties: Mapping[str, str]) -> dict[str, str]:
    size = sum(len(key.encode()) + len(value.encode()) for key, value in properties.items())
    if size > PROPERTIES_BYTES:
        raise InvalidArgument(f"a topic's properties have at most {PROPERTIES_BYTES} bytes")
    return dict(properties)
