"""Looking at policies: what is set at a level, and what holds, with the level it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from magnetar.admin.values import EffectivePolicy, PolicyValue
from magnetar.errors import NotFound, ResourceNotFound
from magnetar.topic import TopicName
from metadata.store import MetadataStore
from metadata.tenants import NamespaceRepository, PolicyRepository
from tenants.policies import SETTINGS, Level, TopicPolicies, checked_from_store

DEFAULT: Final = "default"
"""The source of what nobody set."""


class PolicyView:
    """Reads afresh each time. Raises PolicyError for a stored value that cannot be used, and
    ResourceNotFound without the namespace; a topic need not exist."""

    def __init__(self, store: MetadataStore, *, defaults: TopicPolicies | None = None) -> None:
        self._namespaces = NamespaceRepository(store)
        self._policies = PolicyRepository(store)
        self._defaults = defaults if defaults is not None else TopicPolicies()

    async def of_cluster(self) -> dict[str, PolicyValue]:
        """What is set for the cluster."""
        try:
            record, _ = await self._policies.get_cluster()
        except NotFound:
            return {}
        return {**checked_from_store(record.policies, Level.CLUSTER)}

    async def of_namespace(self, tenant: str, name: str) -> dict[str, PolicyValue]:
        """What is set for the namespace."""
        try:
            record, _ = await self._namespaces.get(tenant, name)
        except NotFound:
            raise ResourceNotFound(
                f"there is no namespace {tenant}/{name}; create it first"
            ) from None
        return {**checked_from_store(record.policies, Level.NAMESPACE)}

    async def of_topic(self, topic: TopicName) -> dict[str, PolicyValue]:
        """What is set for the topic, all its partitions alike."""
        await self.of_namespace(topic.tenant, topic.namespace)
        try:
            record, _ = await self._policies.get_topic(topic.base.full)
        except NotFound:
            return {}
        return {**checked_from_store(record.policies, Level.TOPIC)}

    async def effective(
        self, *, namespace: tuple[str, str] | None = None, topic: TopicName | None = None
    ) -> tuple[EffectivePolicy, ...]:
        """What holds for a topic, a namespace, or, with neither, the cluster."""
        levels: dict[Level, Mapping[str, PolicyValue]] = {Level.CLUSTER: await self.of_cluster()}
        if topic is not None:
            namespace = topic.tenant, topic.namespace
            if topic.persistent:  # of another nothing is recorded
                levels[Level.TOPIC] = await self.of_topic(topic)
        if namespace is not None:
            levels[Level.NAMESPACE] = await self.of_namespace(*namespace)
        found = []
        for setting in SETTINGS:
            value: PolicyValue = getattr(self._defaults, setting.name)
            source = DEFAULT
            for level in sorted(levels):
                if setting.name in levels[level]:
                    value, source = levels[level][setting.name], level.name.lower()
            found.append(EffectivePolicy(setting.name, value, source, setting.doc))
        return tuple(found)
