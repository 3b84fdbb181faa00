"""A small cluster in this process, and a producer and a consumer that must notice nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bookie.index import MemoryIndex
from bookie.node import BookieNode
from bookie.settings import BookieSettings
from broker.node import BrokerNode
from broker.settings import BrokerSettings
from magnetar import Client, InitialPosition
from magnetar.ids import BookieId, BrokerId
from magnetar.producer import Producer
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.network import Address
from magnetar.runtime.tcp import TcpNetwork
from metadata.cluster import initialize_cluster, read_cluster
from metadata.embedded import EmbeddedStore
from metadata.served import MetadataServer
from tenants.policies import TopicPolicies
from tests.bookie.house import LIMITS
from tests.bookie.memory_disk import MemoryDisk

ANY_PORT = Address("127.0.0.1", 0)
BOOKIE = BookieId("bookie-1")
POLICIES = TopicPolicies(ensemble_size=1, write_quorum=1, ack_quorum=1)
PATIENCE_S = 20.0


@dataclass
class Nodes:
    """One of each kind, on ports of their own."""

    bookie: BookieNode
    broker: BrokerNode
    metadata: Address
    cluster_key: bytes

    @property
    def url(self) -> str:
        return f"magnetar://{self.broker.address}"

    def port_of(self, kind: str) -> Address:
        """Of "bookie", "broker" or "metadata"."""
        ports = {
            "bookie": self.bookie.address, "broker": self.broker.address,
            "metadata": self.metadata,
        }
        return ports[kind]


class GoodStream:
    """Publishes and consumes numbers all the while."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._published = 0
        self._received: list[int] = []
        self._stopping = False

    async def run(self) -> None:
        producer = await self._client.create_producer("good", "good-producer")
        consumer = await self._client.subscribe(
            "good", "all", initial_position=InitialPosition.Earliest
        )
        publishing = asyncio.create_task(self._publish(producer))
        publishing.add_done_callback(lambda task: task.cancelled() or task.exception())
        while not (publishing.done() and len(self._received) >= self._published):
            message = await consumer.receive(timeout_millis=5_000)
            self._received.append(int(message.data))
            await consumer.acknowledge(message)
        await publishing
        assert producer.acknowledged_messages == self._published

    async def _publish(self, producer: Producer) -> None:
        while not self._stopping:
            await producer.send(b"%d" % self._published)
            self._published += 1

    async def moved(self) -> None:
        """Until it has published and received some more."""
        wanted = self._published + 5
        async with asyncio.timeout(PATIENCE_S):
            while len(self._received) < wanted:
                await asyncio.sleep(0)

    async def end(self, running: asyncio.Task[None]) -> None:
        """Nothing is lost, repeated or out of order."""
        self._stopping = True
        async with asyncio.timeout(PATIENCE_S):
            await running
        assert self._received == list(range(self._published))


@asynccontextmanager
async def nodes() -> AsyncIterator[Nodes]:
    """A cluster with 1/1/1."""
    embedded, network, clock = EmbeddedStore.open(None), TcpNetwork(), SystemClock()
    session = embedded.open_session()
    chance = random.Random(1)
    await initialize_cluster(session, random_bytes=chance.randbytes, clock=clock)
    key = (await read_cluster(session)).cluster_key
    served = MetadataServer(embedded, network)
    bookie = BookieNode(
        BookieSettings(BOOKIE, listen=ANY_PORT, limits=LIMITS), session, network, MemoryDisk(),
        MemoryIndex(), clock, chance, on_fatal=lambda _: None,
    )
    broker = BrokerNode(
        BrokerSettings(broker_id=BrokerId("b1"), listen=ANY_PORT), session, network, clock,
        chance, defaults=POLICIES,
    )
    try:
        metadata = await served.start(ANY_PORT)
        await bookie.start()
        await broker.start()
        yield Nodes(bookie, broker, metadata, key)
    finally:
        await broker.stop()
        await bookie.stop()
        await served.stop()
        await embedded.close()


@asynccontextmanager
async def undisturbed() -> AsyncIterator[Nodes]:
    """What is done inside must not disturb others: a good stream runs before, during, after."""
    async with nodes() as made, Client(made.url) as client:
        stream = GoodStream(client)
        running = asyncio.create_task(stream.run())
        try:
            await stream.moved()
            yield made
            await stream.moved()
            await stream.end(running)
        finally:
            running.cancel()
