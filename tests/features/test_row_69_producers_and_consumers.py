"""Row 69: a topic has many producers and consumers, a producer's program many topics."""

from __future__ import annotations

import asyncio
from collections import Counter

from magnetar import Consumer, ConsumerType, InitialPosition
from tests.features.cluster import FeatureCluster, client_of

PRODUCERS, CONSUMERS, TOPICS, EACH = 4, 3, 5, 200


async def test_producers_and_consumers_of_topics_many_to_many(
    cluster: FeatureCluster, topic: str
) -> None:
    names = [f"{topic}-{number}" for number in range(TOPICS)]
    expected = Counter(
        (name, b"%d %d" % (who, number))
        for name in names for who in range(PRODUCERS) for number in range(EACH)
    )
    received: Counter[tuple[str, bytes]] = Counter()

    async def produce(who: int) -> None:
        async with client_of(cluster) as client:
            for name in names:
                producer = await client.create_producer(name)
                await producer.send_many([b"%d %d" % (who, number) for number in range(EACH)])

    async def consume(consumer: Consumer) -> None:
        while received.total() < expected.total():
            messages = await consumer.receive_many(100)
            received.update(
                (message.topic_name, message.data) for message in messages)
            await consumer.acknowledge_many(messages)

    async with client_of(cluster) as client:
        consumers = [
            await client.subscribe(
                names, "s", consumer_type=ConsumerType.Shared, receiver_queue_size=100,
                initial_position=InitialPosition.Earliest)
            for _ in range(CONSUMERS)
        ]
        tasks = [asyncio.create_task(consume(one)) for one in consumers]
        await asyncio.gather(*map(produce, range(PRODUCERS)))
        async with asyncio.timeout(60):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    assert received == expected
