"""One storage on a memory disk, with crashes and restarts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bookie.index import MemoryIndex
from bookie.limits import BookieLimits
from bookie.storage import BookieStorage
from ledger.wire import (
    AddRequest,
    ReadLacReply,
    ReadLacRequest,
    ReadReply,
    ReadRequest,
    Status,
)
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import SystemClock
from tests.bookie.memory_disk import MemoryDisk

LEDGER = LedgerId(7)
LIMITS = BookieLimits(idle_mark_s=0.001, read_only_below_bytes=4096, reserve_bytes=1024)


def request(
    entry: int, body: bytes | None = None, *, ledger: int = LEDGER, lac: int = -1,
    recovery: bool = False,
) -> AddRequest:
    """An add; the body tells the entry unless given."""
    content = b"entry %d of %d" % (entry, ledger) if body is None else body
    return AddRequest.make(LedgerId(ledger), EntryId(entry), EntryId(lac), content, recovery)


class House:
    """A bookie's storage with its disk and index."""

    def __init__(self, limits: BookieLimits = LIMITS, disk: MemoryDisk | None = None) -> None:
        self.limits = limits
        self.disk = disk if disk is not None else MemoryDisk()
        self.index = MemoryIndex()
        self.fatal: list[BaseException] = []
        self.read_only: list[bool] = []
        self.storage = self._new()

    def _new(self) -> BookieStorage:
        return BookieStorage(
            self.disk, self.index, SystemClock(), random.Random(1), self.limits,
            on_fatal=self.fatal.append, on_read_only=self.read_only.append,
        )

    async def crash(
        self, *, kept_batches: int | None = None, chance: random.Random | None = None,
        damage: Callable[[MemoryDisk], None] = lambda _: None,
    ) -> None:
        """Power cut and restart; the index keeps some of its unflushed batches (default all)."""
        self.storage.kill()
        await asyncio.sleep(0)
        self.disk = self.disk.crash(chance)
        damage(self.disk)
        kept = self.index.unflushed_batches if kept_batches is None else kept_batches
        self.index = MemoryIndex() if kept < 0 else self.index.crash(kept)
        self.storage = self._new()
        await self.storage.start()

    def add_nowait(self, add: AddRequest) -> asyncio.Future[Status]:
        future: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
        self.storage.add(add, future.set_result)
        return future

    async def add(self, add: AddRequest) -> Status:
        async with asyncio.timeout(5):
            return await self.add_nowait(add)

    async def fill(self, count: int, *, ledger: int = LEDGER, first: int = 0) -> None:
        """Add entries, all OK."""
        futures = [
            self.add_nowait(request(entry, ledger=ledger, lac=entry - 1))
            for entry in range(first, first + count)
        ]
        assert set(await asyncio.gather(*futures)) <= {Status.OK}

    async def read(
        self, first: int, count: int = 1, *, ledger: int = LEDGER, fence: bool = False,
        max_bytes: int = 1 << 20,
    ) -> ReadReply:
        async with asyncio.timeout(5):
            return await self.storage.read(
                ReadRequest(LedgerId(ledger), EntryId(first), count, max_bytes, fence)
            )

    async def bodies(self, first: int, count: int, *, ledger: int = LEDGER) -> list[bytes]:
        return [e.body for e in (await self.read(first, count, ledger=ledger)).entries]

    async def read_lac(self, *, ledger: int = LEDGER, fence: bool = False) -> ReadLacReply:
        async with asyncio.timeout(5):
            return await self.storage.read_lac(ReadLacRequest(LedgerId(ledger), fence))

    async def indexed(self) -> None:
        """Until the index has everything that is durable."""
        while self.storage.indexer.waiting_bytes:
            await asyncio.sleep(0)


@asynccontextmanager
async def house(
    limits: BookieLimits = LIMITS, disk: MemoryDisk | None = None
) -> AsyncIterator[House]:
    """A started house, stopped at the end."""
    made = House(limits, disk)
    await made.storage.start()
    try:
        yield made
    finally:
        made.disk.gate.set()
        made.storage.kill()
        await asyncio.sleep(0)
