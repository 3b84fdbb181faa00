"""A cluster in memory and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from magnetar.client import Client
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
