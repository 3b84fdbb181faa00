"""What order costs: all producers of a topic in one log beside a log a partition, and how soon a
group that keeps the order of keys is faster with more members."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Final

from bench.load import MESSAGES_A_CALL, AnyProducer
from bench.magnetar_rows import in_loop, new_topic
from bench.percentiles import Figures
from demo.cluster import ProcessCluster
from magnetar import Client, Consumer, ConsumerType, InitialPosition

PRODUCERS: Final = 4
INTERLEAVED: Final = 3
ORDERED_MESSAGES: Final = 400_000
ORDERED_BYTES: Final = 1_024
QUICK_SHARE: Final = 10

KEYS: Final = 60
WORK_S: Final = 0.01
"""Of a worker for one message, so that the rate is the number of workers."""
ALONE_S: Final = 3.0
JOINING: Final = 3
WATCHED_S: Final = 6.0
WINDOW_S: Final = 0.5
FASTER: Final = 2.0
"""Times the rate before; four workers come to four times."""
KEYED_BACKLOG: Final = 4_000


async def _together_per_s(url: str, topic: str, count: int) -> float:
    """Messages a second of several producers of one topic, each with its share of the count."""
    chunk = [b"x" * ORDERED_BYTES] * MESSAGES_A_CALL
    calls = count // PRODUCERS // MESSAGES_A_CALL
    async with Client(url) as client:
        producers = [await client.create_producer(topic) for _ in range(PRODUCERS)]

        async def publish(producer: AnyProducer) -> None:
            for _ in range(calls):
                await producer.send_many(chunk)
            await producer.flush()

        began_s = time.perf_counter()
        async with asyncio.TaskGroup() as publishing:
            for producer in producers:
                publishing.create_task(publish(producer))
        elapsed_s = time.perf_counter() - began_s
    return calls * MESSAGES_A_CALL * PRODUCERS / elapsed_s


async def _ordered(url: str) -> str:
    topic = new_topic()
    async with Client(url) as client:
        await client.admin.policies.set({"global_order": True}, topic=topic)
    return topic


async def _partitioned(url: str) -> str:
    topic = new_topic()
    async with Client(url) as client:
        await client.admin.topics.create(topic, partitions=PRODUCERS)
    return topic


def global_order(cluster: ProcessCluster, quick: bool) -> Figures:
    """Four producers publish to one topic with the policy `global_order`, and to one of four
    partitions, which orders nothing between them; by turns."""
    url, count = cluster.service_url, ORDERED_MESSAGES // (QUICK_SHARE if quick else 1)
    ordered, apart = [], []
    for _ in range(1 if quick else INTERLEAVED):
        ordered.append(in_loop(_together_per_s(url, asyncio.run(_ordered(url)), count)))
        apart.append(in_loop(_together_per_s(url, asyncio.run(_partitioned(url)), count)))
    ordered_per_s, apart_per_s = statistics.median(ordered), statistics.median(apart)
    return {
        "ordered_per_s": round(ordered_per_s), "partitions_per_s": round(apart_per_s),
        "ordered_ratio": round(ordered_per_s / apart_per_s, 3),
    }


class _Workers:
    """Consumers that take a while for each message, and what they did."""

    def __init__(self) -> None:
        self.done_s: list[float] = []
        self.disorder = 0
        self._last: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, consumer: Consumer) -> None:
        self._tasks.append(asyncio.create_task(self._work(consumer)))

    async def _work(self, consumer: Consumer) -> None:
        while True:
            message = await consumer.receive()
            await asyncio.sleep(WORK_S)
            key, number = message.partition_key or "", int(message.data)
            self.disorder += number <= self._last.get(key, -1)
            self._last[key] = number
            self.done_s.append(time.perf_counter())
            await consumer.acknowledge(message)

    def rate(self, start_s: float, end_s: float) -> float:
        return sum(start_s <= at < end_s for at in self.done_s) / (end_s - start_s)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _scaling_up(url: str, topic: str) -> Figures:
    workers = _Workers()
    async with Client(url) as client:
        async def join() -> None:
            workers.add(await client.subscribe(
                topic, "group", consumer_type=ConsumerType.KeyShared, receiver_queue_size=10,
                initial_position=InitialPosition.Earliest))

        await join()
        async with await client.create_producer(
            topic, batching_max_allowed_size_in_bytes=2_000
        ) as producer:
            for number in range(KEYED_BACKLOG):
                await producer.ready()
                producer.send(b"%d" % number, partition_key=f"key-{number % KEYS}")
            await producer.flush()
        began_s = time.perf_counter()
        await asyncio.sleep(ALONE_S)
        joined_s = time.perf_counter()
        for _ in range(JOINING):
            await join()
        await asyncio.sleep(WATCHED_S)
        await workers.stop()
    alone = workers.rate(began_s, joined_s)
    return {
        "rise_s": _risen_s(workers, joined_s, FASTER * alone), "disorder": workers.disorder,
        "alone_per_s": round(alone),
        "together_per_s": round(workers.rate(joined_s + WATCHED_S / 2, joined_s + WATCHED_S)),
    }


def _risen_s(workers: _Workers, joined_s: float, wanted: float) -> float:
    """When the first window of that rate is over, from the first one's joining on."""
    step_s = WINDOW_S / 5
    for step in range(round((WATCHED_S - WINDOW_S) / step_s)):
        start_s = joined_s + step * step_s
        if workers.rate(start_s, start_s + WINDOW_S) >= wanted:
            return round(start_s + WINDOW_S - joined_s, 2)
    raise ValueError(f"the group did not come to {wanted:.0f} messages a second")


def scaling_up(cluster: ProcessCluster, _quick: bool) -> Figures:
    """Three members join one that works on a backlog in the order of keys: how soon the group is
    at twice its rate."""
    return in_loop(_scaling_up(cluster.service_url, new_topic()))
