"""A whole broker on a real bookie: framed TCP, gRPC, HTTP, all on loopback."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from bookie.index import MemoryIndex
from bookie.node import BookieNode
from bookie.settings import BookieSettings
from broker.http import BrokerHttp
from broker.node import BrokerNode
from broker.settings import BrokerSettings
from magnetar import Client, InitialPosition
from magnetar.ids import BookieId, BrokerId
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.network import Address
from magnetar.runtime.tcp import TcpNetwork
from metadata.cluster import initialize_cluster
from metadata.embedded import EmbeddedStore
from tenants.policies import TopicPolicies
from tests.bookie.house import LIMITS
from tests.bookie.memory_disk import MemoryDisk

ANY_PORT = Address("127.0.0.1", 0)


class Machine:
    """Metadata and one bookie; brokers come and go."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.store = store

    @asynccontextmanager
    async def broker(self, name: str) -> AsyncIterator[BrokerNode]:
        session = self.store.open_session()
        node = BrokerNode(
            BrokerSettings(BrokerId(name), listen=ANY_PORT, admin_listen=ANY_PORT), session,
            TcpNetwork(), SystemClock(), random.Random(name),
            defaults=TopicPolicies(ensemble_size=1, write_quorum=1, ack_quorum=1),
            admin=BrokerHttp,
        )
        await node.start()
        try:
            yield node
        finally:
            await node.stop()
            await session.close()


@asynccontextmanager
async def machine() -> AsyncIterator[Machine]:
    store = EmbeddedStore.open(None)
    session = store.open_session()
    await initialize_cluster(
        session, random_bytes=random.Random(1).randbytes, clock=SystemClock()
    )
    bookie = BookieNode(
        BookieSettings(BookieId("k1"), limits=LIMITS), session, TcpNetwork(), MemoryDisk(),
        MemoryIndex(), SystemClock(), random.Random(2), on_fatal=lambda _error: None,
    )
    await bookie.start()
    try:
        yield Machine(store)
    finally:
        await bookie.stop()
        await session.close()
        await store.close()


async def test_messages_outlive_a_graceful_restart() -> None:
    payloads = [b"%d" % number for number in range(2_000)]
    async with machine() as made:
        async with made.broker("b1") as node, Client(f"magnetar://{node.address}") as client:
            producer = await client.create_producer("orders", "p")
            consumer = await client.subscribe("orders", "s")
            await producer.send_many(payloads)
            await producer.flush()
            first = [await consumer.receive(5_000) for _ in range(700)]
            await consumer.acknowledge_cumulative(first[499])

        async with made.broker("b2") as node, Client(f"magnetar://{node.address}") as client:
            consumer = await client.subscribe("orders", "s")
            received = [(await consumer.receive(5_000)).data for _ in range(1_500)]
            assert received == payloads[500:]
            again = await client.create_producer("orders", "p")
            assert again.last_sequence_id == 1_999
            reader = await client.create_reader("orders", InitialPosition.Earliest)
            assert (await reader.read_next(5_000)).data == b"0"


async def test_health_and_metrics() -> None:
    async with machine() as made, made.broker("b1") as node, aiohttp.ClientSession() as http:
        async with Client(f"magnetar://{node.address}") as client:
            await (await client.create_producer("orders")).send(b"x")
            base = f"http://{node.admin_address}"

            async with http.get(f"{base}/healthz") as reply:
                assert reply.status == 200
            async with http.get(f"{base}/readyz") as reply:
                assert reply.status == 200
            async with http.get(f"{base}/metrics") as reply:
                told = await reply.text()
                assert "magnetar_broker_published_messages_total 1.0" in told
                assert "magnetar_broker_schedule_held_topics 0.0" in told
            async with http.get(f"{base}/v1/broker") as reply:
                state = await reply.json()
        assert state["topics"][0]["end_ordinal"] == 1
        assert node.broker is not None
        await node.broker.stop()
        async with http.get(f"{base}/readyz") as reply:
            assert reply.status == 503
