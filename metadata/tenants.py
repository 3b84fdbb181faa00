"""Tenants, namespaces, and the policies set for the cluster, a namespace or a topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from metadata import paths
from metadata.cas import create_settled, delete_settled, put_settled
from metadata.records import RecordReader, encode_record
from metadata.store import Cancel, MetadataStore, child_names
from metadata.topics import names_in_buckets


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """Who may administer the tenant, and which clusters it may use (none named: all)."""

    name: str
    admin_roles: tuple[str, ...] = ()
    allowed_clusters: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()
    unknown_fields: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class NamespaceRecord:
    """A namespace and the policies set on it, by name, as JSON values."""

    tenant: str
    name: str
    policies: Mapping[str, Any] = field(default_factory=dict, hash=False)
    unknown_fields: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class PoliciesRecord:
    """Policies set on the cluster or on one topic, by name, as JSON values."""

    policies: Mapping[str, Any] = field(default_factory=dict, hash=False)
    unknown_fields: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)


def encode_tenant(record: TenantRecord) -> bytes:
    return encode_record(
        {
            "name": record.name,
            "admin_roles": [*record.admin_roles],
            "allowed_clusters": [*record.allowed_clusters],
            "properties": dict(record.properties),
        },
        record.unknown_fields,
    )


def decode_tenant(value: bytes) -> TenantRecord:
    """Raises InvalidFrame for a malformed record, NotSupported for a newer format."""
    reader = RecordReader("tenant", value)
    return TenantRecord(
        reader.text("name"),
        reader.texts("admin_roles"),
        reader.texts("allowed_clusters"),
        reader.properties(),
        reader.rest(),
    )


def encode_namespace(record: NamespaceRecord) -> bytes:
    return encode_record(
        {"tenant": record.tenant, "name": record.name, "policies": dict(record.policies)},
        record.unknown_fields,
    )


def decode_namespace(value: bytes) -> NamespaceRecord:
    """Raises InvalidFrame for a malformed record, NotSupported for a newer format."""
    reader = RecordReader("namespace", value)
    return NamespaceRecord(
        reader.text("tenant"), reader.text("name"), reader.mapping("policies"), reader.rest()
    )


def encode_policies(record: PoliciesRecord) -> bytes:
    return encode_record({"policies": dict(record.policies)}, record.unknown_fields)


def decode_policies(value: bytes) -> PoliciesRecord:
    """Raises InvalidFrame for a malformed record, NotSupported for a newer format."""
    reader = RecordReader("policies", value)
    return PoliciesRecord(reader.mapping("policies"), reader.rest())


class TenantRepository:
    """Tenants under compare-and-set."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def create(self, record: TenantRecord) -> int:
        """Answers the version; raises AlreadyExists."""
        return await create_settled(self._store, paths.tenant(record.name), encode_tenant(record))

    async def get(self, name: str) -> tuple[TenantRecord, int]:
        """Raises NotFound."""
        record = await self._store.get(paths.tenant(name))
        return decode_tenant(record.value), record.version

    async def update(self, record: TenantRecord, version: int) -> int:
        """Raises BadVersion, NotFound."""
        path = paths.tenant(record.name)
        return await put_settled(self._store, path, encode_tenant(record), version)

    async def delete(self, name: str, version: int | None = None) -> None:
        """Raises NotEmpty while it has namespaces, BadVersion, NotFound."""
        await delete_settled(self._store, paths.tenant(name), version)

    async def list(self) -> list[str]:
        """Names, sorted."""
        return await _names(self._store, paths.TENANTS)


class NamespaceRepository:
    """Namespaces under compare-and-set."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def create(self, record: NamespaceRecord) -> int:
        """Answers the version; raises AlreadyExists, and NotFound without its tenant."""
        await self._store.get(paths.tenant(record.tenant))
        path = paths.namespace(record.tenant, record.name)
        return await create_settled(self._store, path, encode_namespace(record))

    async def get(self, tenant: str, name: str) -> tuple[NamespaceRecord, int]:
        """Raises NotFound."""
        record = await self._store.get(paths.namespace(tenant, name))
        return decode_namespace(record.value), record.version

    async def update(self, record: NamespaceRecord, version: int) -> int:
        """Raises BadVersion, NotFound."""
        path = paths.namespace(record.tenant, record.name)
        return await put_settled(self._store, path, encode_namespace(record), version)

    async def delete(self, tenant: str, name: str, version: int | None = None) -> None:
        """Raises BadVersion, NotFound. That it has no topics is the caller's to see to."""
        await delete_settled(self._store, paths.namespace(tenant, name), version)

    async def list(self, tenant: str) -> list[str]:
        """Names of the tenant's namespaces, sorted."""
        return await _names(self._store, paths.tenant(tenant))

    def watch(self, tenant: str, name: str, callback: Callable[[], None]) -> Cancel:
        """Call back after changes of the record, and after a reconnect."""
        return self._store.watch(paths.namespace(tenant, name), callback)


class PolicyRepository:
    """Policies of the whole cluster and of single topics (namespaces carry their own)."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def get_cluster(self) -> tuple[PoliciesRecord, int]:
        """Raises NotFound when none were set."""
        return await self._get(paths.CLUSTER_POLICIES)

    async def put_cluster(self, record: PoliciesRecord, version: int | None) -> int:
        """Set for the first time (`version` None; raises AlreadyExists) or replace."""
        return await self._put(paths.CLUSTER_POLICIES, record, version)

    def watch_cluster(self, callback: Callable[[], None]) -> Cancel:
        return self._store.watch(paths.CLUSTER_POLICIES, callback)

    async def get_topic(self, name: str) -> tuple[PoliciesRecord, int]:
        """By full name; raises NotFound when none were set."""
        return await self._get(paths.topic_policies(name))

    async def put_topic(self, name: str, record: PoliciesRecord, version: int | None) -> int:
        """Set for the first time (`version` None; raises AlreadyExists) or replace."""
        return await self._put(paths.topic_policies(name), record, version)

    async def delete_topic(self, name: str, version: int | None = None) -> None:
        """Raises BadVersion, NotFound."""
        await delete_settled(self._store, paths.topic_policies(name), version)

    async def topics(self, tenant: str, namespace: str) -> list[str]:
        """Full names of the topics of a namespace that have policies of their own, sorted."""
        folder = paths.topic_policies_of(tenant, namespace)
        return await names_in_buckets(self._store, folder, tenant, namespace)

    def watch_topic(self, name: str, callback: Callable[[], None]) -> Cancel:
        return self._store.watch(paths.topic_policies(name), callback)

    async def _get(self, path: str) -> tuple[PoliciesRecord, int]:
        record = await self._store.get(path)
        return decode_policies(record.value), record.version

    async def _put(self, path: str, record: PoliciesRecord, version: int | None) -> int:
        value = encode_policies(record)
        if version is None:
            return await create_settled(self._store, path, value)
        return await put_settled(self._store, path, value, version)


async def _names(store: MetadataStore, folder: str) -> list[str]:
    return sorted(map(paths.decode_name, await child_names(store, folder)))
