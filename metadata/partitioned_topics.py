"""Partitioned topics: how many partitions a base topic has.

A base topic's record lies where a plain topic of the same name would have its own, so that a
name is one or the other, whoever comes first. Its partitions are topics with records of theirs.
The number of partitions only grows, so that a partition's number always means the same topic.

Beside the record stands an entry in an index, which a listing reads instead of every topic's
record. It is written before the record and after it, and deleted only at the version at which
the record was seen to be gone: so a creation that was answered is always in the index.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from magnetar.errors import AlreadyExists, BadVersion, InvalidArgument, NotFound
from metadata import paths
from metadata.cas import create_settled, delete_settled, put_settled
from metadata.records import RecordReader, encode_record
from metadata.store import Cancel, MetadataStore
from metadata.topic_nodes import TopicNodes, TopicVersion
from metadata.topics import TopicRecord, decode_topic, names_in_buckets

MAX_PARTITIONS: Final = 10_000
MAX_CONFLICTS: Final = 10
"""How often a change begins anew because someone else's came first."""
READ_AT_ONCE: Final = 32

INDEX_ENTRY: Final = encode_record({})


@dataclass(frozen=True, slots=True)
class PartitionedTopicRecord:
    """A base topic. While `deleting`, no partition comes into being any more."""

    name: str
    partitions: int
    created_ms: int = 0
    deleting: bool = False
    properties: tuple[tuple[str, str], ...] = ()
    unknown_fields: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)


AnyTopicRecord = TopicRecord | PartitionedTopicRecord


def check_partitions(partitions: int) -> None:
    """Raises InvalidArgument unless a topic may have so many."""
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise InvalidArgument(
            f"a partitioned topic has 1 to {MAX_PARTITIONS:,} partitions, not {partitions}"
        )


def encode_partitioned_topic(record: PartitionedTopicRecord) -> bytes:
    """The stored form."""
    return encode_record(
        {
            "name": record.name,
            "partitions": record.partitions,
            "created_ms": record.created_ms,
            "deleting": record.deleting,
            "properties": dict(record.properties),
        },
        record.unknown_fields,
    )


def decode_any_topic(value: bytes) -> AnyTopicRecord:
    """A plain or a partitioned topic's record. Raises InvalidFrame for a malformed record,
    NotSupported for a newer format."""
    reader = RecordReader("topic", value)
    partitions = reader.take("partitions")
    if partitions is None:
        return decode_topic(value)
    if not isinstance(partitions, int) or isinstance(partitions, bool) or partitions < 1:
        raise reader.malformed("partitions")
    return PartitionedTopicRecord(
        reader.text("name"),
        partitions,
        reader.number("created_ms"),
        reader.flag("deleting"),
        reader.properties(),
        reader.rest(),
    )


class PartitionedTopicRepository:
    """Base topics under compare-and-set; lost answers of its own writes are settled."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._nodes = TopicNodes(store)

    async def create(self, record: PartitionedTopicRecord) -> None:
        """Raises AlreadyExists, also when a plain topic has the name."""
        check_partitions(record.partitions)
        await self._index(record.name)
        try:
            await self._nodes.create(record.name, encode_partitioned_topic(record))
        finally:
            # Also for one that another created and could not finish.
            await self._index(record.name)

    async def read(self, name: str) -> AnyTopicRecord:
        """What has the name, plain or partitioned; raises NotFound."""
        return decode_any_topic((await self._store.get(paths.topic(name))).value)

    async def get(self, name: str) -> tuple[PartitionedTopicRecord, TopicVersion]:
        """The record and its version, by full name; raises NotFound, also for a plain topic."""
        value, version = await self._nodes.get(name)
        record = decode_any_topic(value)
        if not isinstance(record, PartitionedTopicRecord):
            raise NotFound(f"{name} is not partitioned")
        return record, version

    async def grow(self, name: str, partitions: int) -> PartitionedTopicRecord:
        """Give the topic so many partitions. Raises InvalidArgument when it has more already,
        NotFound, and BadVersion when others keep changing it."""
        check_partitions(partitions)

        def grown(record: PartitionedTopicRecord) -> PartitionedTopicRecord:
            if record.deleting:
                raise NotFound(f"{name} is being deleted")
            if record.partitions > partitions:
                raise InvalidArgument(
                    f"{name} has {record.partitions} partitions; their number never falls"
                )
            return replace(record, partitions=partitions)

        return await self._change(name, grown)

    async def mark_deleting(self, name: str) -> PartitionedTopicRecord:
        """From now on no partition comes into being. Raises NotFound, BadVersion."""
        return await self._change(name, lambda record: replace(record, deleting=True))

    async def delete(self, name: str) -> None:
        """Delete the record, which is marked as deleting; the partitions are the caller's to see
        to, before. Raises NotFound, also for a plain topic and for one that was made again, and
        BadVersion when the topic changed meanwhile."""
        record, version = await self.get(name)
        if not record.deleting:
            raise NotFound(f"{name} is not being deleted")
        await self._nodes.delete(name, version)
        await self._leave_index(name)

    async def list(self, tenant: str, namespace: str) -> dict[str, PartitionedTopicRecord | None]:
        """The namespace's partitioned topics by full name, sorted; None for one that was deleted
        while this was read. No snapshot."""
        folder = paths.partitioned_topics_of(tenant, namespace)
        names = await names_in_buckets(self._store, folder, tenant, namespace)
        found: dict[str, PartitionedTopicRecord | None] = {}
        for start in range(0, len(names), READ_AT_ONCE):
            some = names[start : start + READ_AT_ONCE]
            records = await asyncio.gather(*map(self._seen, some))
            found |= {
                name: record
                for name, record in zip(some, records, strict=True)
                if not isinstance(record, TopicRecord)
            }
        return found

    def watch(self, name: str, callback: Callable[[], None]) -> Cancel:
        """Call back after changes of the record, and after a reconnect."""
        return self._store.watch(paths.topic(name), callback)

    async def _seen(self, name: str) -> AnyTopicRecord | None:
        try:
            return await self.read(name)
        except NotFound:
            return None

    async def _change(
        self, name: str, change: Callable[[PartitionedTopicRecord], PartitionedTopicRecord]
    ) -> PartitionedTopicRecord:
        for _ in range(MAX_CONFLICTS):
            record, version = await self.get(name)
            wanted = change(record)
            if wanted == record:
                return record
            try:
                await self._nodes.put(name, encode_partitioned_topic(wanted), version)
            except BadVersion:
                continue
            return wanted
        raise BadVersion(f"others keep changing {name}; try again")

    async def _index(self, name: str) -> None:
        """Make the index entry, or give it another version, which keeps it from being deleted."""
        path = paths.partitioned_topic(name)
        for _ in range(MAX_CONFLICTS):
            try:
                await create_settled(self._store, path, INDEX_ENTRY)
                return
            except AlreadyExists:
                pass
            try:
                version = (await self._store.get(path)).version
                await put_settled(self._store, path, INDEX_ENTRY, version)
                return
            except (NotFound, BadVersion):
                continue
        raise BadVersion(f"others keep creating and deleting {name}; try again")

    async def _leave_index(self, name: str) -> None:
        path = paths.partitioned_topic(name)
        try:
            version = (await self._store.get(path)).version
            if await self._seen(name) is None:
                await delete_settled(self._store, path, version)
        except (NotFound, BadVersion):
            return  # somebody else deletes it, or creates the topic anew
