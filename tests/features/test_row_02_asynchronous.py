"""Row 2: a producer does not wait for whoever consumes.

That its latency stays the same too is measured by `make bench`.
"""

from __future__ import annotations

import asyncio

from magnetar import Consumer, InitialPosition
from tests.features.cluster import FeatureCluster, client_of

MESSAGES, SLOW_CONSUMERS = 2_000, 5
WORK_S = 1.0


async def _work_slowly(consumer: Consumer) -> None:
    while True:
        message = await consumer.receive()
        await asyncio.sleep(WORK_S)
        await consumer.acknowledge(message)


async def test_everything_is_durable_long_before_slow_consumers_are_done(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        consumers = [
            await client.subscribe(
                topic, f"slow-{number}", initial_position=InitialPosition.Earliest)
            for number in range(SLOW_CONSUMERS)
        ]
        working = [asyncio.create_task(_work_slowly(consumer)) for consumer in consumers]
        producer = await client.create_producer(topic)

        ids = await (await producer.send_many([b"job %d" % n for n in range(MESSAGES)]))
        still_working = not any(task.done() for task in working)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    assert len(set(ids)) == MESSAGES
    assert still_working
