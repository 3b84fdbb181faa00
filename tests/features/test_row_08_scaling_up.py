"""Row 8: consumers that join a key-ordered subscription make it faster, and reorder no key.

A worker takes a while for each message, so that throughput is the number of workers.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

from magnetar import Consumer, ConsumerType, InitialPosition
from tests.features.cluster import FeatureCluster, client_of

KEYS, WORK_S, FASTER_WITHIN_S = 60, 0.01, 2.0
BACKLOG = 3_000


class Workers:
    """What was done when, and in which order for each key."""

    def __init__(self) -> None:
        self.done_s: list[float] = []
        self.by_key: dict[str, list[int]] = defaultdict(list)
        self.busy: dict[str, int] = defaultdict(int)
        self.overlaps = 0
        self.tasks: list[asyncio.Task[None]] = []

    def add(self, consumer: Consumer) -> None:
        self.tasks.append(asyncio.create_task(self._work(consumer)))

    async def _work(self, consumer: Consumer) -> None:
        while True:
            message = await consumer.receive()
            key = message.partition_key
            assert key is not None
            self.busy[key] += 1
            self.overlaps += self.busy[key] > 1
            await asyncio.sleep(WORK_S)
            self.busy[key] -= 1
            self.by_key[key].append(int(message.data))
            self.done_s.append(time.monotonic())
            await consumer.acknowledge(message)

    def rate(self, start_s: float, end_s: float) -> float:
        return sum(start_s <= at < end_s for at in self.done_s) / (end_s - start_s)


async def test_three_more_workers_are_faster_within_two_seconds(
    cluster: FeatureCluster, topic: str
) -> None:
    workers = Workers()
    async with client_of(cluster) as client:
        async def worker() -> Consumer:
            return await client.subscribe(
                topic, "s", consumer_type=ConsumerType.KeyShared, receiver_queue_size=10,
                initial_position=InitialPosition.Earliest)

        workers.add(await worker())
        producer = await client.create_producer(topic, batching_max_allowed_size_in_bytes=2_000)
        for number in range(BACKLOG):
            await producer.ready()
            producer.send(b"%d" % number, partition_key=f"key-{number % KEYS}")
        await producer.flush()
        began_s = time.monotonic()
        await asyncio.sleep(1.5)

        joined_s = time.monotonic()
        for _ in range(3):
            workers.add(await worker())
        await asyncio.sleep(FASTER_WITHIN_S + 1.5)
        ended_s = time.monotonic()
        async with asyncio.timeout(60):
            while len(workers.done_s) < BACKLOG:
                await asyncio.sleep(0.05)
        for task in workers.tasks:
            task.cancel()
        await asyncio.gather(*workers.tasks, return_exceptions=True)

    alone = workers.rate(began_s, joined_s)
    together = workers.rate(joined_s + FASTER_WITHIN_S, ended_s)
    assert together > 1.5 * alone
    assert not workers.overlaps
    for key in range(KEYS):
        assert workers.by_key[f"key-{key}"] == list(range(key, BACKLOG, KEYS))
