"""Row 77: strict order for each ordering key, while members change and the owner is killed."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

import pytest

from magnetar import Client, ConsumerType, InitialPosition
from magnetar.errors import MagnetarError
from tests.features.cluster import FeatureCluster, client_of, kill_owner

pytestmark = pytest.mark.timeout(240)

GROUPS, EACH = 40, 50


async def _work(client: Client, topic: str, seen: dict[str, list[int]], most: int) -> None:
    """One member that leaves after so many messages; each is noted when it is acknowledged."""
    chance = random.Random(most)
    consumer = await client.subscribe(
        topic, "s", consumer_type=ConsumerType.KeyShared, receiver_queue_size=20,
        initial_position=InitialPosition.Earliest)
    for _ in range(most):
        try:
            message = await consumer.receive(2_000)
        except MagnetarError:
            break
        assert message.ordering_key is not None
        await asyncio.sleep(chance.random() * 0.004)  # so that two of a key would overtake
        seen[message.ordering_key].append(int(message.data))
        await consumer.acknowledge(message)
    await consumer.close()


async def test_order_within_a_group_of_messages(cluster: FeatureCluster, topic: str) -> None:
    seen: dict[str, list[int]] = defaultdict(list)
    async with client_of(cluster) as client:
        first = await client.subscribe(
            topic, "s", consumer_type=ConsumerType.KeyShared,
            initial_position=InitialPosition.Earliest)
        await first.close()
        producer = await client.create_producer(
            topic, "p", batching_max_allowed_size_in_bytes=1_000)
        for number in range(EACH):
            for group in range(GROUPS):
                await producer.ready()
                producer.send(
                    b"%d" % number, ordering_key=f"order-{group}", partition_key=f"{number}")
        await producer.flush()

        members = [
            asyncio.create_task(_work(client, topic, seen, most))
            for most in (100, 300, 2_000, 2_000)
        ]
        await asyncio.sleep(0.2)
        killed = await kill_owner(cluster, topic)
        members += [asyncio.create_task(_work(client, topic, seen, 2_000)) for _ in range(2)]
        await asyncio.gather(*members)
        await cluster.restart(killed)
        await _work(client, topic, seen, GROUPS * EACH)

    for group in range(GROUPS):
        numbers = seen[f"order-{group}"]
        firsts = list(dict.fromkeys(numbers))
        assert firsts == list(range(EACH)), f"order-{group}: {numbers}"
