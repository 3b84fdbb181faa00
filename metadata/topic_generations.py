"""A node a namespace that tells watchers to look again: topics came, went or grew.

It is put after the fact, so whoever reads the topics after its callback sees the change. One
that could not be put is made up for by the slow re-reading of those who watch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from magnetar.errors import AlreadyExists, BadVersion, NotFound
from metadata import paths
from metadata.cas import create_settled, put_settled
from metadata.records import encode_record
from metadata.store import Cancel, MetadataStore

GENERATION: Final = encode_record({})
"""The version of the node says it all."""


class TopicGenerations:
    """Tells, and is told, that a namespace's topics changed."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def advance(self, tenant: str, namespace: str) -> None:
        """Tell every watcher. Raises ConnectionLoss, SessionExpired."""
        path = paths.topic_generation(tenant, namespace)
        try:
            version = (await self._store.get(path)).version
        except NotFound:
            try:
                await create_settled(self._store, path, GENERATION)
            except AlreadyExists:
                return  # made after our change, so its watchers see that too
            return
        try:
            await put_settled(self._store, path, GENERATION, version)
        except (BadVersion, NotFound):
            return  # as above

    def watch(self, tenant: str, namespace: str, callback: Callable[[], None]) -> Cancel:
        """Call back after changes, and after a reconnect."""
        return self._store.watch(paths.topic_generation(tenant, namespace), callback)
