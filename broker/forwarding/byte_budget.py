"""A bound on bytes that several tasks hold at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """First come, first served; a claim above the whole budget is granted when it is alone."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.taken_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """How many claims wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def claim(self, size_bytes: int) -> AsyncIterator[None]:
        """Wait until so many bytes are free, and hold them."""
        if self._waiting or not self._fits(size_bytes):
            granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size_bytes, granted))
            try:
                await granted
            except asyncio.CancelledError:
                if granted.done() and not granted.cancelled():
                    self._give_back(size_bytes)
                else:
                    self._waiting.remove((size_bytes, granted))
                    self._grant()
                raise
        else:
            self.taken_bytes += size_bytes
        try:
            yield
        finally:
            self._give_back(size_bytes)

    def _fits(self, size_bytes: int) -> bool:
        return not self.taken_bytes or self.taken_bytes + size_bytes <= self._limit_bytes

    def _give_back(self, size_bytes: int) -> None:
        self.taken_bytes -= size_bytes
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size_bytes, granted = self._waiting.popleft()
            if not granted.done():
                self.taken_bytes += size_bytes
                granted.set_result(None)
