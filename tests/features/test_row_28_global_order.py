"""Row 28: several producers, one order, the same for everybody, also when the owner is killed.

The policy `global_order` promises it: such a topic has one log, also where topics get partitions
by their first use. What it costs beside partitions is measured by `make bench`.
"""

from __future__ import annotations

import asyncio

import pytest

from magnetar import Client, InitialPosition, MessageId
from magnetar.errors import InvalidArgument
from magnetar.message_id import stored_id
from tests.features.cluster import FeatureCluster, client_of, kill_owner

PRODUCERS, MESSAGES_EACH, KILL_AFTER, READERS = 4, 400, 100, 2
PARTITIONS = 4
"""What a topic of the namespace gets without the policy."""


async def _ordered_topic(client: Client, topic: str) -> str:
    """A topic with the policy that does not exist yet, in a namespace of partitioned topics."""
    namespace = f"public/parted-{topic.rpartition('/')[2]}"
    name = f"persistent://{namespace}/ordered"
    await client.admin.namespaces.create(namespace, {"auto_create_partitions": PARTITIONS})
    await client.admin.policies.set({"global_order": True}, topic=name)
    return name


async def _produce(
    client: Client, topic: str, producer: int, half: asyncio.Event
) -> list[MessageId]:
    opened = await client.create_producer(topic, f"producer-{producer}")
    ids = []
    for number in range(MESSAGES_EACH):
        ids.append(stored_id(await opened.send(b"%d %d" % (producer, number))))
        if number == KILL_AFTER:
            half.set()
    return ids


async def _consume(client: Client, topic: str, subscription: str) -> list[tuple[MessageId, bytes]]:
    consumer = await client.subscribe(
        topic, subscription, initial_position=InitialPosition.Earliest)
    found: list[tuple[MessageId, bytes]] = []
    while len(found) < PRODUCERS * MESSAGES_EACH:
        message = await consumer.receive(60_000)
        found.append((message.message_id, message.data))
        await consumer.acknowledge(message)
    return found


async def test_all_see_one_order_of_all_producers(cluster: FeatureCluster, topic: str) -> None:
    half = asyncio.Event()
    async with client_of(cluster) as client:
        ordered = await _ordered_topic(client, topic)
        consuming = [
            asyncio.create_task(_consume(client, ordered, f"s-{number}"))
            for number in range(READERS)
        ]
        producing = [
            asyncio.create_task(_produce(client, ordered, number, half))
            for number in range(PRODUCERS)
        ]
        await half.wait()
        killed = await kill_owner(cluster, ordered)
        sent = await asyncio.gather(*producing)
        received = await asyncio.gather(*consuming)
        await cluster.restart(killed)

    orders = [[data for _, data in found] for found in received]
    assert orders[0] == orders[1]
    ids = [message_id for message_id, _ in received[0]]
    assert ids == sorted(set(ids))
    assert set(ids) == {message_id for one in sent for message_id in one}
    for producer in range(PRODUCERS):
        own = [int(data.split()[1]) for data in orders[0] if data.startswith(b"%d " % producer)]
        assert own == list(range(MESSAGES_EACH))


async def test_it_is_refused_partitions(cluster: FeatureCluster, topic: str) -> None:
    async with client_of(cluster) as client:
        ordered = await _ordered_topic(client, topic)

        with pytest.raises(InvalidArgument, match="global_order"):
            await client.admin.topics.create(ordered, partitions=PARTITIONS)
