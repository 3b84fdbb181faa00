"""Broadcast subscriptions: every member gets everything, at a durable position of its own."""

from __future__ import annotations

import pytest

from broker.conversation import InitialPosition, OpenConsumer
from broker.state_records import SubscriptionKind
from magnetar.errors import ConsumerBusy, InvalidArgument
from tests.broker.world import TOPIC, Node, Publisher, Subscriber, positions_of, settle, world

EARLIEST = InitialPosition.EARLIEST


async def member(node: Node, name: str, **options: object) -> Subscriber:
    return await Subscriber.open(
        node, "g", kind=SubscriptionKind.BROADCAST, consumer_name=name, **options)


async def test_every_member_gets_everything_and_goes_on_where_it_was() -> None:
    async with world() as made:
        node = await made.broker("b1")
        one, two = await member(node, "one"), await member(node, "two")
        publisher = await Publisher.open(node)
        await publisher.publish(b"1")
        await publisher.publish(b"2")
        assert await one.receive(2) == await two.receive(2) == [b"1", b"2"]
        await one.acknowledge(*positions_of(one.deliveries, b"1"))
        await two.acknowledge(cumulative=positions_of(two.deliveries)[-1])
        await made.kill(node)
        successor = await made.broker("b2")

        again, late = await member(successor, "one"), await member(successor, "two")
        new = await member(successor, "new", initial_position=EARLIEST)
        publisher = await Publisher.open(successor)
        await publisher.publish(b"3")

        assert await again.receive(2) == [b"2", b"3"]
        assert await late.receive(1) == [b"3"]
        assert await new.receive(3) == [b"1", b"2", b"3"]


async def test_a_member_has_a_name_and_one_consumer() -> None:
    async with world() as made:
        node = await made.broker()
        await member(node, "one")

        with pytest.raises(InvalidArgument, match="needs a consumer name"):
            await member(node, "")
        with pytest.raises(InvalidArgument, match="control characters"):
            await member(node, "a\x1fb")
        with pytest.raises(ConsumerBusy, match="member 'one' of broadcast subscription 'g'"):
            await member(node, "one")


async def test_unsubscribing_ends_the_member_and_no_other() -> None:
    async with world() as made:
        node = await made.broker()
        one, two = await member(node, "one"), await member(node, "two")
        topic = await node.topic()
        assert topic.subscription_names() == ["g"]
        assert [found.member for found in topic.members_of("g")] == ["one", "two"]

        await one.session.unsubscribe()
        one.session.close()

        assert [found.member for found in topic.members_of("g")] == ["two"]
        assert topic.members_of("g")[0].group == "g"
        await (await Publisher.open(node)).publish(b"x")
        assert await two.receive(1) == [b"x"]


async def test_the_group_can_be_deleted_as_a_whole() -> None:
    async with world() as made:
        node = await made.broker()
        for name in ("one", "two"):
            (await member(node, name)).session.close()
        topic = await node.topic()

        await topic.delete_subscription("g")

        assert topic.subscriptions() == []
        await Subscriber.open(node, "g")


async def test_a_name_is_that_of_a_group_or_of_a_subscription() -> None:
    async with world() as made:
        node = await made.broker()
        (await member(node, "one")).session.close()
        (await Subscriber.open(node, "plain")).session.close()

        with pytest.raises(ConsumerBusy, match="broadcast group of 1 members"):
            await Subscriber.open(node, "g")
        with pytest.raises(ConsumerBusy, match="no broadcast group"):
            await Subscriber.open(
                node, "plain", kind=SubscriptionKind.BROADCAST, consumer_name="one")
        with pytest.raises(InvalidArgument, match="control characters"):
            await node.broker.open_consumer(
                OpenConsumer(TOPIC, "g\x1fone"), lambda _: None, lambda _: None)


async def test_failed_messages_of_a_member_are_its_own() -> None:
    async with world() as made:
        node = await made.broker()
        one, two = await member(node, "one"), await member(node, "two")
        await (await Publisher.open(node)).publish(b"1")
        await one.receive(1)
        await two.receive(1)

        one.session.redeliver(positions_of(one.deliveries))

        assert await one.receive(2) == [b"1", b"1"]
        await settle()
        assert two.payloads == [b"1"]
        found = (await node.topic()).members_of("g")[0]
        assert found.dead_letter_target == "persistent://public/default/orders-g-dead"
