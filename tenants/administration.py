"""Changing tenants, namespaces and policies: checked, then written by compare-and-set."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from magnetar.admin.values import NamespaceInfo, TenantInfo
from magnetar.errors import (
    AlreadyExists,
    BadVersion,
    NotEmpty,
    NotFound,
    ResourceExists,
    ResourceInUse,
    ResourceNotFound,
)
from magnetar.topic import TopicName, check_name
from metadata.partitioned_topics import PartitionedTopicRecord, PartitionedTopicRepository
from metadata.store import MetadataStore
from metadata.tenants import (
    NamespaceRecord,
    NamespaceRepository,
    PoliciesRecord,
    PolicyRepository,
    TenantRecord,
    TenantRepository,
)
from metadata.topics import TopicRepository
from tenants.errors import NamespaceNotFound
from tenants.global_order import check_partitions_keep_order
from tenants.policies import Level, TopicPolicies, checked_from_store, checked_to_store

MAX_SHOWN: Final = 3
"""Names that an error text lists."""
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
        self._topics = TopicRepository(store)
        self._partitioned = PartitionedTopicRepository(store)
        self._defaults = defaults if defaults is not None else TopicPolicies()

    # --- tenants

    async def create_tenant(
        self, name: str, *, admin_roles: Sequence[str] = (),
        allowed_clusters: Sequence[str] = (), properties: Mapping[str, str] | None = None,
    ) -> TenantInfo:
        """Raises ResourceExists."""
        check_name(name, "tenant")
        record = TenantRecord(
            name, tuple(admin_roles), tuple(allowed_clusters),
            tuple(sorted((properties or {}).items())),
        )
        try:
            await self._tenants.create(record)
        except AlreadyExists:
            raise ResourceExists(f"there is a tenant {name} already") from None
        return _tenant_info(record)

    async def list_tenants(self) -> tuple[str, ...]:
        """Names, sorted."""
        return tuple(await self._tenants.list())

    async def get_tenant(self, name: str) -> TenantInfo:
        """Raises ResourceNotFound."""
        check_name(name, "tenant")
        try:
            return _tenant_info((await self._tenants.get(name))[0])
        except NotFound:
            raise _no_tenant(name) from None

    async def delete_tenant(self, name: str) -> None:
        """Raises ResourceInUse while it has namespaces, ResourceNotFound."""
        check_name(name, "tenant")
        try:
            await self._tenants.delete(name)
        except NotFound:
            raise _no_tenant(name) from None
        except NotEmpty:
            raise ResourceInUse(
                f"tenant {name} has namespaces; delete {', '.join(await self._shown(name))} first"
            ) from None

    async def _shown(self, tenant: str) -> list[str]:
        names = await self._namespaces.list(tenant)
        return [*names[:MAX_SHOWN], *(["..."] if len(names) > MAX_SHOWN else [])]

    # --- namespaces

    async def create_namespace(
        self, tenant: str, name: str, policies: Mapping[str, object] | None = None
    ) -> NamespaceInfo:
        """Raises ResourceExists, and ResourceNotFound without its tenant."""
        check_name(tenant, "tenant")
        check_name(name, "namespace")
        stored = _changed({}, policies or {}, Level.NAMESPACE)
        self._defaults.overlay({**await self._cluster(), **stored})
        try:
            await self._namespaces.create(NamespaceRecord(tenant, name, stored))
        except AlreadyExists:
            raise ResourceExists(f"there is a namespace {tenant}/{name} already") from None
        except NotFound:
            raise _no_tenant(tenant) from None
        return NamespaceInfo(f"{tenant}/{name}", stored)

    async def list_namespaces(self, tenant: str) -> tuple[str, ...]:
        """As tenant/namespace, sorted. Raises ResourceNotFound."""
        await self.get_tenant(tenant)
        return tuple(f"{tenant}/{name}" for name in await self._namespaces.list(tenant))

    async def get_namespace(self, tenant: str, name: str) -> NamespaceInfo:
        """Raises ResourceNotFound."""
        record, _ = await self._existing_namespace(tenant, name)
        return NamespaceInfo(
            f"{tenant}/{name}", checked_from_store(record.policies, Level.NAMESPACE)
        )

    async def delete_namespace(self, tenant: str, name: str) -> None:
        """With the policies of its topics. Raises ResourceInUse while it has topics,
        ResourceNotFound."""
        record, version = await self._existing_namespace(tenant, name)
        await self._refuse_topics(tenant, name)
        try:
            await self._namespaces.delete(tenant, name, version)
        except NotFound:
            raise _no_namespace(tenant, name) from None
        except BadVersion:
            raise ResourceInUse(
                f"namespace {tenant}/{name} was changed meanwhile; look, then delete it again"
            ) from None
        try:
            # A topic may have been made between the look and the deletion.
            await self._refuse_topics(tenant, name)
        except ResourceInUse:
            await self._namespaces.create(record)
            raise
        for topic in await self._policies.topics(tenant, name):
            try:
                await self._policies.delete_topic(topic)
            except NotFound:
                continue

    async def _refuse_topics(self, tenant: str, name: str) -> None:
        topics = await self._topics.list(tenant, name)
        if topics:
            shown = ", ".join(topics[:MAX_SHOWN])
            raise ResourceInUse(
                f"namespace {tenant}/{name} has {len(topics)} topics, such as {shown};"
                " delete them first"
            )

    async def _existing_namespace(self, tenant: str, name: str) -> tuple[NamespaceRecord, int]:
        check_name(tenant, "tenant")
        check_name(name, "namespace")
        try:
            return await self._namespaces.get(tenant, name)
        except NotFound:
            raise _no_namespace(tenant, name) from None

    # --- policies

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
        """Raises ResourceNotFound."""

        async def attempt() -> None:
            record, version = await self._existing_namespace(tenant, name)
            stored = _changed(record.policies, changes, Level.NAMESPACE)
            known = checked_from_store(stored, Level.NAMESPACE)
            self._defaults.overlay({**await self._cluster(), **known})
            await self._namespaces.update(replace(record, policies=stored), version)

        await _until_unopposed(attempt)

    async def change_topic_policies(self, topic: TopicName, changes: Mapping[str, object]) -> None:
        """For all its partitions. Raises NamespaceNotFound, and InvalidArgument for `global_order`
        of a topic that has several; the topic need not exist yet."""
        name = topic.base.full

        async def attempt() -> None:
            namespace, _ = await self._namespace_record(topic.tenant, topic.namespace)
            record, version = await self._topic_record(name)
            stored = _changed(record.policies, changes, Level.TOPIC)
            policies = self._defaults.overlay({
                **await self._cluster(),
                **checked_from_store(namespace.policies, Level.NAMESPACE),
                **checked_from_store(stored, Level.TOPIC),
            })
            if changes.get("global_order"):
                check_partitions_keep_order(topic.base, policies, await self._partitions(name))
            await self._policies.put_topic(name, replace(record, policies=stored), version)

        await _until_unopposed(attempt)

    async def _partitions(self, topic: str) -> int:
        with contextlib.suppress(NotFound):
            record = await self._partitioned.read(topic)
            if isinstance(record, PartitionedTopicRecord):
                return record.partitions
        return 0

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


def _tenant_info(record: TenantRecord) -> TenantInfo:
    return TenantInfo(
        record.name, record.admin_roles, record.allowed_clusters, dict(record.properties)
    )


def _no_tenant(name: str) -> ResourceNotFound:
    return ResourceNotFound(f"there is no tenant {name}; create it, or correct the name")


def _no_namespace(tenant: str, name: str) -> ResourceNotFound:
    return ResourceNotFound(f"there is no namespace {tenant}/{name}; create it first")


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
