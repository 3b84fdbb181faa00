"""Row 1: many services get the same message."""

from __future__ import annotations

import asyncio

from magnetar import Consumer, InitialPosition
from tests.features.cluster import FeatureCluster, client_of

MESSAGES, SUBSCRIPTIONS = 10_000, 5


async def _received(consumer: Consumer) -> list[int]:
    found: list[int] = []
    while len(found) < MESSAGES:
        messages = await consumer.receive_many(timeout_millis=30_000)
        found += [int(message.data) for message in messages]
        for message in messages:
            consumer.acknowledge(message)
    return found


async def test_five_services_each_get_everything_once_and_in_order(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        consumers = [
            await client.subscribe(
                topic, f"service-{number}", initial_position=InitialPosition.Earliest)
            for number in range(SUBSCRIPTIONS)
        ]
        producer = await client.create_producer(topic)

        await producer.send_many([b"%d" % number for number in range(MESSAGES)])
        received = await asyncio.gather(*map(_received, consumers))

    assert received == [list(range(MESSAGES))] * SUBSCRIPTIONS
