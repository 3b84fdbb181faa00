"""Row 76: clustering, where members share, and broadcast, where each gets everything.

A broadcast member's position is its own, and durable under its name.
"""

from __future__ import annotations

import pytest

from magnetar import Consumer, ConsumerType, InitialPosition
from magnetar.errors import InvalidArgument
from tests.features.cluster import FeatureCluster, client_of, kill_owner

MESSAGES = 200


async def _take(consumer: Consumer, count: int) -> list[int]:
    found = []
    for _ in range(count):
        message = await consumer.receive(30_000)
        found.append(int(message.data))
        await consumer.acknowledge(message)
    return found


async def test_each_member_gets_everything_and_goes_on_where_it_was(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        async def member(name: str) -> Consumer:
            return await client.subscribe(
                topic, "caches", consumer_type=ConsumerType.Broadcast, consumer_name=name,
                initial_position=InitialPosition.Earliest)

        first, second = await member("web-1"), await member("web-2")
        producer = await client.create_producer(topic)
        await (await producer.send_many([b"%d" % number for number in range(MESSAGES)]))
        half = await _take(first, MESSAGES // 2)
        everything = await _take(second, MESSAGES)
        await first.close()

        killed = await kill_owner(cluster, topic)
        again = await member("web-1")
        rest = await _take(again, MESSAGES // 2)
        await cluster.restart(killed)

    assert half + rest == everything == list(range(MESSAGES))


async def test_a_member_needs_a_name(cluster: FeatureCluster, topic: str) -> None:
    async with client_of(cluster) as client:
        with pytest.raises(InvalidArgument, match="name"):
            await client.subscribe(topic, "caches", consumer_type=ConsumerType.Broadcast)


async def test_in_a_cluster_each_message_goes_to_one_member(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        members = [
            await client.subscribe(
                topic, "workers", consumer_type=ConsumerType.Shared, receiver_queue_size=1,
                initial_position=InitialPosition.Earliest)
            for _ in range(2)
        ]
        producer = await client.create_producer(topic, batching_enabled=False)
        await (await producer.send_many([b"%d" % number for number in range(MESSAGES)]))

        taken: list[int] = []
        for number in range(MESSAGES):
            taken += await _take(members[number % 2], 1)

    assert sorted(taken) == list(range(MESSAGES))
