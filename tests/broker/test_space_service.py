"""What the SDK makes of topics that are full, terminated or deleted, over gRPC."""

from __future__ import annotations

import asyncio

import pytest

from magnetar import Client, InitialPosition
from magnetar.errors import BacklogQuotaExceeded, TopicNotFound, TopicTerminated
from tenants.policies import BacklogQuotaPolicy, TopicPolicies
from tests.broker.test_service import Served, served
from tests.broker.world import TOPIC, settle, world

PAYLOAD = b"x" * 1_000
SMALL = TopicPolicies(backlog_quota_bytes=5_000)


async def follow(broker: Served, policies: TopicPolicies) -> None:
    topic = await broker.node.topic()
    topic.follow(policies, topic.log.log.policy)


async def test_sends_wait_while_the_backlog_is_too_large_and_go_on_by_themselves() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        consumer = await client.subscribe(TOPIC, "s", initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(TOPIC)
        await follow(broker, SMALL)
        topic = await broker.node.topic()
        tickets = []
        for _ in range(10):
            tickets.append(producer.send(PAYLOAD))
            while not tickets[-1].done() and not topic.gate.holds:
                await asyncio.sleep(0.005)
        assert not tickets[-1].done()

        for _ in range(10):
            await consumer.acknowledge(await consumer.receive())

        async with asyncio.timeout(10):
            for ticket in tickets:
                await ticket


async def test_a_held_producer_can_be_closed() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await client.subscribe(TOPIC, "s", initial_position=InitialPosition.Earliest)
        filling = await client.create_producer(TOPIC)
        await filling.send(PAYLOAD * 10)
        await follow(broker, SMALL)
        idle = await client.create_producer(TOPIC)
        topic = await broker.node.topic()
        assert topic.gate.holds

        async with asyncio.timeout(5):
            await idle.close()


async def test_a_refused_send_says_why_and_can_be_repeated() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        consumer = await client.subscribe(TOPIC, "s", initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(TOPIC, producer_name="p")
        await follow(broker, SMALL.overlay(
            {"backlog_quota_policy": BacklogQuotaPolicy.PRODUCER_REJECT}
        ))
        with pytest.raises(BacklogQuotaExceeded, match="'s' is the slowest"):
            for _ in range(10):
                await producer.send(PAYLOAD)
        topic = await broker.node.topic()
        stored = topic.log.end_ordinal
        for _ in range(stored):
            await consumer.acknowledge(await consumer.receive())
        while topic.quota.refusal() is not None:
            await asyncio.sleep(0.01)

        await producer.send(b"again")

        assert (await consumer.receive()).data == b"again"


async def test_a_terminated_topic_refuses_sends_for_good() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer(TOPIC)
        await producer.send(b"1")
        await broker.node.broker.lifecycle.terminate(TOPIC)

        with pytest.raises(TopicTerminated):
            await producer.send(b"2")
        with pytest.raises(TopicTerminated):
            await client.create_producer(TOPIC)


async def test_a_deleted_topic_ends_its_producers_and_consumers_where_none_is_made_anew() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer(TOPIC)
        consumer = await client.subscribe(TOPIC, "s")
        await producer.send(b"1")
        broker.node.resolver._defaults = TopicPolicies(auto_create_topics=False)

        await broker.node.broker.lifecycle.delete(TOPIC, force=True)

        with pytest.raises(TopicNotFound):
            async with asyncio.timeout(5):
                await producer.send(b"2")
        with pytest.raises(TopicNotFound):
            async with asyncio.timeout(5):
                while True:
                    await consumer.receive()
        await settle()
