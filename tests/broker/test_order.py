"""Order: of a producer, of a key, and of a whole topic, also when its owner dies."""

from __future__ import annotations

import asyncio

import pytest

from magnetar import Client, InitialPosition, Message
from magnetar.errors import InvalidArgument
from magnetar.topic import TopicName
from tenants.administration import TenantAdministration
from tenants.policies import TopicPolicies
from tests.broker.test_service import Served, served
from tests.broker.world import TOPIC, Node, World, settle, world

ORDERS = TopicName.parse(TOPIC)
PRODUCERS, MESSAGES, KEYS = 4, 80, 3


async def publish(client: Client, name: str, half_done: asyncio.Event) -> None:
    """One message after the other, some awaited, each with its key and number."""
    async with await client.create_producer(TOPIC, name) as producer:
        for number in range(MESSAGES):
            ticket = producer.send(
                b"%d" % number, {"producer": name}, partition_key=f"key {number % KEYS}")
            if number % 5 == 0:
                await ticket
            if number == MESSAGES // 2:
                half_done.set()


async def kill(made: World, broker: Served) -> None:
    await made.kill(broker.node)
    await broker.server.stop(None)


async def consumed(client: Client, subscription: str) -> list[Message]:
    consumer = await client.subscribe(
        TOPIC, subscription, initial_position=InitialPosition.Earliest)
    return [await consumer.receive(10_000) for _ in range(PRODUCERS * MESSAGES)]


def numbers(messages: list[Message], **wanted: str) -> list[int]:
    return [
        int(one.data) for one in messages
        if all(getattr(one, name) == value for name, value in wanted.items())
    ]


async def test_all_consumers_see_one_order_of_all_producers_whoever_owns_the_topic() -> None:
    async with world() as made, served(made, "b1") as first, served(made, "b2") as second:
        url = f"magnetar://{first.address},{second.address}"
        async with Client(url) as client:
            early = asyncio.create_task(consumed(client, "early"))
            half_done = [asyncio.Event() for _ in range(PRODUCERS)]
            publishing = asyncio.gather(*(
                publish(client, f"p{number}", event) for number, event in enumerate(half_done)))
            await asyncio.gather(*(event.wait() for event in half_done))
            owner = first if len(first.node.broker.registry) else second
            await kill(made, owner)
            await publishing

            received = [await early, await consumed(client, "late")]

    orders = [[(one.producer_name, one.data) for one in messages] for messages in received]
    assert orders[0] == orders[1]
    for messages in received:
        ids = [one.message_id for one in messages]
        assert ids == sorted(ids) and len(set(ids)) == PRODUCERS * MESSAGES
        for name in (f"p{number}" for number in range(PRODUCERS)):
            assert numbers(messages, producer_name=name) == list(range(MESSAGES))
            for key in range(KEYS):
                of_key = numbers(messages, producer_name=name, partition_key=f"key {key}")
                assert of_key == list(range(key, MESSAGES, KEYS))


async def ordered(made: World) -> tuple[Node, TenantAdministration]:
    node = await made.broker(policies=TopicPolicies(auto_create_partitions=4))
    administration = TenantAdministration(node.session)
    await administration.change_topic_policies(ORDERS, {"global_order": True})
    return node, administration


async def test_a_topic_with_one_order_gets_no_partitions() -> None:
    async with world() as made:
        node, administration = await ordered(made)

        with pytest.raises(InvalidArgument, match="global_order"):
            await node.broker.catalog.create_topic(ORDERS, 2)
        assert (await node.broker.lookup(TOPIC)).partitions == 0

        other = TopicName.parse("other")
        await node.broker.catalog.create_topic(other, 1)
        await administration.change_topic_policies(other, {"global_order": True})
        await settle()  # the broker hears of it by a watch
        with pytest.raises(InvalidArgument, match="global_order"):
            await node.broker.catalog.grow_topic(other, 2)
        await administration.change_topic_policies(other, {"global_order": None})
        await settle()
        await node.broker.catalog.grow_topic(other, 2)


async def test_a_topic_with_partitions_does_not_promise_one_order() -> None:
    async with world() as made:
        node, administration = await ordered(made)
        parted = TopicName.parse("parted")
        await node.broker.catalog.create_topic(parted, 2)

        with pytest.raises(InvalidArgument, match="2 partitions"):
            await administration.change_topic_policies(parted, {"global_order": True})
