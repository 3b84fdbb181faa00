"""Row 8: consumers that join a key-ordered subscription take their share, and reorder no key.

How soon the group is faster is measured by the row `scaling-up` of `make bench`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from magnetar import Consumer, ConsumerType, InitialPosition
from tests.features.cluster import FeatureCluster, client_of

KEYS, WORK_S = 60, 0.01
BACKLOG = 1_800
JOINING = 3


class Workers:
    """What each did, and in which order for each key."""

    def __init__(self) -> None:
        self.done: list[int] = []
        """Messages by worker."""
        self.by_key: dict[str, list[int]] = defaultdict(list)
        self.busy: dict[str, int] = defaultdict(int)
        self.overlaps = 0
        self.tasks: list[asyncio.Task[None]] = []

    def add(self, consumer: Consumer) -> None:
        self.done.append(0)
        self.tasks.append(asyncio.create_task(self._work(consumer, len(self.done) - 1)))

    async def _work(self, consumer: Consumer, worker: int) -> None:
        while True:
            message = await consumer.receive()
            key = message.partition_key
            assert key is not None
            self.busy[key] += 1
            self.overlaps += self.busy[key] > 1
            await asyncio.sleep(WORK_S)
            self.busy[key] -= 1
            self.by_key[key].append(int(message.data))
            self.done[worker] += 1
            await consumer.acknowledge(message)


async def test_three_more_workers_take_their_share_and_keep_the_order_of_keys(
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
        async with asyncio.timeout(60):
            while workers.done[0] < 100:
                await asyncio.sleep(0.01)

        for _ in range(JOINING):
            workers.add(await worker())
        before = workers.done[0]
        async with asyncio.timeout(120):
            while sum(workers.done) < BACKLOG:
                await asyncio.sleep(0.05)
        for task in workers.tasks:
            task.cancel()
        await asyncio.gather(*workers.tasks, return_exceptions=True)

    remaining = BACKLOG - before
    assert all(done > remaining // 10 for done in workers.done[1:]), workers.done
    assert not workers.overlaps
    for key in range(KEYS):
        assert workers.by_key[f"key-{key}"] == list(range(key, BACKLOG, KEYS))
