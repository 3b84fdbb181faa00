"""`cluster` for every test: in this process, and as `slow` in processes of their own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from demo.cluster import ProcessCluster
from demo.ports import LOOPBACK
from tests.features.cluster import FeatureCluster
from tests.features.embedded_cluster import (
    EmbeddedCluster,
    Options,
    folder_bytes,
    resident_bytes_of,
)
from tests.zookeeper_server import running_zookeeper

SESSION_TIMEOUT_S = 4.0


class Processes:
    """A ProcessCluster as a FeatureCluster; what a test killed or silenced comes back after it."""

    in_process = False

    def __init__(self, processes: ProcessCluster) -> None:
        self._processes = processes
        self._killed: set[str] = set()
        self._silent: set[str] = set()
        self.service_url = processes.service_url
        self.broker_names = processes.broker_names
        self.bookie_names = processes.bookie_names

    def address_of(self, broker: str) -> str:
        return f"{LOOPBACK}:{self._processes.ports[broker]}"

    async def owner_of(self, topic: str) -> str:
        return await self._processes.owner_of(topic)

    async def kill(self, name: str) -> None:
        self._killed.add(name)
        self._processes.kill(name)
        await asyncio.sleep(0)

    async def restart(self, name: str) -> None:
        self._processes.restart(name)
        self._killed.discard(name)

    async def silence(self, broker: str) -> None:
        self._silent.add(broker)
        self._processes.children[broker].signal(signal.SIGSTOP)

    async def wake(self, broker: str) -> None:
        self._processes.children[broker].signal(signal.SIGCONT)
        self._silent.discard(broker)

    async def heal(self) -> None:
        """Start again what is not running."""
        for name in sorted(self._silent):
            await self.wake(name)
        for name in sorted(self._killed):
            await self.restart(name)

    def bookie_bytes(self) -> dict[str, int]:
        return {
            name: folder_bytes(self._processes.directory / name / "log")
            for name in self.bookie_names
        }

    async def live_bytes(self) -> dict[str, int]:
        async with ClientSession() as http:
            return {name: await self._live_bytes(http, name) for name in self.bookie_names}

    async def _live_bytes(self, http: ClientSession, name: str) -> int:
        address = f"{LOOPBACK}:{self._processes.admin_ports[name]}"
        async with http.get(f"http://{address}/v1/bookie") as reply:
            return int((await reply.json())["live_bytes"])

    def resident_bytes(self, name: str) -> int:
        return resident_bytes_of(self._processes.children[name].pid)


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with running_zookeeper(tmp_path_factory.mktemp("zookeeper")) as server:
        session = ["--session-timeout-s", str(SESSION_TIMEOUT_S)]
        started = ProcessCluster(
            tmp_path_factory.mktemp("features"), brokers=2,
            metadata_url=f"zk://{server.address}/features", bookie_options=session,
            broker_options=session,
        )  # fmt: skip
        with started:
            yield Processes(started)


@pytest.fixture
def options() -> Options:
    """Override it in a test's file for other limits or policies of the cluster in process."""
    return Options()


@pytest.fixture(params=[
    "embedded", pytest.param("processes", marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
])
async def cluster(
    request: pytest.FixtureRequest, tmp_path: Path, options: Options
) -> AsyncIterator[FeatureCluster]:
    if request.param == "embedded":
        async with EmbeddedCluster(tmp_path, options) as embedded:
            yield embedded
    else:
        found: Processes = request.getfixturevalue("processes")
        yield found
        await found.heal()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of the test's own."""
    name = "".join(one if one.isalnum() else "-" for one in request.node.name)
    return f"persistent://public/default/{name}"
