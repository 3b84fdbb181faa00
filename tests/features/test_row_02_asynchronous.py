"""Row 2: a producer does not wait for whoever consumes.

That its latency stays the same too is measured by `make bench`.
"""

from __future__ import annotations

import asyncio

from magnetar import Consumer, InitialPosition
from tests.features.cluster import FeatureCluster, client_of, eventually

MESSAGES, SLOW_CONSUMERS = 2_000, 5
WORK_S = 1.0


async def _work_slowly(consumer: Consumer, done: list[bytes]) -> None:
    while True:
        message = await consumer.receive()
        await asyncio.sleep(WORK_S)
        await consumer.acknowledge(message)
        done.append(message.data)


async def test_everything_is_durable_long_before_slow_consumers_are_done(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        consumers = [
            await client.subscribe(
                topic, f"slow-{number}", initial_position=InitialPosition.Earliest)
            for number in range(SLOW_CONSUMERS)
        ]
        done: list[list[bytes]] = [[] for _ in consumers]
        working = [
            asyncio.create_task(_work_slowly(consumer, its)) for consumer, its in zip(
                consumers, done, strict=True)
        ]
        producer = await client.create_producer(topic)

        ids = await (await producer.send_many([b"job %d" % n for n in range(MESSAGES)]))
        done_by_then = [len(its) for its in done]
        await eventually(lambda: all(done))  # each was at work indeed
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    assert len(set(ids)) == MESSAGES
    assert max(done_by_then) < MESSAGES // 10
