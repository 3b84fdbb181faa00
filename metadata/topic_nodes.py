"""A topic's node under a compare-and-set that no deletion can fool.

A node that is deleted and made again counts its versions from 0, as ZooKeeper has it, so that
whoever read the old one and was held up could write to the new one once the numbers meet. Therefore
every deletion also puts the bucket that the node lies in, and every write says which version the
bucket had before the node was read. A deletion of another topic of the bucket fails such a write
too: then the node is read again, and if it is still the same the write is repeated.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from magnetar.errors import BadVersion, ConnectionLoss
from metadata import paths
from metadata.cas import create_settled, delete_settled, put_settled
from metadata.store import Guard, MetadataStore

MAX_CONFLICTS: Final = 10
"""Deletions of neighbours that a write is repeated for before it gives up."""
DIGEST_BYTES: Final = 16


class TopicVersion(NamedTuple):
    """What was read, to be given to `put` and `delete`: the node's version, the bucket's before
    it, and a digest of the value."""

    node: int
    bucket: int
    digest: bytes


class TopicNodes:
    """By full name, of plain and partitioned topics alike."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def get(self, name: str) -> tuple[bytes, TopicVersion]:
        """Raises NotFound."""
        bucket = (await self._store.get(paths.topic_bucket(name))).version
        record = await self._store.get(paths.topic(name))
        return record.value, TopicVersion(record.version, bucket, _digest(record.value))

    async def create(self, name: str, value: bytes) -> None:
        """Raises AlreadyExists."""
        await create_settled(self._store, paths.topic(name), value)

    async def put(self, name: str, value: bytes, version: TopicVersion) -> TopicVersion:
        """Replace what was read; answers what it is now. Raises BadVersion, NotFound."""
        for _ in range(MAX_CONFLICTS):
            guard = Guard(paths.topic_bucket(name), version.bucket)
            try:
                node = await put_settled(
                    self._store, paths.topic(name), value, version.node, guard)
            except BadVersion:
                version = await self._unchanged(name, version)
            else:
                return TopicVersion(node, version.bucket, _digest(value))
        raise ConnectionLoss(f"others keep deleting topics beside {name}; try again")

    async def delete(self, name: str, version: TopicVersion) -> None:
        """Delete what was read. Raises BadVersion, NotFound."""
        for _ in range(MAX_CONFLICTS):
            guard = Guard(paths.topic_bucket(name), version.bucket)
            try:
                return await delete_settled(
                    self._store, paths.topic(name), version.node, guard)
            except BadVersion:
                version = await self._unchanged(name, version)
        raise ConnectionLoss(f"others keep deleting topics beside {name}; try again")

    async def _unchanged(self, name: str, version: TopicVersion) -> TopicVersion:
        """The version as it is now, if only the bucket's is another; raises BadVersion."""
        _, fresh = await self.get(name)
        if (fresh.node, fresh.digest) != (version.node, version.digest):
            raise BadVersion(f"{name} was changed, or deleted and made again")
        return fresh


def _digest(value: bytes) -> bytes:
    return blake2b(value, digest_size=DIGEST_BYTES).digest()
