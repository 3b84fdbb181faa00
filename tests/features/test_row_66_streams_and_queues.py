"""Row 66: streams and queues: every type of subscription, several of them on one topic at once."""

from __future__ import annotations

import asyncio
import functools
import operator
from collections import defaultdict

from magnetar import Consumer, ConsumerType, InitialPosition, Message
from tests.features.cluster import FeatureCluster, client_of

MESSAGES, KEYS, QUIET_S = 1_000, 20, 1.5


async def _all(consumer: Consumer) -> list[Message]:
    """Whatever comes until nothing does, acknowledged."""
    found: list[Message] = []
    while True:
        try:
            async with asyncio.timeout(QUIET_S):
                message = await consumer.receive()
        except TimeoutError:
            return found
        found.append(message)
        await consumer.acknowledge(message)


async def test_all_types_on_one_topic_at_once(cluster: FeatureCluster, topic: str) -> None:
    members = {
        ConsumerType.Exclusive: 1, ConsumerType.Failover: 2, ConsumerType.Shared: 3,
        ConsumerType.KeyShared: 3, ConsumerType.Broadcast: 2,
    }
    async with client_of(cluster) as client:
        consumers = {
            kind: [
                await client.subscribe(
                    topic, kind.value, consumer_type=kind, consumer_name=f"member-{number}",
                    initial_position=InitialPosition.Earliest, receiver_queue_size=20)
                for number in range(count)
            ]
            for kind, count in members.items()
        }
        producer = await client.create_producer(topic, batching_max_allowed_size_in_bytes=1_000)
        for number in range(MESSAGES):
            await producer.ready()
            producer.send(b"%d" % number, partition_key=f"key-{number % KEYS}")
        await producer.flush()

        received = {
            kind: await asyncio.gather(*map(_all, group)) for kind, group in consumers.items()
        }

    numbers = {
        kind: [[int(one.data) for one in part] for part in parts]
        for kind, parts in received.items()
    }
    everything = list(range(MESSAGES))
    assert numbers[ConsumerType.Exclusive] == [everything]
    assert sorted(numbers[ConsumerType.Failover], key=len) == [[], everything]
    assert numbers[ConsumerType.Broadcast] == [everything, everything]
    shared = numbers[ConsumerType.Shared]
    assert sorted(functools.reduce(operator.iadd, shared, [])) == everything
    assert all(shared)
    by_key = numbers[ConsumerType.KeyShared]
    assert sorted(functools.reduce(operator.iadd, by_key, [])) == everything
    owners = defaultdict(set)
    for member, part in enumerate(by_key):
        assert all(
            [one for one in part if one % KEYS == key]
            == sorted(one for one in part if one % KEYS == key) for key in range(KEYS))
        for one in part:
            owners[one % KEYS].add(member)
    assert all(len(who) == 1 for who in owners.values())
    assert len(set().union(*owners.values())) > 1
