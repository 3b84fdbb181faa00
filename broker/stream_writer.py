"""Frames on their way out of one gRPC stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

Context = Any  # grpc.aio.ServicerContext[bytes, bytes], of which the stubs know no raw form
CROWDED_BYTES = 8 << 20


class StreamWriter:
    """`put` never waits; one task writes in order. `drained` is called when little is left."""

    def __init__(
        self, context: Context, drained: Callable[[], None] = lambda: None, low_bytes: int = 0
    ) -> None:
        self._low_bytes = low_bytes
        self._room: asyncio.Event | None = None
        self._context = context
        self._drained = drained
        self._frames: deque[bytes | Callable[[], bytes]] = deque()
        self._something = asyncio.Event()
        self._finished = False
        self.pending_bytes = 0

    def put(self, frame: bytes) -> None:
        """One frame more."""
        self._frames.append(frame)
        self.pending_bytes += len(frame)
        self._something.set()

    def put_later(self, make: Callable[[], bytes]) -> None:
        """A frame made when its turn comes, from what has collected until then."""
        self._frames.append(make)
        self._something.set()

    def finish(self, frame: bytes | None = None) -> None:
        """Write what waits and this, then end the stream."""
        if not self._finished:
            if frame is not None:
                self.put(frame)
            self._finished = True
            self._something.set()

    async def run_beside(self, reading: Coroutine[Any, Any, None]) -> None:
        """Write while the client's frames are read, until either ends; raises what ended the
        reading."""
        tasks = writing, reader = asyncio.ensure_future(self._run()), asyncio.ensure_future(reading)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()
                await writing
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        """Write until finished."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._frames:
                frame = self._frames.popleft()
                if isinstance(frame, bytes):
                    await self._context.write(frame)
                    self.pending_bytes -= len(frame)
                    if self.pending_bytes < self._low_bytes:
                        self._drained()
                else:
                    await self._context.write(frame())
                if self._room is not None and not self.crowded:
                    self._room.set()
            if self._finished:
                return
            self._drained()

    @property
    def crowded(self) -> bool:
        """The client does not read what it asked for: take no more of its requests."""
        return self.pending_bytes > CROWDED_BYTES

    async def room(self) -> None:
        """Wait until not crowded."""
        while self.crowded:
            self._room = asyncio.Event()
            await self._room.wait()
