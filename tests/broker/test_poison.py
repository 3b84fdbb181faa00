"""Handlers that fail, from the first delivery to the redrive: everything is handled or lies where
it can be found, and the counts add up exactly."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest

from magnetar import Client, ConsumerType, DeadLetterPolicy, InitialPosition
from magnetar.consuming import Consumer
from magnetar.errors import OperationTimeout, TopicTerminated
from magnetar.message import Message
from tests.broker.test_dead_letters import DEAD, dead_letters, dead_payloads
from tests.broker.test_service import Served, served
from tests.broker.world import settle, until, world

EARLIEST = InitialPosition.Earliest
POISON = b"poison"


@dataclass
class Handler:
    """Handles what is not poison; poison fails after a growing delay."""

    consumer: Consumer
    cured: bool = False
    handled: list[bytes] = field(default_factory=list)
    failures: Counter[bytes] = field(default_factory=Counter)

    async def run(self) -> None:
        while True:
            await self.handle(await self.consumer.receive())

    async def handle(self, message: Message) -> None:
        if POISON in message.data and not self.cured:
            assert message.redelivery_count == self.failures[message.data]
            self.failures[message.data] += 1
            self.consumer.negative_acknowledge(message, reason=f"cannot eat {message.data!r}")
        else:
            await self.consumer.acknowledge(message)
            self.handled.append(message.data)


async def subscribed(client: Client, kind: ConsumerType = ConsumerType.Shared) -> Handler:
    return Handler(await client.subscribe(
        "orders", "s", consumer_type=kind, initial_position=EARLIEST,
        redelivery_backoff=[0.001, 0.005, 0.01], dead_letter_policy=DeadLetterPolicy(3)))


async def publish(client: Client, messages: dict[bytes, str]) -> None:
    producer = await client.create_producer("orders", "p")
    for content, key in messages.items():
        await producer.send(content, partition_key=key)
    await producer.close()


async def backlog(broker: Served) -> int:
    return (await broker.node.topic()).state.subscriptions["s"].backlog_messages


async def test_poison_backs_off_becomes_a_dead_letter_and_is_handled_when_redriven() -> None:
    messages = {
        b"%b %d" % (POISON if number % 5 == 0 else b"order", number): f"k{number % 3}"
        for number in range(60)
    }
    poison = sorted(content for content in messages if POISON in content)
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await publish(client, messages)
        handler = await subscribed(client)
        work = asyncio.ensure_future(handler.run())
        await until(lambda: len(handler.handled) == 48)
        topic = await broker.node.topic()
        await until(lambda: not topic.state.subscriptions["s"].backlog_messages)

        assert handler.failures == Counter({content: 3 for content in poison})
        assert sorted(await dead_payloads(broker.node)) == poison
        for view, index in await dead_letters(broker.node):
            properties = view.properties(index)
            assert properties["dead_letter.attempts"] == "3"
            assert properties["dead_letter.reason"] == f"cannot eat {view.payload(index)!r}"

        handler.cured = True
        report = await client.redrive("orders-s-dead")
        await until(lambda: len(handler.handled) == 60)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

        assert report.moved == len(poison) == 12
        assert sorted(handler.handled) == sorted(messages)
        assert await backlog(broker) == 0
        assert (await client.redrive("orders-s-dead")).moved == 0


async def test_poison_holds_back_its_own_key_only_even_without_a_dead_letter_topic() -> None:
    messages = {
        b"poison": "bad", b"behind it": "bad",
        **{b"order %d" % number: f"k{number}" for number in range(20)},
    }
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        made.forwarder.failing[DEAD] = TopicTerminated("the dead-letter topic takes no more")
        await publish(client, messages)
        handler = await subscribed(client, ConsumerType.KeyShared)
        handler_task = asyncio.ensure_future(handler.run())
        topic = await broker.node.topic()
        await until(lambda: len(handler.handled) == 20 and bool(topic.lanes.problems))
        await settle()

        assert handler.failures[b"poison"] == 3
        assert b"behind it" not in handler.handled
        assert await backlog(broker) == 2
        assert "takes no more" in topic.lanes.problems["s"]

        made.forwarder.failing.clear()
        await until(lambda: b"behind it" in handler.handled)
        handler_task.cancel()
        await asyncio.gather(handler_task, return_exceptions=True)
        assert await dead_payloads(broker.node) == [b"poison"]
        assert await backlog(broker) == 0


async def test_an_owner_killed_between_dead_letter_and_acknowledgement_repeats_neither() -> None:
    async with world() as made, served(made, "b2") as other:
        async with served(made, "b1") as owner:
            await other.node.topic(DEAD)
            async with Client(owner.url, operation_timeout_seconds=2) as client:
                await publish(client, {b"poison": "k", b"order": "k"})
                handler = await subscribed(client)
                made.forwarder.lose_answers = True
                for _ in range(4):
                    await handler.handle(await handler.consumer.receive(5_000))
                await until(lambda: bool(made.forwarder.batches))
                assert await backlog(owner) == 1
                await made.kill(owner.node)
        await until(lambda: len(other.node.broker.directory.all()) == 1)
        made.forwarder.lose_answers = False

        async with Client(other.url) as client:
            handler = await subscribed(client)
            topic = await other.node.topic()
            await until(lambda: not topic.state.subscriptions["s"].backlog_messages)

            assert await dead_payloads(other.node) == [b"poison"]
            with pytest.raises(OperationTimeout):
                await handler.consumer.receive(50)
