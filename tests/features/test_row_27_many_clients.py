"""Row 27: a thousand producers and a thousand consumers, all connected, all make progress.

What memory of their broker they take is measured by `make bench`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from magnetar import Client, Consumer, InitialPosition, Producer
from tests.features.cluster import FeatureCluster

pytestmark = pytest.mark.timeout(300)

PAIRS, TOPICS = 1_000, 50
MESSAGES_EACH = 3
OPENED_TOGETHER = 50


async def _opened(
    stack: AsyncExitStack, cluster: FeatureCluster, topic: str, number: int
) -> tuple[Producer, Consumer]:
    """A producer and a consumer of clients of their own."""
    url, name = cluster.service_url, f"{topic}-{number % TOPICS}"
    producing = await stack.enter_async_context(Client(url, operation_timeout_seconds=60))
    consuming = await stack.enter_async_context(Client(url, operation_timeout_seconds=60))
    consumer = await consuming.subscribe(
        name, f"s-{number}", initial_position=InitialPosition.Earliest)
    return await producing.create_producer(name), consumer


async def _send(producer: Producer, number: int) -> None:
    for part in range(MESSAGES_EACH):
        await producer.send(b"%d %d" % (number, part))


async def _received(consumer: Consumer) -> int:
    count = 0
    while count < PAIRS // TOPICS * MESSAGES_EACH:
        for message in await consumer.receive_many(timeout_millis=60_000):
            consumer.acknowledge(message)
            count += 1
    return count


async def test_two_thousand_clients_at_once(cluster: FeatureCluster, topic: str) -> None:
    for name in cluster.broker_names[1:]:
        await cluster.kill(name)  # one broker serves them all
    async with AsyncExitStack() as stack:
        pairs: list[tuple[Producer, Consumer]] = []
        for first in range(0, PAIRS, OPENED_TOGETHER):
            pairs += await asyncio.gather(*(
                _opened(stack, cluster, topic, number)
                for number in range(first, first + OPENED_TOGETHER)))

        await asyncio.gather(*(
            _send(producer, number) for number, (producer, _) in enumerate(pairs)))
        received = await asyncio.gather(*(_received(consumer) for _, consumer in pairs))

    assert Counter(received) == {PAIRS // TOPICS * MESSAGES_EACH: PAIRS}
