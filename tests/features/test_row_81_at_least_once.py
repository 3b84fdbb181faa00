"""Row 81: everything is delivered at least once while owner, bookie and consumers are killed."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

import pytest

from magnetar import ConsumerType, InitialPosition
from tests.features.cluster import FeatureCluster, client_of
from tests.features.consumer_process import consumer_process
from tests.features.random_kills import kill_at_random

pytestmark = pytest.mark.timeout(240)

MESSAGES, A_CONSUMER, KILL_ROUNDS = 6_000, 200, 2


async def test_every_message_is_seen_although_everything_is_killed(
    cluster: FeatureCluster, topic: str, tmp_path: Path
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
        logs = (tmp_path / f"consumer-{number}.log" for number in count())

        async def consume_and_be_killed() -> None:
            with consumer_process(cluster, topic, next(logs), A_CONSUMER) as consumer:
                await consumer.until_taken(A_CONSUMER)
            seen.update(consumer.taken())

        await kill_at_random(cluster, 5, KILL_ROUNDS, consume_and_be_killed)
        await (await sending)
        last = await client.subscribe(topic, "s", consumer_type=ConsumerType.Shared)
        async with asyncio.timeout(120):
            while len(seen) < MESSAGES:
                messages = await last.receive_many()
                await last.acknowledge_many(messages)
                seen.update(int(message.data) for message in messages)

    assert seen == set(range(MESSAGES))
