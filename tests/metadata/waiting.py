"""Waiting for what a store tells, without sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from metadata.store import MetadataStore, SessionState

PATIENCE_S = 15.0


class States:
    """The session states a store told of, in order."""

    def __init__(self, store: MetadataStore) -> None:
        self.seen: list[SessionState] = []
        self._changed = asyncio.Event()
        store.on_session(self._add)

    def _add(self, state: SessionState) -> None:
        self.seen.append(state)
        self._changed.set()

    async def reach(self, state: SessionState) -> None:
        """Wait until the newest state is this one."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.seen or self.seen[-1] is not state:
                self._changed.clear()
                await self._changed.wait()

    async def pass_by(self, state: SessionState) -> None:
        """Wait until this state was seen at all."""
        async with asyncio.timeout(PATIENCE_S):
            while state not in self.seen:
                self._changed.clear()
                await self._changed.wait()


class Signal:
    """A callback to be awaited."""

    def __init__(self) -> None:
        self.count = 0
        self._fired = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._fired.set()

    async def fired(self) -> None:
        """Wait for a call since the last wait."""
        async with asyncio.timeout(PATIENCE_S):
            await self._fired.wait()
        self._fired.clear()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for calls until the condition holds."""
        while not condition():
            await self.fired()
