"""Row 81: everything is delivered at least once while owner, bookie and consumers are killed."""

from __future__ import annotations

import asyncio

import pytest

from magnetar import Client, Consumer, ConsumerType, InitialPosition
from magnetar.errors import OperationTimeout
from tests.features.cluster import FeatureCluster, client_of
from tests.features.random_kills import kill_at_random

pytestmark = pytest.mark.timeout(240)

MESSAGES, KILL_ROUNDS = 6_000, 2


async def _consume_some(consumer: Consumer, seen: set[int], most: int) -> None:
    for _ in range(most):
        try:
            message = await consumer.receive(1_000)
        except OperationTimeout:
            return
        seen.add(int(message.data))
        await consumer.acknowledge(message)


async def test_every_message_is_seen_although_everything_is_killed(
    cluster: FeatureCluster, topic: str
) -> None:
    seen: set[int] = set()
    async with client_of(cluster) as client:
        first = await client.subscribe(
            topic, "s", consumer_type=ConsumerType.Shared,
            initial_position=InitialPosition.Earliest)
        await first.close()
        producer = await client.create_producer(topic)
        sending = asyncio.ensure_future(
            producer.send_many([b"%d" % number for number in range(MESSAGES)]))

        async def consume_and_crash() -> None:
            crashing = Client(cluster.service_url, operation_timeout_seconds=60)
            consumer = await crashing.subscribe(topic, "s", consumer_type=ConsumerType.Shared)
            await _consume_some(consumer, seen, 200)
            await crashing.close()  # with most of its queue unacknowledged

        await kill_at_random(cluster, 5, KILL_ROUNDS, consume_and_crash)
        await (await sending)
        last = await client.subscribe(topic, "s", consumer_type=ConsumerType.Shared)
        async with asyncio.timeout(120):
            while len(seen) < MESSAGES:
                await _consume_some(last, seen, MESSAGES)

    assert seen == set(range(MESSAGES))
