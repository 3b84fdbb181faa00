"""Row 3: a burst is taken at once and consumed at the consumer's own pace.

To the last message of the burst it is measured by `make bench`.
"""

from __future__ import annotations

import asyncio

from magnetar import InitialPosition
from tests.features.cluster import FeatureCluster, client_of

BURST, RATE, SECONDS = 200_000, 500, 4
PAYLOAD_BYTES = 100
GROWTH_BYTES = 50 << 20


async def test_a_burst_is_taken_while_the_consumer_keeps_its_pace(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            topic, "slow", initial_position=InitialPosition.Earliest, receiver_queue_size=RATE)
        owner = await cluster.owner_of(topic)
        producer = await client.create_producer(topic)
        await (await producer.send_many([b"warm up".ljust(PAYLOAD_BYTES)] * 20_000))
        before_bytes = cluster.resident_bytes(owner)

        sending = asyncio.ensure_future(
            producer.send_many([b"%099d" % number for number in range(BURST)]))
        paced = 0
        for _ in range(SECONDS):
            await asyncio.sleep(1)
            for _ in range(RATE):
                await consumer.acknowledge(await consumer.receive(30_000))
                paced += 1
        tickets = await sending
        ids = await tickets
        grown_bytes = cluster.resident_bytes(owner) - before_bytes

    assert len(ids) == BURST
    assert paced == RATE * SECONDS
    if not cluster.in_process:  # where the client's own memory counts as well
        assert grown_bytes < GROWTH_BYTES
