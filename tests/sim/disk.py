"""A simulated disk: what was synced survives, the rest may vanish, tear or stay.

A file is its content as the processes see it and the length known to be durable. A killed
process leaves its unsynced bytes in the page cache (visible to the next life, not durable); a
power cut drops or tears them. A failed fsync leaves its bytes visible, and no later sync makes
them durable (the kernel took them for clean): only writing them anew does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from magnetar.errors import DiskFailure
from magnetar.runtime.disk import DiskFull
from magnetar.runtime.network import Buffer
from tests.sim.loop import SimLoop
from tests.sim.trace import Trace


@dataclass(slots=True)
class DiskTimes:
    """Durations in seconds."""

    sync_min_s: float = 0.0002
    sync_max_s: float = 0.0008
    slow_chance: float = 0.01
    slow_max_s: float = 0.05


class FileState:
    """One file, shared by every handle on it and by all lives of the machine."""

    __slots__ = ("append_starts", "content", "durable_bytes", "name", "unwritten")

    def __init__(self, name: str) -> None:
        self.name = name
        self.content = bytearray()
        self.durable_bytes = 0
        self.append_starts: list[int] = []
        self.unwritten: list[tuple[int, int]] = []

    def cut_to(self, length: int) -> None:
        """Shorten, for good."""
        del self.content[length:]
        self.durable_bytes = min(self.durable_bytes, length)
        self.append_starts = [start for start in self.append_starts if start < length]
        self.unwritten = [
            (start, min(stop, length)) for start, stop in self.unwritten if start < length
        ]

    def rot_limit(self) -> int:
        """Offset below which every byte lies before the newest durable append."""
        starts = [start for start in self.append_starts if start < self.durable_bytes]
        return starts[-1] if starts else 0


class Machine:
    """The disk of one node through all its lives, and the faults put on it."""

    def __init__(
        self, loop: SimLoop, chance: random.Random, trace: Trace, name: str,
        times: DiskTimes | None = None, capacity_bytes: int = 1 << 30,
    ) -> None:
        self.loop = loop
        self.chance = chance
        self.trace = trace
        self.name = name
        self.times = times or DiskTimes()
        self.capacity_bytes = capacity_bytes
        self.files: dict[str, FileState] = {}
        self.full = False
        self.fail_next_sync = False
        self.slow_s = 0.0
        self.on_append: Callable[[], None] | None = None
        self.torn_tails = 0
        self.rotten: list[tuple[str, int]] = []
        self._life = 0
        self._newest = ""
        self._flying: list[Append] = []

    def boot(self) -> SimDisk:
        """The disk for a new life of the process; handles of older lives do nothing more."""
        self._life += 1
        return SimDisk(self, self._life)

    def alive(self, life: int) -> bool:
        return life == self._life

    def used_bytes(self) -> int:
        return sum(len(file.content) for file in self.files.values())

    def sync_delay_s(self) -> float:
        chance, times = self.chance.random, self.times
        delay_s = times.sync_min_s + (times.sync_max_s - times.sync_min_s) * chance()
        if chance() < times.slow_chance:
            delay_s += times.slow_max_s * chance()
        return delay_s + self.slow_s

    # --- faults -----------------------------------------------------------------------------
    def stop(self, power_cut: bool) -> None:
        """End the life of the process on this machine; `power_cut` takes the page cache too."""
        self._life += 1
        flying, self._flying = self._flying, []
        for append in flying:
            append.abandon(self.chance)
        if not power_cut:
            return
        for name in sorted(self.files):
            self._cut(self.files[name])

    def _cut(self, file: FileState) -> None:
        for start, stop in file.unwritten:
            if start < file.durable_bytes:
                file.content[start:stop] = bytes(stop - start)
                self.trace.note(f"power cut {self.name}/{file.name}", f"lost {start}-{stop}")
        file.unwritten = []
        loose = len(file.content) - file.durable_bytes
        if loose <= 0:
            return
        fate = self.chance.random()
        if fate < 0.35:
            del file.content[file.durable_bytes:]
        elif fate < 0.7:
            self.torn_tails += 1
            del file.content[file.durable_bytes + self.chance.randrange(loose):]
        elif fate < 0.9:
            self.torn_tails += 1
            start = file.durable_bytes + self.chance.randrange(loose)
            stop = min(len(file.content), start + 1 + self.chance.randrange(loose))
            file.content[start:stop] = bytes(stop - start)
        self.trace.note(f"power cut {self.name}/{file.name}",
                        f"{file.durable_bytes}+{loose}->{len(file.content)}")
        file.append_starts = [s for s in file.append_starts if s < file.durable_bytes]

    def rot(self, recent: bool = False) -> bool:
        """Flip one byte of durable data before the newest append; False if there is none.

        `recent`: in the later half of the file written last.
        """
        places = [(n, f.rot_limit()) for n, f in sorted(self.files.items()) if f.rot_limit() > 0]
        if recent:
            places = [place for place in places if place[0] == self._newest]
        if not places:
            return False
        name, limit = places[self.chance.randrange(len(places))]
        offset = self.chance.randrange(limit // 2 if recent else 0, limit)
        self.files[name].content[offset] ^= 1 << self.chance.randrange(8)
        self.rotten.append((name, offset))
        self.trace.note(f"rot {self.name}/{name}", offset)
        return True


class Append:
    """A write and its fsync under way."""

    __slots__ = ("data", "done", "fails", "file")

    def __init__(self, file: FileState, data: bytes, done: asyncio.Future[None],
                 fails: bool) -> None:
        self.file = file
        self.data = data
        self.done = done
        self.fails = fails

    def abandon(self, chance: random.Random) -> None:
        """The process died in it: some prefix reached the page cache."""
        reached = len(self.data)
        if chance.random() < 0.5:
            reached = chance.randrange(reached + 1)
        self.file.content += self.data[:reached]


class SimFile:
    """`AppendFile` of one life."""

    def __init__(self, disk: SimDisk, state: FileState) -> None:
        self._disk = disk
        self._state = state

    @property
    def name(self) -> str:
        return self._state.name

    @property
    def size_bytes(self) -> int:
        return len(self._state.content)

    async def append_and_sync(self, parts: Sequence[Buffer]) -> None:
        machine, state = self._disk.machine, self._state
        data = b"".join(parts)
        if machine.full or machine.used_bytes() + len(data) > machine.capacity_bytes:
            await self._disk.pass_time(machine.times.sync_min_s)
            raise DiskFull(f"{machine.name}: no room for {len(data)} bytes")
        fails, machine.fail_next_sync = machine.fail_next_sync, False
        append = Append(state, data, machine.loop.create_future(), fails)
        machine._flying.append(append)
        delay_s = machine.sync_delay_s()
        self._disk.later(delay_s, self._complete, append)
        if machine.on_append is not None:
            # A fault waits for a write in flight, and strikes while it is.
            strike, machine.on_append = machine.on_append, None
            machine.loop.after(delay_s * machine.chance.random(), strike)
        await append.done

    def _complete(self, append: Append) -> None:
        machine, state = self._disk.machine, self._state
        machine._flying.remove(append)
        machine._newest = state.name
        state.append_starts.append(len(state.content))
        state.content += append.data
        machine.trace.note(f"sync {machine.name}/{state.name}", len(state.content))
        if append.fails:
            state.unwritten.append((len(state.content) - len(append.data), len(state.content)))
            if not append.done.done():
                append.done.set_exception(DiskFailure(f"{machine.name}: fsync failed"))
            return
        state.durable_bytes = len(state.content)
        if not append.done.done():
            append.done.set_result(None)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self._state.content[offset:offset + length])

    async def truncate_and_sync(self, length: int) -> None:
        await self._disk.pass_time(self._disk.machine.sync_delay_s())
        self._state.cut_to(length)
        self._state.durable_bytes = len(self._state.content)

    def close(self) -> None:
        return None


class SimDisk:
    """`Disk` of one life of a process."""

    def __init__(self, machine: Machine, life: int) -> None:
        self.machine = machine
        self._life = life

    def later(self, delay_s: float, callback: Callable[..., None], *args: object) -> None:
        """Run a step of the hardware, unless the process died before."""
        machine = self.machine

        def step() -> None:
            if machine.alive(self._life):
                callback(*args)

        machine.loop.after(delay_s, step)

    async def pass_time(self, delay_s: float) -> None:
        done: asyncio.Future[None] = self.machine.loop.create_future()
        self.later(delay_s, done.set_result, None)
        await done

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self.machine.files if name.startswith(prefix))

    async def create(self, name: str) -> SimFile:
        if name in self.machine.files:
            raise FileExistsError(name)
        if self.machine.full:
            raise DiskFull(f"{self.machine.name}: no room for a new file")
        await self.pass_time(self.machine.sync_delay_s())
        state = self.machine.files[name] = FileState(name)
        return SimFile(self, state)

    async def open(self, name: str) -> SimFile:
        if name not in self.machine.files:
            raise FileNotFoundError(name)
        return SimFile(self, self.machine.files[name])

    async def unlink(self, name: str) -> None:
        await self.pass_time(self.machine.sync_delay_s())
        self.machine.files.pop(name, None)

    async def replace(self, name: str, content: bytes) -> None:
        await self.pass_time(self.machine.sync_delay_s())
        state = FileState(name)
        state.content += content
        state.durable_bytes = len(content)
        self.machine.files[name] = state

    def read(self, name: str) -> bytes:
        if name not in self.machine.files:
            raise FileNotFoundError(name)
        return bytes(self.machine.files[name].content)

    def free_bytes(self) -> int:
        if self.machine.full:
            return 0
        return max(0, self.machine.capacity_bytes - self.machine.used_bytes())

    def total_bytes(self) -> int:
        return self.machine.capacity_bytes
