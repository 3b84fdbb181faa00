"""A cluster in memory and a client of it; a real broker for what blocks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from magnetar.client import Client
from tests.broker.administered import admin_served
from tests.broker.world import world
from tests.client.memory_broker import MemoryCluster


@pytest.fixture
async def cluster() -> AsyncIterator[MemoryCluster]:
    cluster = MemoryCluster()
    await cluster.start_broker()
    yield cluster
    await cluster.stop()


@pytest.fixture
async def client(cluster: MemoryCluster) -> AsyncIterator[Client]:
    async with Client(cluster.url) as client:
        yield client


@pytest.fixture
def url() -> Iterator[str]:
    """Of a broker on in-memory bookies, served by the SDK's loop: gRPC wants one a process."""
    from magnetar.sync import THREAD

    stack = AsyncExitStack()

    async def start() -> str:
        made = await stack.enter_async_context(world())
        return (await stack.enter_async_context(admin_served(made))).url

    found = THREAD.run(start())
    yield found
    THREAD.run(stack.aclose())
