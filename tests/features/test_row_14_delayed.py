"""Row 14: delayed messages come when they are due, never before, in the order of their times."""

from __future__ import annotations

import asyncio
import time

import pytest

from magnetar import InitialPosition
from tests.features.cluster import FeatureCluster, client_of, kill_owner

MESSAGES, SPREAD_MS = 500, 2_000
FOUND_WITHIN_S = 10.0
"""A topic that lost its owner is loaded by then."""


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


@pytest.mark.parametrize("restarted", [True, False], ids=["all restarted", "owner dead"])
async def test_it_fires_though_nobody_asks_for_its_topic(
    cluster: FeatureCluster, topic: str, restarted: bool
) -> None:
    async with client_of(cluster) as client:
        producer = await client.create_producer(topic)
        due_ms = now_ms() + 3_000
        await producer.send(b"wake up", deliver_at=due_ms)
        owner = await cluster.owner_of(topic)
    killed = cluster.broker_names if restarted else (owner,)

    for name in killed:
        await cluster.kill(name)
    if restarted:
        for name in killed:
            await cluster.restart(name)
    up_ms = max(due_ms, now_ms())
    await asyncio.sleep((up_ms - now_ms()) / 1000 + (1 if cluster.in_process else FOUND_WITHIN_S))
    asked_ms = now_ms()

    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        message = await consumer.receive(30_000)
        stored = await client.admin.messages.get(topic, message.message_id)
    for name in () if restarted else killed:
        await cluster.restart(name)
    assert due_ms <= stored.append_timestamp < asked_ms


async def test_a_producer_may_mix_them_with_others_while_its_owner_dies(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(topic, "p")
        due_ms = now_ms() + 1_000
        tickets = []
        killed = ""
        for number in range(300):
            if number == 150:
                killed = await kill_owner(cluster, topic)
            tickets.append(producer.send(
                b"%d" % number, deliver_at=None if number % 3 else due_ms + number))
        for ticket in tickets:
            await ticket
        received = [int((await consumer.receive(30_000)).data) for _ in range(300)]
        await cluster.restart(killed)

    at_once = [number for number in received if number % 3]
    later = [number for number in received if not number % 3]
    assert at_once == sorted(at_once) and later == sorted(later)
    assert sorted(received) == list(range(300))
