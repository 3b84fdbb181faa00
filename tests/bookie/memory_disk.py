"""A disk in memory that tears, drops, rots, fills up and fails, as a script or a seed says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from magnetar.errors import CorruptRecord, DiskFailure
from magnetar.runtime.disk import DiskFull
from magnetar.runtime.network import Buffer

SECTOR_BYTES = 512


class MemoryFile:
    """Durable content, and at most one write under way."""

    def __init__(self, disk: MemoryDisk, name: str) -> None:
        self._disk = disk
        self._name = name
        self.content = bytearray()
        self.under_way = b""

    @property
    def name(self) -> str:
        return self._name

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    async def append_and_sync(self, parts: Sequence[Buffer]) -> None:
        assert not self.under_way, "one append at a time"
        disk = self._disk
        data = b"".join(parts)
        if len(data) > disk.free_bytes():
            await asyncio.sleep(0)
            raise DiskFull(f"no room for {len(data)} bytes")
        self.under_way = data
        await disk.gate.wait()
        await asyncio.sleep(0)
        if disk.failing:
            raise DiskFailure("the sync failed")
        self.under_way = b""
        self.content += data
        disk.syncs += 1

    def read_at(self, offset: int, length: int) -> bytes:
        if self._disk.unreadable:
            raise CorruptRecord("the device does not answer")
        return bytes(self.content[offset : offset + length])

    async def truncate_and_sync(self, length: int) -> None:
        await asyncio.sleep(0)
        del self.content[length:]
        self._disk.journal.append(f"truncate {self._name} {length}")

    def close(self) -> None:
        pass


class MemoryDisk:
    """`gate` holds every sync while it is cleared."""

    def __init__(self, capacity_bytes: int = 1 << 40) -> None:
        self.files: dict[str, MemoryFile] = {}
        self.capacity_bytes = capacity_bytes
        self.ballast_bytes = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing = False
        self.unreadable = False
        self.syncs = 0
        self.journal: list[str] = []

    def crash(self, chance: random.Random | None = None) -> MemoryDisk:
        """The disk after a power cut: a write under way is dropped, cut or torn by sectors."""
        survivor = MemoryDisk(self.capacity_bytes)
        for name, file in self.files.items():
            copy = survivor.files[name] = MemoryFile(survivor, name)
            copy.content = bytearray(file.content) + self._torn(file.under_way, chance)
        return survivor

    @staticmethod
    def _torn(data: bytes, chance: random.Random | None) -> bytes:
        if chance is None or not data:
            return b""
        fate = chance.randrange(4)
        if fate == 0:
            return b""
        if fate == 1:
            return data
        kept = bytearray(data[: chance.randrange(len(data) + 1)])
        if fate == 3:
            for start in range(0, len(kept), SECTOR_BYTES):
                if chance.random() < 0.3:
                    end = min(start + SECTOR_BYTES, len(kept))
                    kept[start:end] = bytes(end - start)
        return bytes(kept)

    def rot(self, name: str, offset: int) -> None:
        """Flip a bit."""
        self.files[name].content[offset] ^= 0x10

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self.files if name.startswith(prefix))

    async def create(self, name: str) -> MemoryFile:
        await asyncio.sleep(0)
        if name in self.files:
            raise FileExistsError(name)
        file = self.files[name] = MemoryFile(self, name)
        self.journal.append(f"create {name}")
        return file

    async def open(self, name: str) -> MemoryFile:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    async def unlink(self, name: str) -> None:
        await asyncio.sleep(0)
        self.files.pop(name, None)
        self.journal.append(f"unlink {name}")

    async def replace(self, name: str, content: bytes) -> None:
        await asyncio.sleep(0)
        file = self.files[name] = MemoryFile(self, name)
        file.content = bytearray(content)

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return bytes(self.files[name].content)

    def free_bytes(self) -> int:
        used = sum(len(file.content) for file in self.files.values())
        return max(0, self.capacity_bytes - used - self.ballast_bytes)

    def total_bytes(self) -> int:
        return self.capacity_bytes
