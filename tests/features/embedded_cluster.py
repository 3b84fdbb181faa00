"""Metadata, bookies and brokers in this process, on real disks and loopback ports."""

from __future__ import annotations

import os
import random
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from bookie.node import BookieNode
from bookie.rocks_index import RocksIndex
from bookie.settings import BookieSettings
from broker.node import BrokerNode
from broker.settings import BrokerLimits, BrokerSettings
from demo.owner import owner_address
from demo.ports import LOOPBACK, free_port
from magnetar.ids import BookieId, BrokerId
from magnetar.runtime.clock import Clock, SystemClock
from magnetar.runtime.file_disk import FileDisk
from magnetar.runtime.network import Address
from magnetar.runtime.tcp import TcpNetwork
from metadata.cluster import initialize_cluster
from metadata.embedded import EmbeddedSession, EmbeddedStore
from tenants.policies import TopicPolicies

BOOKIES = ("bookie-1", "bookie-2", "bookie-3")
BROKERS = ("broker-1", "broker-2")


class MovedClock(SystemClock):
    """The machine's clock, whose wall time can be moved."""

    def __init__(self) -> None:
        self.wall_offset_ms = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.wall_offset_ms


@dataclass(frozen=True, slots=True)
class Options:
    """What a test wants otherwise than a cluster has it by itself."""

    policies: TopicPolicies = field(default_factory=TopicPolicies)
    limits: BrokerLimits = field(
        default_factory=lambda: BrokerLimits(maintenance_interval_s=0.5))
    bookie: BookieSettings = field(
        default_factory=lambda: BookieSettings(BookieId("any"), gc_interval_s=1.0))


class EmbeddedCluster:
    """Use it as an asynchronous context manager."""

    in_process = True

    def __init__(self, directory: Path, options: Options | None = None) -> None:
        self._directory = directory
        self._options = options or Options()
        self._network, self.clock = TcpNetwork(), MovedClock()
        self._chance = random.Random(1)
        self._ports = {name: free_port() for name in (*BOOKIES, *BROKERS)}
        self.bookies: dict[str, BookieNode] = {}
        self.brokers: dict[str, BrokerNode] = {}
        self._sessions: dict[str, EmbeddedSession] = {}
        self._stacks: dict[str, AsyncExitStack] = {}
        self.metadata: EmbeddedStore | None = None

    async def __aenter__(self) -> EmbeddedCluster:
        self.metadata = EmbeddedStore.open(None, self.clock)
        session = self.metadata.open_session()
        await initialize_cluster(
            session, random_bytes=self._chance.randbytes, clock=self.clock)
        await session.close()
        for name in (*BOOKIES, *BROKERS):
            await self.restart(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in (*BROKERS, *BOOKIES):
            if name in self._stacks:
                await self._stop(name)
        assert self.metadata is not None
        await self.metadata.close()

    async def _stop(self, name: str) -> None:
        node = self.brokers.pop(name, None) or self.bookies.pop(name)
        await node.stop()
        await self._sessions.pop(name).close()
        await self._stacks.pop(name).aclose()

    @property
    def service_url(self) -> str:
        return "magnetar://" + ",".join(map(self.address_of, BROKERS))

    @property
    def broker_names(self) -> tuple[str, ...]:
        return BROKERS

    @property
    def bookie_names(self) -> tuple[str, ...]:
        return BOOKIES

    def address_of(self, broker: str) -> str:
        return f"{LOOPBACK}:{self._ports[broker]}"

    async def owner_of(self, topic: str) -> str:
        addresses = [str(node.address) for node in self.brokers.values()]
        found = await owner_address(addresses, topic)
        return next(name for name, node in self.brokers.items() if str(node.address) == found)

    async def kill(self, name: str) -> None:
        stack = self._stacks.pop(name)
        broker = self.brokers.pop(name, None)
        if broker is not None:
            await broker.abort()
        else:
            await self.bookies.pop(name).stop()
        await self._sessions.pop(name).close()
        await stack.aclose()

    async def restart(self, name: str) -> None:
        assert self.metadata is not None
        session = self._sessions[name] = self.metadata.open_session()
        self._stacks[name] = AsyncExitStack()
        await (self._start_bookie if name in BOOKIES else self._start_broker)(name, session)

    async def silence(self, broker: str) -> None:
        assert self.metadata is not None
        session = self._sessions[broker]
        session.suspend()
        await self.metadata.end_session(session.session_id)

    async def wake(self, broker: str) -> None:
        """See FeatureCluster."""

    async def _start_bookie(self, name: str, session: EmbeddedSession) -> None:
        folder = self._directory / name
        for part in ("log", "index"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        disk, index = FileDisk(folder / "log"), RocksIndex(folder / "index")
        self._stacks[name].callback(disk.close)
        self._stacks[name].callback(index.close)
        node = self.bookies[name] = BookieNode(
            replace(
                self._options.bookie, bookie_id=BookieId(name),
                listen=Address(LOOPBACK, self._ports[name])),
            session, self._network, disk, index, self.clock, self._chance, on_fatal=_never,
        )
        await node.start()

    async def _start_broker(self, name: str, session: EmbeddedSession) -> None:
        node = self.brokers[name] = BrokerNode(
            BrokerSettings(
                BrokerId(name), listen=Address(LOOPBACK, self._ports[name]),
                limits=self._options.limits),
            session, self._network, self.clock, self._chance, defaults=self._options.policies,
        )
        await node.start()

    def bookie_bytes(self) -> dict[str, int]:
        return {name: folder_bytes(self._directory / name / "log") for name in BOOKIES}

    async def live_bytes(self) -> dict[str, int]:
        return {
            name: node.storage.files.usage.total_bytes for name, node in self.bookies.items()
        }

    def resident_bytes(self, name: str) -> int:
        return resident_bytes_of(os.getpid())


def folder_bytes(folder: Path) -> int:
    """Of the files in it; one that goes meanwhile counts nothing."""
    found = 0
    for file in folder.iterdir():
        with suppress(FileNotFoundError):
            found += file.stat().st_size
    return found


def resident_bytes_of(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _never(error: BaseException) -> None:
    raise AssertionError("a bookie's disk failed") from error


def clock_of(cluster: EmbeddedCluster) -> Clock:
    """The clock that all its parts read."""
    return cluster.clock
