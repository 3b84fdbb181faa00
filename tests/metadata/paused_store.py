"""A session of which single operations can be held up, so that a test decides who comes first."""

from __future__ import annotations

import asyncio
from typing import Any

from metadata.embedded import EmbeddedSession
from metadata.store import Guard


class Pause:
    """Holds up the next operation of its kind until it is let go."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._going = asyncio.Event()

    async def hold(self) -> None:
        self.reached.set()
        await self._going.wait()

    def let_go(self) -> None:
        self._going.set()


class PausedStore:
    """Passes everything on to a session, held up where a test asked for it."""

    def __init__(self, session: EmbeddedSession) -> None:
        self._session = session
        self._pauses: dict[tuple[str, str], Pause] = {}

    def pause(self, operation: str, path: str) -> Pause:
        """Before the next such operation on this path."""
        made = self._pauses[operation, path] = Pause()
        return made

    async def _held(self, operation: str, path: str) -> None:
        pause = self._pauses.pop((operation, path), None)
        if pause is not None:
            await pause.hold()

    def __getattr__(self, name: str) -> Any:
        """What is not held up: the session's own."""
        return getattr(self._session, name)

    async def get(self, path: str) -> Any:
        await self._held("get", path)
        return await self._session.get(path)

    async def create(self, path: str, value: bytes, *, ephemeral: bool = False) -> int:
        await self._held("create", path)
        return await self._session.create(path, value, ephemeral=ephemeral)

    async def put(
        self, path: str, value: bytes, version: int, guard: Guard | None = None
    ) -> int:
        await self._held("put", path)
        return await self._session.put(path, value, version, guard)

    async def delete(
        self, path: str, version: int | None = None, guard: Guard | None = None
    ) -> None:
        await self._held("delete", path)
        await self._session.delete(path, version, guard)
