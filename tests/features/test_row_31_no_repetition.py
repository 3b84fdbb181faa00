"""Row 31: after a crash of consumer and owner only what was not acknowledged comes again."""

from __future__ import annotations

import asyncio

import pytest

from magnetar import Client, ConsumerType, InitialPosition
from magnetar.errors import OperationTimeout
from tests.features.cluster import FeatureCluster, client_of, kill_owner

MESSAGES = 2_000
DURABLE_WITHIN_S = 1.0
QUIET_MS = 1_500


async def test_individual_acknowledgements_survive_consumer_and_owner(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        crashing = Client(cluster.service_url)
        consumer = await crashing.subscribe(
            topic, "s", consumer_type=ConsumerType.Shared,
            initial_position=InitialPosition.Earliest, receiver_queue_size=MESSAGES)
        producer = await client.create_producer(topic)
        await (await producer.send_many([b"%d" % number for number in range(MESSAGES)]))
        acknowledged: set[int] = set()
        for number in range(MESSAGES):
            message = await consumer.receive(30_000)
            if number % 3:
                latest = consumer.acknowledge(message)
                acknowledged.add(int(message.data))
        async with asyncio.timeout(DURABLE_WITHIN_S):
            await latest

        killed = await kill_owner(cluster, topic)
        await crashing.close()
        again = await client.subscribe(topic, "s", consumer_type=ConsumerType.Shared)
        redelivered: set[int] = set()
        while len(redelivered) < MESSAGES - len(acknowledged):
            redelivered.add(int((await again.receive(30_000)).data))
        await cluster.restart(killed)
        with pytest.raises(OperationTimeout):
            await again.receive(QUIET_MS)

    assert redelivered == set(range(MESSAGES)) - acknowledged
