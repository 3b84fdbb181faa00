"""Changing tenants, namespaces and policies: checked, then written by compare-and-set."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from magnetar.errors import AlreadyExists, BadVersion, NotFound
from magnetar.topic import TopicName, check_name
from metadata.store import MetadataStore
from metadata.tenants import (
    NamespaceRecord,
    NamespaceRepository,
    PoliciesRecord,
    PolicyRepository,
    TenantRecord,
    TenantRepository,
)
from tenants.errors import NamespaceNotFound
from tenants.policies import Level, TopicPolicies, checked_from_store, checked_to_store

MAX_CONFLICTS: Final = 10
"""How often a change begins anew because someone else's came first."""


class TenantAdministration:
    """What an administrator may do. Policies are given as changes: None takes one back.

    Every policy change is refused with PolicyError when a value is out of bounds, or when the
    level's policies would not fit together with those above it.
    """

    def __init__(self, store: MetadataStore, *, defaults: TopicPolicies | None = None) -> None:
        self._tenants = TenantRepository(store)
        self._namespaces = NamespaceRepository(store)
        self._policies = PolicyRepository(store)
        self._defaults = defaults if defaults is not None else TopicPolicies()

    async def create_tenant(self, name: str) -> None:
        """Raises AlreadyExists."""
        check_name(name, "tenant")
        await self._tenants.create(TenantRecord(name))

    async def create_namespace(
        self, tenant: str, name: str, policies: Mapping[str, object] | None = None
    ) -> None:
        """Raises AlreadyExists, and NotFound without its tenant."""
        check_name(name, "namespace")
        stored = _changed({}, policies or {}, Level.NAMESPACE)
        self._defaults.overlay({**await self._cluster(), **stored})
        await self._namespaces.create(NamespaceRecord(tenant, name, stored))

    async def change_cluster_policies(self, changes: Mapping[str, object]) -> None:
        async def attempt() -> None:
            record, version = await self._cluster_record()
            stored = _changed(record.policies, changes, Level.CLUSTER)
            self._defaults.overlay(checked_from_store(stored, Level.CLUSTER))
            await self._policies.put_cluster(replace(record, policies=stored), version)

        await _until_unopposed(attempt)

    async def change_namespace_policies(
        self, tenant: str, name: str, changes: Mapping[str, object]
    ) -> None:
        """Raises NamespaceNotFound."""

        async def attempt() -> None:
            record, version = await self._namespace_record(tenant, name)
            stored = _changed(record.policies, changes, Level.NAMESPACE)
            known = checked_from_store(stored, Level.NAMESPACE)
            self._defaults.overlay({**await self._cluster(), **known})
            await self._namespaces.update(replace(record, policies=stored), version)

        await _until_unopposed(attempt)

    async def change_topic_policies(self, topic: TopicName, changes: Mapping[str, object]) -> None:
        """For all its partitions. Raises NamespaceNotFound; the topic need not exist yet."""
        name = topic.base.full

        async def attempt() -> None:
            namespace, _ = await self._namespace_record(topic.tenant, topic.namespace)
            record, version = await self._topic_record(name)
            stored = _changed(record.policies, changes, Level.TOPIC)
            self._defaults.overlay({
                **await self._cluster(),
                **checked_from_store(namespace.policies, Level.NAMESPACE),
                **checked_from_store(stored, Level.TOPIC),
            })
            await self._policies.put_topic(name, replace(record, policies=stored), version)

        await _until_unopposed(attempt)

    async def _cluster(self) -> dict[str, Any]:
        record, _ = await self._cluster_record()
        return dict(checked_from_store(record.policies, Level.CLUSTER))

    async def _cluster_record(self) -> tuple[PoliciesRecord, int | None]:
        try:
            return await self._policies.get_cluster()
        except NotFound:
            return PoliciesRecord(), None

    async def _topic_record(self, name: str) -> tuple[PoliciesRecord, int | None]:
        try:
            return await self._policies.get_topic(name)
        except NotFound:
            return PoliciesRecord(), None

    async def _namespace_record(self, tenant: str, name: str) -> tuple[NamespaceRecord, int]:
        try:
            return await self._namespaces.get(tenant, name)
        except NotFound:
            raise NamespaceNotFound(tenant, name) from None


def _changed(
    stored: Mapping[str, Any], changes: Mapping[str, object], level: Level
) -> dict[str, Any]:
    """What is stored afterwards. What a newer version stored is left as it is."""
    taken_back = [name for name, value in changes.items() if value is None]
    set_anew = {name: value for name, value in changes.items() if value is not None}
    merged = {**stored, **checked_to_store(set_anew, level)}
    return {name: value for name, value in merged.items() if name not in taken_back}


async def _until_unopposed(attempt: Callable[[], Awaitable[None]]) -> None:
    for _ in range(MAX_CONFLICTS):
        try:
            await attempt()
            return
        except (BadVersion, AlreadyExists):
            continue
    raise BadVersion("others keep changing these policies; try again")
