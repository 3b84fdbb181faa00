"""Row 14: delayed messages come when they are due, never before, in the order of their times."""

from __future__ import annotations

import time

from magnetar import InitialPosition
from tests.features.cluster import FeatureCluster, client_of, kill_owner

MESSAGES, SPREAD_MS = 500, 2_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_each_comes_once_and_not_before_its_time(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(topic)
        start_ms = now_ms() + 500
        due_ms = [start_ms + number * 7919 % SPREAD_MS for number in range(MESSAGES)]

        tickets = [producer.send(b"%d" % due, deliver_at=due) for due in due_ms]
        scheduled = [await ticket for ticket in tickets]
        received = []
        for _ in range(MESSAGES):
            message = await consumer.receive(30_000)
            received.append((int(message.data), now_ms(), message.scheduled_id))
            await consumer.acknowledge(message)

    assert all(at_ms >= due for due, at_ms, _ in received)
    assert [due for due, _, _ in received] == sorted(due_ms)
    assert sorted(one for _, _, one in received if one is not None) == sorted(scheduled)
    assert len(set(scheduled)) == MESSAGES


async def test_the_schedule_outlives_its_owner(cluster: FeatureCluster, topic: str) -> None:
    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(topic, "p")
        due_ms = now_ms() + 2_000
        tickets = [producer.send(b"%d" % number, deliver_at=due_ms + number)
                   for number in range(100)]
        for ticket in tickets:
            await ticket

        killed = await kill_owner(cluster, topic)
        received = []
        early = 0
        for _ in range(100):
            message = await consumer.receive(30_000)
            early += now_ms() < due_ms + int(message.data)
            received.append(int(message.data))
        await cluster.restart(killed)

    assert received == list(range(100))
    assert not early
