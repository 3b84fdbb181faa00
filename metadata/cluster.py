"""Who the cluster is: its id, and the key by which brokers and bookies know each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from magnetar.errors import AlreadyExists, InvalidFrame, NotFound
from magnetar.runtime.clock import Clock
from metadata import paths
from metadata.cas import create_settled
from metadata.records import RecordReader, encode_record
from metadata.store import MetadataStore
from metadata.tenants import (
    NamespaceRecord,
    NamespaceRepository,
    TenantRecord,
    TenantRepository,
)

CLUSTER_ID_BYTES: Final = 8
CLUSTER_KEY_BYTES: Final = 32
CLUSTER_FORMAT_VERSION: Final = 1
DEFAULT_TENANT: Final = "public"
DEFAULT_NAMESPACE: Final = "default"


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """`cluster_key` is secret: it must not be logged or shown."""

    cluster_id: str
    cluster_key: bytes = field(repr=False)
    created_ms: int
    format_version: int = CLUSTER_FORMAT_VERSION
    unknown_fields: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)


def encode_cluster(record: ClusterRecord) -> bytes:
    return encode_record(
        {
            "cluster_id": record.cluster_id,
            "cluster_key": record.cluster_key.hex(),
            "created_ms": record.created_ms,
            "format_version": record.format_version,
        },
        record.unknown_fields,
    )


def decode_cluster(value: bytes) -> ClusterRecord:
    """Raises InvalidFrame for a malformed record, NotSupported for a newer format."""
    reader = RecordReader("cluster", value)
    cluster_id = reader.text("cluster_id")
    try:
        cluster_key = bytes.fromhex(reader.text("cluster_key"))
    except ValueError:
        raise InvalidFrame("the stored cluster key is not hexadecimal") from None
    if len(cluster_key) < CLUSTER_KEY_BYTES:
        raise InvalidFrame("the stored cluster key is too short")
    return ClusterRecord(
        cluster_id,
        cluster_key,
        reader.number("created_ms"),
        reader.number("format_version"),
        reader.rest(),
    )


async def initialize_cluster(
    store: MetadataStore, *, random_bytes: Callable[[int], bytes], clock: Clock
) -> ClusterRecord:
    """Make the cluster's record and the namespace public/default where they are missing; answers
    what stands there then, the same for all who call at once."""
    fresh = ClusterRecord(
        random_bytes(CLUSTER_ID_BYTES).hex(), random_bytes(CLUSTER_KEY_BYTES), clock.wall_ms()
    )
    with contextlib.suppress(AlreadyExists):
        await create_settled(store, paths.CLUSTER, encode_cluster(fresh))
    with contextlib.suppress(AlreadyExists):
        await TenantRepository(store).create(TenantRecord(DEFAULT_TENANT))
    with contextlib.suppress(AlreadyExists):
        namespace = NamespaceRecord(DEFAULT_TENANT, DEFAULT_NAMESPACE)
        await NamespaceRepository(store).create(namespace)
    return await read_cluster(store)


async def read_cluster(store: MetadataStore) -> ClusterRecord:
    """Raises NotFound, saying what to do, before the cluster was initialised."""
    try:
        record = await store.get(paths.CLUSTER)
    except NotFound:
        raise NotFound(
            "the metadata holds no cluster yet; run `magnetar cluster init` against it first"
        ) from None
    return decode_cluster(record.value)
