"""Processes that live, die and start again: the common part, and the bookie."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from bookie.index import IndexBatch, MemoryIndex
from bookie.limits import BookieLimits
from bookie.node import BookieNode
from bookie.settings import BookieSettings
from bookie.storage import BookieStorage
from magnetar.errors import MagnetarError, StorageError
from magnetar.ids import BookieId
from magnetar.runtime.network import Address
from tests.sim.clock import SimClock
from tests.sim.network import Host, SimNetwork
from tests.sim.store import SimStore

if TYPE_CHECKING:
    from tests.sim.world import World

BOOKIE_PORT = 3181


class Process:
    """A named process of the cluster. `start` and `stop` may come in any order and number."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.host: Host | None = None
        self.store: SimStore | None = None
        self.clock = SimClock(world.loop)
        self.life = 0
        self.wanted = False

    @property
    def running(self) -> bool:
        return self.host is not None and self.host.alive and not self.host.lane.paused

    @property
    def incarnation(self) -> str:
        return f"{self.name}.{self.life}"

    def chance(self) -> random.Random:
        """The process's own randomness, another in each life."""
        return random.Random(f"{self.world.config.seed}/{self.name}/{self.life}")

    def start(self) -> None:
        """Begin a life, unless one goes on."""
        self.wanted = True
        if self.host is not None and self.host.alive:
            return
        self.life += 1
        self.world.trace.note("start", self.incarnation)
        self.host = self.world.fabric.boot(self.name)
        self.store = self.world.service.connect(self.host)
        self.begin()
        self.world.loop.spawn(self.host.lane, self._live())

    def stop(self, power_cut: bool = False) -> None:
        """End the life at once, as SIGKILL or a power cut does."""
        self.wanted = False
        self.crash(power_cut)

    def crash(self, power_cut: bool) -> None:
        host = self.host
        if host is None or not host.alive:
            return
        self.world.trace.note("stop", f"{self.incarnation} power_cut={power_cut}")
        self.world.fabric.kill(host, silent=power_cut)
        self.ended(power_cut)

    def begin(self) -> None:
        """What happens before the first step of a life."""

    def ended(self, power_cut: bool) -> None:
        """What happens to the machine when a life ends."""

    async def main(self) -> None:
        """The life itself."""
        raise NotImplementedError

    async def _live(self) -> None:
        try:
            await self.main()
        except (MagnetarError, OSError) as error:
            self.exit(f"{type(error).__name__}: {error}")

    def exit(self, why: str) -> None:
        """The process ended itself; its supervisor starts it again a little later."""
        world, life = self.world, self.life
        world.trace.note("exit", f"{self.incarnation} {why}")
        self.crash(False)

        def again() -> None:
            if self.life == life and (self.wanted or world.healed):
                self.start()

        world.loop.after(0.3, again)


class SimIndex(MemoryIndex):
    """May refuse writes for a while, as an index that stalls does."""

    process: BookieProcess

    def write(self, batch: IndexBatch) -> None:
        if self.process.index_stalled:
            raise StorageError("the index is stalled")
        super().write(batch)

    @classmethod
    def of(cls, process: BookieProcess, survivor: MemoryIndex) -> SimIndex:
        """What a restart finds, as this class."""
        index = cls()
        index.__dict__.update(survivor.__dict__)
        index.process = process
        return index


class BookieProcess(Process):
    """A real node on a simulated machine."""

    def __init__(self, world: World, name: str, number: int) -> None:
        super().__init__(world, name)
        self.machine = world.machines[number]
        self.index_stalled = False
        self.index = SimIndex.of(self, MemoryIndex())
        self.node: BookieNode | None = None
        self.index_losses = 0

    @property
    def storage(self) -> BookieStorage | None:
        return self.node.storage if self.node is not None else None

    def begin(self) -> None:
        self.disk = self.machine.boot()

    def ended(self, power_cut: bool) -> None:
        self.machine.stop(power_cut)
        unflushed = self.index.unflushed_batches
        kept = self.machine.chance.randrange(unflushed + 1)
        self.index_losses += kept < unflushed
        self.index = SimIndex.of(self, self.index.crash(kept))
        self.node = None

    async def main(self) -> None:
        assert self.host is not None and self.store is not None
        world = self.world
        file_bytes = world.config.log_file_bytes
        limits = BookieLimits(
            file_bytes=file_bytes, index_batch_records=8, read_only_below_bytes=1,
            reserve_bytes=1, idle_mark_s=0.05, index_flush_bytes=file_bytes,
            space_check_interval_s=0.5, cache_bytes=world.config.bookie_cache_bytes,
        )
        settings = BookieSettings(
            BookieId(self.name), Address(self.name, BOOKIE_PORT), limits=limits,
            gc_interval_s=world.config.garbage_interval_s,
        )
        node = BookieNode(
            settings, self.store, SimNetwork(world.fabric, self.host), self.disk, self.index,
            self.clock, self.chance(), on_fatal=lambda error: self.exit(f"fatal: {error}"),
        )
        await node.start()
        self.node = node
