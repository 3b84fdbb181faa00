"""The simulator's `Clock`: virtual time, with a wall clock that may be wrong."""

from __future__ import annotations

import asyncio

from tests.sim.loop import SimLoop

WALL_START_MS = 1_700_000_000_000


class SimClock:
    """Time of one simulated machine."""

    def __init__(self, loop: SimLoop, skew_ms: int = 0) -> None:
        self._loop = loop
        self.skew_ms = skew_ms
        self.latest_ms = 0
        """The highest time that it ever told."""

    def monotonic_s(self) -> float:
        return self._loop.time()

    def wall_ms(self) -> int:
        now_ms = WALL_START_MS + self.skew_ms + int(self._loop.time() * 1000)
        self.latest_ms = max(self.latest_ms, now_ms)
        return now_ms

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
