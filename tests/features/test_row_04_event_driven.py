"""Row 4: a handler bound to a topic fires; after a restart it goes on without loss."""

from __future__ import annotations

import asyncio
from collections import Counter

from magnetar import Client, InitialPosition, Message
from tests.features.cluster import FeatureCluster, client_of, kill_owner

EVENTS = 500


async def test_a_handler_fires_and_goes_on_after_a_restart(
    cluster: FeatureCluster, topic: str
) -> None:
    handled: Counter[int] = Counter()

    async def service(client: Client, until: int) -> None:
        """One life of the service: it ends once so many events are handled."""
        enough = asyncio.Event()

        @client.on(topic, "service", initial_position=InitialPosition.Earliest, concurrency=8)
        async def handle(message: Message) -> None:
            handled[int(message.data)] += 1
            if len(handled) >= until:
                enough.set()

        await client.start_listeners()
        async with asyncio.timeout(60):
            await enough.wait()
        await client.stop_listeners()

    async with client_of(cluster) as client:
        producer = await client.create_producer(topic, batching_max_allowed_size_in_bytes=300)
        await (await producer.send_many([b"%d" % number for number in range(EVENTS)]))
        async with client_of(cluster) as first:
            await service(first, EVENTS // 4)
        killed = await kill_owner(cluster, topic)
        async with client_of(cluster) as second:
            await service(second, EVENTS)
        await cluster.restart(killed)

    assert set(handled) == set(range(EVENTS))
    assert handled.total() == EVENTS
