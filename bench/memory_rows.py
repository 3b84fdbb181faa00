"""What a broker's memory comes to: with thousands of clients, and with a burst that is worked off
slowly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from bench.load import AnyProducer
from bench.magnetar_rows import in_loop, new_topic, resident_mb
from bench.percentiles import Figures
from demo.cluster import ProcessCluster
from magnetar import Client, Consumer, InitialPosition

QUICK_SHARE: Final = 20
SAMPLED_EACH_S: Final = 1.0

PAIRS: Final = 1_000
OPENED_TOGETHER: Final = 50
MESSAGES_EACH: Final = 3
RECEIVE_LIMIT_MS: Final = 60_000

BURST: Final = 200_000
BURST_BYTES: Final = 100
WARM_UP: Final = 20_000
CONSUMED_PER_S: Final = 500


async def _opened(stack: AsyncExitStack, url: str, topic: str) -> tuple[AnyProducer, Consumer]:
    """A producer and a consumer of clients of their own."""
    producing = await stack.enter_async_context(Client(url, operation_timeout_seconds=60))
    consuming = await stack.enter_async_context(Client(url, operation_timeout_seconds=60))
    consumer = await consuming.subscribe(topic, "s", initial_position=InitialPosition.Latest)
    return await producing.create_producer(topic), consumer


async def _exchange(producer: AnyProducer, consumer: Consumer) -> None:
    """What the producer sends comes to the consumer; raises OperationTimeout."""
    for number in range(MESSAGES_EACH):
        await producer.send(b"%d" % number)
    for _ in range(MESSAGES_EACH):
        await consumer.acknowledge(await consumer.receive(RECEIVE_LIMIT_MS))


async def _many_clients(url: str, pairs: int, memory_mb: Callable[[], float]) -> Figures:
    topics = [new_topic() for _ in range(pairs)]
    async with AsyncExitStack() as stack:
        before_mb = memory_mb()
        async with Client(url) as alone:
            for topic in topics:
                async with await alone.create_producer(topic) as producer:
                    await producer.send(b"first")
        topics_mb = memory_mb()
        opened: list[tuple[AnyProducer, Consumer]] = []
        for first in range(0, pairs, OPENED_TOGETHER):
            opened += await asyncio.gather(*(
                _opened(stack, url, topic) for topic in topics[first:first + OPENED_TOGETHER]))
        await asyncio.gather(*(_exchange(*pair) for pair in opened))
        clients_mb = memory_mb()
    return {
        "owner_mb": clients_mb,
        "kb_a_topic": round((topics_mb - before_mb) * 1024 / pairs, 1),
        "kb_a_client": round((clients_mb - topics_mb) * 1024 / (2 * pairs), 1),
    }


def many_clients(cluster: ProcessCluster, quick: bool) -> Figures:
    """A thousand producers and a thousand consumers of one broker, a topic for each two: memory
    for a topic with an open ledger, and for a connected client that was served."""
    owner, *others = cluster.broker_names
    pairs, pid = PAIRS // (QUICK_SHARE if quick else 1), cluster.children[owner].pid
    for name in others:
        cluster.kill(name)
    try:
        return in_loop(_many_clients(cluster.service_url, pairs, lambda: resident_mb(pid)))
    finally:
        for name in others:
            cluster.restart(name)


class _Peak:
    """The most that a measure came to while it was looked at."""

    def __init__(self, measure: Callable[[], float]) -> None:
        self._measure = measure
        self.most = measure()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.most = max(self.most, self._measure())
            await asyncio.sleep(SAMPLED_EACH_S)


async def _consume_steadily(consumer: Consumer, count: int) -> int:
    """How many of the messages that are numbered from 0 came in their turn."""
    in_turn, began_s = 0, time.perf_counter()
    for number in range(count):
        if (delay_s := began_s + number / CONSUMED_PER_S - time.perf_counter()) > 0:
            await asyncio.sleep(delay_s)
        message = await consumer.receive(RECEIVE_LIMIT_MS)
        in_turn += int(message.data) == number
        consumer.acknowledge(message)
    return in_turn


async def _peak_shaving(
    url: str, topic: str, count: int, memory_mb: Callable[[], float]
) -> Figures:
    payloads = [b"%0*d" % (BURST_BYTES, number) for number in range(count)]
    async with Client(url) as client, await client.create_producer(topic) as producer:
        await (await producer.send_many([b"0" * BURST_BYTES] * WARM_UP))
        consumer = await client.subscribe(
            topic, "slow", receiver_queue_size=CONSUMED_PER_S,
            initial_position=InitialPosition.Latest)
        before_mb = memory_mb()
        peak = _Peak(memory_mb)
        async with peak.watched():
            began_s = time.perf_counter()
            consuming = asyncio.create_task(_consume_steadily(consumer, count))
            await (await producer.send_many(payloads))
            burst_s = time.perf_counter() - began_s
            in_turn = await consuming
            consumed_s = time.perf_counter() - began_s
    return {
        "grown_mb": round(peak.most - before_mb, 1), "out_of_turn": count - in_turn,
        "owner_mb": peak.most, "burst_per_s": round(count / burst_s),
        "consumed_per_s": round(count / consumed_s),
    }


def peak_shaving(cluster: ProcessCluster, quick: bool) -> Figures:
    """200,000 messages published at once, consumed at 500 a second to the last one: the most
    memory that the owner came to all the while."""
    topic, count = new_topic(), BURST // (QUICK_SHARE if quick else 1)
    pid = cluster.children[asyncio.run(cluster.owner_of(topic))].pid
    return in_loop(_peak_shaving(cluster.service_url, topic, count, lambda: resident_mb(pid)))
