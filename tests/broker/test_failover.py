"""Failover subscriptions: one consumer at a time, and an orderly change to the next."""

from __future__ import annotations

from dataclasses import replace

from broker.conversation import ConsumerEvent
from broker.settings import BrokerLimits
from broker.state_records import SubscriptionKind
from broker.subscription_stats import Block
from magnetar.errors import ConsumerBusy
from magnetar.topic import TopicName
from tests.broker.world import (
    TOPIC,
    Node,
    Publisher,
    Subscriber,
    positions_of,
    settle,
    until,
    world,
)

PARTITION = f"{TOPIC}-partition-0"
ACTIVE, STANDBY = ConsumerEvent.BECAME_ACTIVE, ConsumerEvent.STANDS_BY


async def partitioned(node: Node) -> None:
    await node.broker.catalog.create_topic(TopicName.parse(TOPIC), 3)


async def member(node: Node, name: str, topic: str = TOPIC, permits: int = 100) -> Subscriber:
    return await Subscriber.open(
        node, kind=SubscriptionKind.FAILOVER, consumer_name=name, topic=topic, permits=permits
    )


async def test_the_first_is_served_and_the_next_takes_over_what_it_had() -> None:
    async with world() as made:
        node = await made.broker()
        one, two, three = [await member(node, name) for name in ("z", "b", "a")]
        publisher = await Publisher.open(node)
        await publisher.publish(b"1")
        await publisher.publish(b"2")
        await one.receive(2)
        await one.acknowledge(*positions_of(one.deliveries, b"1"))

        one.session.close()
        await publisher.publish(b"3")

        assert await two.receive(2) == [b"2", b"3"]
        assert two.deliveries[0].redelivery_count == 1
        assert three.payloads == []
        assert (one.events, two.events, three.events) == ([ACTIVE], [STANDBY, ACTIVE], [STANDBY])


async def test_cumulative_acknowledgements_are_allowed_and_count_exactly() -> None:
    async with world() as made:
        node = await made.broker()
        one = await member(node, "a")
        publisher = await Publisher.open(node)
        for number in range(4):
            await publisher.publish(b"%da" % number, b"%db" % number)
        await one.receive(8)
        one.session.redeliver(positions_of(one.deliveries, b"0b", b"2a"))
        await until(lambda: len(one.payloads) == 10)
        assert one.session.unacknowledged == 8

        last = positions_of(one.deliveries[2:3], b"2a")[0]
        assert await one.acknowledge(cumulative=last) is None

        assert one.session.unacknowledged == 3
        assert (await node.topic()).state.subscriptions["s"].backlog_messages == 3


async def test_a_join_that_moves_a_partition_waits_for_what_is_out() -> None:
    async with world() as made:
        node = await made.broker()
        await partitioned(node)
        old = await member(node, "b", PARTITION)
        publisher = await Publisher.open(node, topic=PARTITION)
        await publisher.publish(b"1")
        await old.receive(1)

        new = await member(node, "a", PARTITION)
        await publisher.publish(b"2")
        await settle()
        assert new.payloads == []
        assert old.payloads == [b"1"]
        stats = (await node.topic(PARTITION)).state.subscriptions["s"].snapshot_stats()
        assert Block.SWITCHING in [one.reason for one in stats.blocked]
        assert [one.active for one in stats.consumers] == [True, False]

        await old.acknowledge(*positions_of(old.deliveries))

        assert await new.receive(1) == [b"2"]
        assert old.events == [ACTIVE, STANDBY]
        assert new.events == [STANDBY, ACTIVE]


async def test_one_that_settles_nothing_is_waited_for_no_longer_than_the_limit() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(failover_drain_s=0.05))
        await partitioned(node)
        old = await member(node, "b", PARTITION)
        publisher = await Publisher.open(node, topic=PARTITION)
        await publisher.publish(b"1")
        await old.receive(1)

        new = await member(node, "a", PARTITION)

        assert await new.receive(1) == [b"1"]
        assert old.session.unacknowledged == 0
        assert await old.acknowledge(*positions_of(old.deliveries)) is None
        assert new.session.unacknowledged == 0


async def test_partitions_are_spread_over_the_members() -> None:
    async with world() as made:
        node = await made.broker()
        await partitioned(node)
        members = {
            (name, partition): await member(node, name, f"{TOPIC}-partition-{partition}")
            for name in ("a", "b", "c") for partition in range(3)
        }
        for partition in range(3):
            publisher = await Publisher.open(node, topic=f"{TOPIC}-partition-{partition}")
            await publisher.publish(b"%d" % partition)
        await settle()

        got = {who: one.payloads for who, one in members.items() if one.payloads}

        assert got == {("a", 0): [b"0"], ("b", 1): [b"1"], ("c", 2): [b"2"]}


async def test_another_type_is_refused_while_members_are_attached() -> None:
    async with world() as made:
        node = await made.broker()
        one = await member(node, "a")

        for kind in SubscriptionKind:
            if kind is not SubscriptionKind.FAILOVER:
                try:
                    await Subscriber.open(node, kind=kind, consumer_name="x")
                except ConsumerBusy as error:
                    assert "failover" in str(error) or "broadcast" in str(error)
                else:
                    raise AssertionError(f"{kind!r} was let in")
        one.session.close()
        await Subscriber.open(node, kind=SubscriptionKind.SHARED)


async def test_no_member_is_served_while_another_broker_may_serve_one() -> None:
    async with world() as made:
        node = await made.broker()
        for kind in SubscriptionKind:
            topic = await node.topic()
            topic.hold_back_exclusive(60)
            one = await Subscriber.open(node, kind.name, kind=kind, consumer_name="m")
            await (await Publisher.open(node)).publish(b"x")
            await settle()
            subscription = topic.subscription_named(kind.name, "m")
            assert subscription is not None
            if kind is SubscriptionKind.SHARED:
                assert one.payloads == [b"x"]
            else:
                assert one.payloads == []
                reasons = [one.reason for one in subscription.snapshot_stats().blocked]
                assert Block.HELD_BACK in reasons

            topic.let_go()

            assert await one.receive(1) == [b"x"]


async def test_a_member_that_leaves_while_it_is_drained_ends_the_waiting() -> None:
    async with world() as made:
        node = await made.broker()
        await partitioned(node)
        old = await member(node, "b", PARTITION)
        publisher = await Publisher.open(node, topic=PARTITION)
        await publisher.publish(b"1")
        await old.receive(1)
        new = await member(node, "a", PARTITION)

        old.session.close()

        assert await new.receive(1) == [b"1"]
        assert replace(new).events == [STANDBY, ACTIVE]


async def test_who_comes_next_gets_the_messages_of_a_batch_in_their_order() -> None:
    """Some of them were delivered more often than others; one cumulative acknowledgement may
    mean all before its message, so none of those may come later."""
    async with world() as made:
        node = await made.broker()
        one, two = await member(node, "a"), await member(node, "b")
        publisher = await Publisher.open(node)
        await publisher.publish(b"0", b"1", b"2", b"3", b"4")
        await one.receive(5)
        one.session.redeliver(positions_of(one.deliveries, b"1", b"3"))
        await until(lambda: len(one.payloads) == 7)

        one.session.close()

        assert await two.receive(5) == [b"0", b"1", b"2", b"3", b"4"]


async def test_the_next_owner_delivers_the_messages_of_a_batch_in_their_order() -> None:
    async with world() as made:
        first = await made.broker("b1")
        one = await member(first, "a")
        publisher = await Publisher.open(first)
        await publisher.publish(b"0", b"1", b"2", b"3", b"4")
        await one.receive(5)
        one.session.redeliver(positions_of(one.deliveries, b"1", b"3"))
        await until(lambda: len(one.payloads) == 7)
        await settle()
        await made.kill(first)

        second = await made.broker("b2")
        two = await member(second, "a")

        assert await two.receive(5) == [b"0", b"1", b"2", b"3", b"4"]
