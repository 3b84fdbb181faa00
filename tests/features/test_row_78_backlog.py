"""Row 78: a backlog in one topic is drained in order, and publishing goes on beside it.

Ten million, with latency, memory and rate, are measured by `make bench`.
"""

from __future__ import annotations

import asyncio

from magnetar import InitialPosition
from tests.features.cluster import FeatureCluster, client_of

BACKLOG, PAYLOAD_BYTES, MORE = 300_000, 100, 100


async def test_a_backlog_is_kept_exactly_and_drained_in_order(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        await consumer.close()
        producer = await client.create_producer(topic)
        for first in range(0, BACKLOG, 10_000):
            await producer.send_many(
                [b"%0100d" % number for number in range(first, first + 10_000)])
        await producer.flush()
        backlog = (await client.admin.subscriptions.stats(topic, "s")).backlog_messages

        consumer = await client.subscribe(topic, "s")
        expected, wrong = 0, 0
        for number in range(MORE):
            await producer.send(b"%0100d" % (BACKLOG + number))
        async with asyncio.timeout(90):
            while expected < BACKLOG + MORE:
                for message in await consumer.receive_many(10_000):
                    wrong += int(message.data) != expected
                    expected += 1
                    claim = consumer.acknowledge(message)
        await claim
        left = (await client.admin.subscriptions.stats(topic, "s")).backlog_messages

    assert backlog == BACKLOG
    assert not wrong
    assert left == 0
