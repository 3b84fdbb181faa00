"""Row 7: order within a partition, for a key, and over all producers, while brokers are killed."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from magnetar import Consumer, ConsumerType, InitialPosition, Message
from tests.features.cluster import FeatureCluster, client_of
from tests.features.random_kills import kill_at_random

pytestmark = pytest.mark.timeout(240)

MESSAGES, KEYS, KILLS = 3_000, 30, 3


class Log:
    """What a consumer received first, in order; what comes again is not new."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.messages: dict[int, Message] = {}
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            message = await self._consumer.receive()
            self.messages.setdefault(int(message.data), message)
            await self._consumer.acknowledge(message)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(90):
            while len(self.messages) < count:
                await asyncio.sleep(0.01)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_order_holds_while_brokers_are_killed(cluster: FeatureCluster, topic: str) -> None:
    async with client_of(cluster) as client:
        exclusive = Log(await client.subscribe(
            topic, "all", initial_position=InitialPosition.Earliest))
        keyed = [
            Log(await client.subscribe(
                topic, "keys", consumer_type=ConsumerType.KeyShared,
                initial_position=InitialPosition.Earliest))
            for _ in range(3)
        ]
        producer = await client.create_producer(topic, "p", send_timeout_millis=120_000)
        sent = 0

        async def send_more() -> None:
            nonlocal sent
            for _ in range(MESSAGES // (2 * KILLS)):
                await producer.ready()
                producer.send(b"%d" % sent, partition_key=f"key-{sent % KEYS}")
                sent += 1
            await producer.flush()

        await kill_at_random(cluster, 7, KILLS, send_more, ("broker",))
        await exclusive.until(sent)
        async with asyncio.timeout(90):
            while sum(len(one.messages) for one in keyed) < sent:
                await asyncio.sleep(0.01)
        for one in keyed:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in keyed), return_exceptions=True)

    assert list(exclusive.messages) == list(range(sent))
    ids = [message.message_id for message in exclusive.messages.values()]
    assert ids == sorted(set(ids))
    for one in keyed:
        by_key: dict[int, list[int]] = defaultdict(list)
        for number in one.messages:
            by_key[number % KEYS].append(number)
        assert all(numbers == sorted(numbers) for numbers in by_key.values())
