"""The forms of the metadata store that the contract suite runs against."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from magnetar.runtime.clock import SystemClock
from magnetar.runtime.network import Address
from metadata.embedded import EmbeddedStore
from metadata.served import MetadataServer, ServedStore
from metadata.store import MetadataStore
from metadata.zookeeper import ZooKeeperStore
from tests.metadata.memory_network import MemoryNetwork
from tests.zookeeper_server import ZooKeeperServer, zookeeper

__all__ = ["zookeeper"]

OpenSession = Callable[[], Awaitable[MetadataStore]]
"""Another session with the same store."""

FORMS = ["memory", "rocksdict", "served", "zookeeper"]

_chroots = itertools.count()


@pytest.fixture(params=FORMS)
async def open_session(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[OpenSession]:
    async with AsyncExitStack() as stack:
        begin = await _form(request, tmp_path, stack)

        async def open_one() -> MetadataStore:
            session = await begin()
            stack.push_async_callback(session.close)
            return session

        yield open_one


async def _form(
    request: pytest.FixtureRequest, tmp_path: Path, stack: AsyncExitStack
) -> OpenSession:
    if request.param == "zookeeper":
        server: ZooKeeperServer = request.getfixturevalue("zookeeper")
        chroot = f"/contract/{next(_chroots)}"

        async def over_zookeeper() -> MetadataStore:
            return await ZooKeeperStore.connect(server.address, chroot, 5.0)

        return over_zookeeper
    embedded = EmbeddedStore.open(None if request.param == "memory" else tmp_path / "metadata")
    stack.push_async_callback(embedded.close)
    if request.param == "served":
        network = MemoryNetwork()
        metadata_server = MetadataServer(embedded, network)
        address = await metadata_server.start(Address("memory", 0))
        stack.push_async_callback(metadata_server.stop)

        async def over_links() -> MetadataStore:
            return await ServedStore.connect(network, address, SystemClock(), 5.0)

        return over_links

    async def inside() -> MetadataStore:
        return embedded.open_session()

    return inside
