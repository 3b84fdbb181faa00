"""Row 13: messages have a time to live: their own, their topic's or their namespace's."""

from __future__ import annotations

import asyncio

import pytest

from magnetar import InitialPosition
from magnetar.errors import OperationTimeout
from tests.features.cluster import FeatureCluster, client_of

TTL_MS, QUIET_MS = 1_000, 1_500
DELAY_S = 2.5
"""Longer than a message may live."""


async def test_a_topic_s_messages_expire_and_are_counted(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        await client.admin.topics.create(topic)
        await client.admin.policies.set({"message_ttl_ms": TTL_MS}, topic=topic)
        await client.admin.subscriptions.create(topic, "s")
        producer = await client.create_producer(topic)
        await (await producer.send_many([b"old %d" % number for number in range(100)]))
        await asyncio.sleep(TTL_MS / 1000 + 0.2)
        await producer.send(b"new")

        consumer = await client.subscribe(topic, "s")
        received = (await consumer.receive(30_000)).data
        stats = await client.admin.subscriptions.stats(topic, "s")

    assert received == b"new"
    assert stats.expired_messages == 100


async def test_a_namespace_s_messages_expire(cluster: FeatureCluster, topic: str) -> None:
    namespace = f"public/short-lived-{topic.rpartition('/')[2]}"
    name = f"persistent://{namespace}/t"
    async with client_of(cluster) as client:
        await client.admin.namespaces.create(namespace, {"message_ttl_ms": TTL_MS})
        await client.admin.topics.create(name)
        await client.admin.subscriptions.create(name, "s")
        await (await client.create_producer(name)).send(b"old")
        await asyncio.sleep(TTL_MS / 1000 + 0.2)

        consumer = await client.subscribe(name, "s")
        with pytest.raises(OperationTimeout):
            await consumer.receive(QUIET_MS)


async def test_a_delayed_message_lives_from_when_it_is_due(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        await client.admin.topics.create(topic)
        await client.admin.policies.set({"message_ttl_ms": TTL_MS}, topic=topic)
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        await (await client.create_producer(topic)).send(b"later", deliver_after=DELAY_S)

        received = await consumer.receive(30_000)

    assert received.data == b"later"


async def test_each_message_may_have_its_own(cluster: FeatureCluster, topic: str) -> None:
    async with client_of(cluster) as client:
        await client.admin.topics.create(topic)
        await client.admin.subscriptions.create(topic, "s")
        producer = await client.create_producer(topic)
        tickets = [
            producer.send(b"%d" % number, time_to_live=TTL_MS / 1000 if number % 2 else None)
            for number in range(100)
        ]
        for ticket in tickets:
            await ticket
        await asyncio.sleep(TTL_MS / 1000 + 0.2)

        consumer = await client.subscribe(topic, "s")
        received = [int((await consumer.receive(30_000)).data) for _ in range(50)]
        with pytest.raises(OperationTimeout):
            await consumer.receive(QUIET_MS)

    assert received == list(range(0, 100, 2))


async def test_what_expired_goes_to_the_dead_letters_where_the_policy_says_so(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        await client.admin.topics.create(topic)
        await client.admin.policies.set(
            {"message_ttl_ms": TTL_MS, "dead_letter_expired": True}, topic=topic)
        await client.admin.subscriptions.create(topic, "s")
        producer = await client.create_producer(topic)
        await producer.send(b"too late", {"order": "17"})

        dead = await client.subscribe(
            f"{topic}-s-dead", "watch", initial_position=InitialPosition.Earliest)
        received = await dead.receive(30_000)

    assert received.data == b"too late"
    assert received.properties["order"] == "17"
    assert received.properties["dead_letter.topic"] == topic
