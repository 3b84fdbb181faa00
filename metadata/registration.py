"""Announcements: ephemeral nodes that say "I am alive, and here".

The node's value carries the session that made it, so that a process that finds its own name
taken knows its own create, whose answer was lost, from one of an earlier session, which is about
to vanish and has to be replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from magnetar.errors import AlreadyExists, BadVersion, ConnectionLoss, NotFound
from metadata.cas import MAX_ATTEMPTS, RETRY_DELAY_S, delete_settled
from metadata.records import RecordReader
from metadata.store import Cancel, MetadataStore, child_names


class Registrations:
    """Making, replacing and reading announcements."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def announce(self, path: str, encode: Callable[[int], bytes]) -> None:
        """Leave at `path` an ephemeral of the present session with the value `encode` gives for
        that session. Raises ConnectionLoss when it cannot be made certain."""
        for attempt in range(MAX_ATTEMPTS):
            session_id = self._store.session_id
            value = encode(session_id)
            try:
                await self._store.create(path, value, ephemeral=True)
            except AlreadyExists:
                done = await self._take_over(path, value, session_id)
            except ConnectionLoss:
                done = False
                await asyncio.sleep(RETRY_DELAY_S * attempt)
            else:
                done = True
            if done and self._store.session_id == session_id:
                return
        raise ConnectionLoss(f"could not announce {path}; try again when the metadata answers")

    async def _take_over(self, path: str, value: bytes, session_id: int) -> bool:
        """Make the node that is there ours; False to begin anew."""
        try:
            record = await self._store.get(path)
            if record.value == value:
                return True
            if session_of(record.value) == f"{session_id:x}":
                await self._store.put(path, value, record.version)
                return True
            await self._store.delete(path, record.version)
        except (NotFound, BadVersion, ConnectionLoss):
            return False
        return False

    async def withdraw(self, path: str) -> None:
        """Remove an announcement of the present session; one of another life stays."""
        try:
            record = await self._store.get(path)
            if session_of(record.value) == f"{self._store.session_id:x}":
                await delete_settled(self._store, path)
        except NotFound:
            return

    async def names(self, folder: str) -> list[str]:
        """The encoded names present, sorted; none when the folder was never made."""
        return await child_names(self._store, folder)

    async def value(self, path: str) -> bytes | None:
        """None when the announcement is gone."""
        try:
            return (await self._store.get(path)).value
        except NotFound:
            return None

    async def values(self, folder: str) -> dict[str, bytes]:
        """Encoded name to value, in order of name."""
        values: dict[str, bytes] = {}
        for name in await self.names(folder):
            value = await self.value(f"{folder}/{name}")
            if value is not None:
                values[name] = value
        return values

    def watch(self, path: str, callback: Callable[[], None]) -> Cancel:
        return self._store.watch(path, callback)


def session_of(value: bytes) -> str:
    """The session that made an announcement, in hexadecimal; empty when it does not say."""
    return RecordReader("announcement", value).text("session", "")
