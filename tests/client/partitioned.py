"""A real broker with a client, and topics to be partitioned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from broker.topic_catalog import TopicCatalog
from magnetar import Client, Message
from magnetar.consuming import Consumer
from magnetar.topic import TopicName
from tests.broker.administered import AdminServed, admin_served
from tests.broker.world import World, world

PATIENCE_MS = 5_000


@dataclass
class Place:
    """A broker on loopback and a client of it."""

    world: World
    broker: AdminServed
    client: Client

    @property
    def catalog(self) -> TopicCatalog:
        return self.broker.node.broker.catalog

    async def create(self, name: str, partitions: int = 0) -> TopicName:
        topic = TopicName.parse(name)
        await self.catalog.create_topic(topic, partitions)
        return topic


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    async with world() as made, admin_served(made) as broker, Client(broker.url) as client:
        yield Place(made, broker, client)


async def received(consumer: Consumer, count: int) -> list[Message]:
    """So many messages, and no more than are there."""
    found: list[Message] = []
    while len(found) < count:
        found += await consumer.receive_many(count - len(found), PATIENCE_MS)
    return found


def data(messages: list[Message]) -> list[bytes]:
    return [message.data for message in messages]
