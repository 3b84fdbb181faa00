"""Administration of what is not a plain subscription of a plain topic."""

from __future__ import annotations

import asyncio
import logging

import pytest

from broker.administration.routed import RoutedAdministration
from broker.state_records import SubscriptionKind
from magnetar import Client
from magnetar.enums import ConsumerType, InitialPosition
from magnetar.errors import (
    ConnectionFailed,
    InvalidArgument,
    MessageNotFound,
    NotSupported,
    ResourceExists,
    ResourceInUse,
    SubscriptionNotFound,
    TopicNotFound,
)
from magnetar.message_id import MessageId
from magnetar.topic import TopicName
from tenants.policy_view import PolicyView
from tests.broker.administered import Directly, admin_served
from tests.broker.world import (
    TOPIC,
    Node,
    Publisher,
    Subscriber,
    position_of,
    settle,
    until,
    world,
)

IN_MEMORY = "non-persistent://public/default/ticks"


async def member(node: Node, name: str, permits: int = 100) -> Subscriber:
    return await Subscriber.open(
        node, "group", permits, kind=SubscriptionKind.BROADCAST, consumer_name=name
    )


async def group_of_two(node: Node) -> RoutedAdministration:
    """`a` has acknowledged the first of three messages, `b` nothing."""
    admin = Directly().add(node).topics
    publisher = await Publisher.open(node, "p")
    first, _ = await member(node, "a"), await member(node, "b", permits=1)
    for number in range(3):
        await publisher.publish(b"%d" % number)
    await first.receive(3)
    await first.acknowledge(position_of(first.deliveries[0]))
    return admin


async def test_a_broadcast_group_is_one_subscription_with_members() -> None:
    async with world() as made:
        admin = await group_of_two(await made.broker())

        group = await admin.subscriptions.stats(TOPIC, "group")
        alone = await admin.subscriptions.stats(TOPIC, "group", member="a")

        assert await admin.subscriptions.list(TOPIC) == ("group",)
        assert (group.name, group.type, group.backlog_messages) == (
            "group", ConsumerType.Broadcast, 3)
        assert [(one.name, one.backlog_messages) for one in group.members] == [("a", 2), ("b", 3)]
        assert (alone.name, alone.backlog_messages, alone.members) == ("a", 2, ())
        (told,) = (await admin.topics.stats(TOPIC)).subscriptions
        assert (told.name, len(told.members), len(told.consumers)) == ("group", 2, 2)
        with pytest.raises(SubscriptionNotFound, match="member 'c'"):
            await admin.subscriptions.stats(TOPIC, "group", member="c")
        with pytest.raises(ResourceExists):
            await admin.subscriptions.create(TOPIC, "group")


async def test_one_member_or_all_are_moved() -> None:
    async with world() as made:
        admin = await group_of_two(await made.broker())
        calls = admin.subscriptions

        with pytest.raises(InvalidArgument, match="name one of its 2 members, such as 'a'"):
            await calls.peek(TOPIC, "group")
        assert [one.data for one in await calls.peek(TOPIC, "group", 9, member="a")] == [
            b"1", b"2"]
        assert await calls.skip(TOPIC, "group", 1, member="b") == 1
        assert await calls.clear_backlog(TOPIC, "group") == 4
        await calls.seek(TOPIC, "group", InitialPosition.Earliest, member="b")
        group = await calls.stats(TOPIC, "group")
        assert [one.backlog_messages for one in group.members] == [0, 3]
        assert await calls.expire(TOPIC, "group", 3_600_000) == 0


async def test_a_member_that_is_gone_for_good_is_deleted_alone() -> None:
    async with world() as made:
        node = await made.broker()
        admin = await group_of_two(node)

        with pytest.raises(ResourceInUse, match="1 consumers"):
            await admin.subscriptions.delete(TOPIC, "group", member="b")
        await admin.subscriptions.delete(TOPIC, "group", True, member="b")

        group = await admin.subscriptions.stats(TOPIC, "group")
        assert [one.name for one in group.members] == ["a"]
        assert [one.data for one in await admin.subscriptions.peek(TOPIC, "group")] == [b"1"]
        await admin.subscriptions.delete(TOPIC, "group", True)
        assert await admin.subscriptions.list(TOPIC) == ()


async def test_members_on_several_partitions_are_joined() -> None:
    async with world() as made:
        node = await made.broker()
        admin = Directly().add(node).topics
        await admin.topics.create(TOPIC, 2)
        for number in range(2):
            name = f"{TOPIC}-partition-{number}"
            await Subscriber.open(
                node, "group", topic=name, kind=SubscriptionKind.BROADCAST, consumer_name="a",
                permits=0,
            )
            await (await Publisher.open(node, "p", topic=name)).publish(b"x")

        group = await admin.subscriptions.stats(TOPIC, "group")

        assert [(one.name, one.backlog_messages) for one in group.members] == [("a", 2)]


async def test_it_is_told_what_blocks_whom() -> None:
    async with world() as made:
        node = await made.broker()
        admin = Directly().add(node).topics
        publisher = await Publisher.open(node, "p")
        slow = await Subscriber.open(node, "slow", permits=1, consumer_name="snail")
        await admin.subscriptions.create(TOPIC, "nobody", InitialPosition.Earliest)
        for number in range(2):
            await publisher.publish(b"%d" % number)
        await slow.receive(1)

        told = {
            one.name: {blocked.reason: blocked.text for blocked in one.blocked}
            for one in (await admin.topics.stats(TOPIC)).subscriptions
        }

        assert "snail" in told["slow"]["no_permits"]
        assert set(told["nobody"]) == {"no_consumers"}


async def test_a_topic_in_memory_is_administered_as_far_as_it_goes() -> None:
    async with world() as made:
        node = await made.broker()
        admin = Directly().add(node).topics
        with pytest.raises(TopicNotFound):
            await admin.topics.stats(IN_MEMORY)
        publisher = await Publisher.open(node, "p", topic=IN_MEMORY)
        await Subscriber.open(node, "s", permits=1, topic=IN_MEMORY)
        receipts = [await publisher.publish(b"%d" % number) for number in range(3)]

        stats = await admin.topics.stats(IN_MEMORY)
        assert (stats.topic, stats.messages, stats.incoming.messages) == (IN_MEMORY, 3, 3)
        assert stats.subscriptions[0].backlog_messages == 3
        assert [one.data for one in await admin.subscriptions.peek(IN_MEMORY, "s", 9)] == [
            b"0", b"1", b"2"]
        last = MessageId(-1, receipts[-1].ledger_id, receipts[-1].entry_id, 0)
        assert await admin.messages.last_ids(IN_MEMORY) == (last,)
        assert (await admin.messages.get(IN_MEMORY, last)).data == b"2"
        assert await admin.subscriptions.skip(IN_MEMORY, "s", 1) == 1
        assert await admin.schedule.count(IN_MEMORY) == 0
        for call in (admin.topics.get(IN_MEMORY), admin.topics.grow(IN_MEMORY, 2)):
            with pytest.raises(NotSupported, match="not persistent"):
                await call
        for refused in (admin.topics.terminate(IN_MEMORY), admin.topics.delete(IN_MEMORY)):
            with pytest.raises((NotSupported, InvalidArgument), match="not persistent"):
                await refused
        held = await PolicyView(node.session).effective(topic=TopicName.parse(IN_MEMORY))
        assert held[0].source == "default"


async def test_what_a_topic_in_memory_drops_is_counted() -> None:
    async with world() as made:
        node = await made.broker()
        admin = Directly().add(node).topics
        publisher = await Publisher.open(node, "p", topic=IN_MEMORY)
        await Subscriber.open(node, "s", permits=0, topic=IN_MEMORY)
        receipt = await publisher.publish(b"x")
        topic = node.broker.registry.get(IN_MEMORY)
        assert topic is not None and topic.memory is not None

        topic.memory.drop_oldest()

        stats = await admin.topics.stats(IN_MEMORY)
        assert (stats.dropped_messages, stats.subscriptions[0].dropped_messages) == (1, 1)
        with pytest.raises(MessageNotFound):
            await admin.messages.get(
                IN_MEMORY, MessageId(-1, receipt.ledger_id, receipt.entry_id, 0))


async def test_who_changed_what_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "broker.administration.service")
    async with world() as made, admin_served(made) as broker, Client(broker.url) as client:
        await client.admin.topics.create("orders")
        await client.admin.topics.get("orders")

    (told,) = [one.getMessage() for one in caplog.records if "administration" in one.name]
    assert told.startswith("CreateTopic from ipv4:127.0.0.1") and "public/default/orders" in told


async def test_a_groups_deletion_that_nobody_waits_for_any_more_ends_every_member() -> None:
    async with world() as made:
        node = await made.broker()
        admin = await group_of_two(node)
        topic = await node.topic()
        for bookie in made.ground.bookies.bookies.values():
            bookie.held = True
        deleting = asyncio.ensure_future(admin.subscriptions.delete(TOPIC, "group", True))
        await settle()

        deleting.cancel()
        for bookie in made.ground.bookies.bookies.values():
            bookie.release()

        await until(lambda: not topic.state.subscriptions)


async def test_a_group_of_which_a_part_was_skipped_is_not_told_as_untouched() -> None:
    async with world() as made:
        node = await made.broker()
        admin = await group_of_two(node)
        topic = await node.topic()
        _, second = topic.members_of("group")
        pass_trimmed = second.pass_trimmed

        def lost(ordinal: int) -> None:
            topic.abandon()
            pass_trimmed(ordinal)

        second.pass_trimmed = lost  # type: ignore[method-assign]

        with pytest.raises(ConnectionFailed, match="1 of 2 members were done"):
            await admin.subscriptions.skip(TOPIC, "group", 1)
