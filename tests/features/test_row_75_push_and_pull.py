"""Row 75: messages are pushed as permits allow, or pulled: at most so many, within a wait."""

from __future__ import annotations

import asyncio
import time

import pytest

from magnetar import ConsumerType, InitialPosition
from magnetar.errors import OperationTimeout
from tests.features.cluster import FeatureCluster, client_of

MESSAGES, WAIT_MS = 1_000, 700


async def test_push_sends_no_more_than_was_asked_for(cluster: FeatureCluster, topic: str) -> None:
    async with client_of(cluster) as client:
        slow = await client.subscribe(
            topic, "s", consumer_type=ConsumerType.Shared, receiver_queue_size=10,
            initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(topic)
        await (await producer.send_many([b"%d" % number for number in range(MESSAGES)]))
        await slow.receive(30_000)

        fast = await client.subscribe(topic, "s", consumer_type=ConsumerType.Shared)
        taken = 0
        with pytest.raises(OperationTimeout):
            while True:
                taken += len(await fast.receive_many(timeout_millis=1_000))

    assert taken >= MESSAGES - 30  # the rest is the slow one's window, given out in bulk


async def test_pull_takes_at_most_what_it_asks_and_waits_as_long_as_it_says(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        puller = await client.create_puller(
            topic, "s", initial_position=InitialPosition.Earliest)
        began_s = time.monotonic()
        nothing = await puller.pull(10, WAIT_MS)
        waited_s = time.monotonic() - began_s
        producer = await client.create_producer(topic)
        waiting = asyncio.ensure_future(puller.pull(10, 30_000))
        await (await producer.send_many([b"%d" % number for number in range(25)]))

        pulled = [await waiting, await puller.pull(10), await puller.pull(10)]
        for messages in pulled:
            await puller.acknowledge(messages)
        rest = await puller.pull(10)
        await puller.close()

    assert nothing == [] and rest == []
    assert waited_s >= WAIT_MS / 1000
    assert max(map(len, pulled)) <= 10
    assert [int(one.data) for part in pulled for one in part] == list(range(25))[
        :sum(map(len, pulled))]


async def test_what_was_pulled_and_not_settled_comes_again(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        puller = await client.create_puller(
            topic, "s", initial_position=InitialPosition.Earliest, lease_millis=300)
        await (await client.create_producer(topic)).send(b"once more")

        first = await puller.pull(1, 30_000)
        second = await puller.pull(1, 30_000)
        await puller.acknowledge(second)
        await puller.close()

    assert [one.data for one in (*first, *second)] == [b"once more"] * 2
    assert (first[0].redelivery_count, second[0].redelivery_count) == (0, 1)
