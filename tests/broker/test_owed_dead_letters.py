"""Dead letters that are not written yet: they go out by themselves, and once."""

from __future__ import annotations

import pytest

from broker.backlog import expire_messages
from broker.settings import BrokerLimits
from broker.state_records import SubscriptionKind
from magnetar.errors import ConnectionFailed
from tenants.policies import TopicPolicies
from tests.broker.test_dead_letters import dead_payloads
from tests.broker.test_failures_of_an_earlier_owner import next_owner
from tests.broker.test_negative_acknowledgement import subscription_of
from tests.broker.test_topic_rounds import prepared
from tests.broker.world import (
    Node,
    Publisher,
    Subscriber,
    World,
    positions_of,
    settle,
    until,
    world,
)

FAST = BrokerLimits(
    idle_unload_s=0.0, topic_round_reads_a_second=1e6, topic_round_visits_a_second=1e6,
)
NOBODY = ConnectionFailed("nobody there")


async def given_up(made: World, node: Node, **options: object) -> Subscriber:
    """A consumer that handled one message, and gave up others that cannot go out."""
    made.forwarder.failure = NOBODY
    one = await Subscriber.open(node, max_deliveries=1, **options)
    publisher = await Publisher.open(node)
    await publisher.publish(b"good", b"bad")
    await publisher.publish(b"worse")
    await one.receive(3)
    one.session.negative(positions_of(one.deliveries, b"bad", b"worse"), reason="no")
    await one.acknowledge(*positions_of(one.deliveries, b"good"))
    await until(lambda: made.forwarder.openings > 0)
    return one


async def test_the_next_owner_writes_them_though_nobody_is_attached() -> None:
    async with world() as made:
        first = await made.broker("b1")
        await given_up(made, first, shared=True)
        second = await next_owner(made, first)
        made.forwarder.failure = None

        subscription = await subscription_of(second)
        await until(lambda: subscription.backlog_messages == 0)

        assert await dead_payloads(second) == [b"bad", b"worse"]


@pytest.mark.parametrize("killed", [False, True])
async def test_a_topic_that_owes_some_is_loaded_without_anybody_asking(killed: bool) -> None:
    async with world() as made:
        first = await prepared(made, TopicPolicies())
        await given_up(made, first)
        if killed:
            await made.kill(first)
        else:
            await made.stop(first)
        made.forwarder.failure = None
        second = await made.broker("b2", limits=FAST)

        await second.broker.rounds.walk()
        await until(lambda: len(made.forwarder.batches) > 0)
        await settle()

        assert second.broker.rounds.visits == 1
        assert await dead_payloads(second) == [b"bad", b"worse"]


async def test_a_topic_that_owes_some_is_not_unloaded() -> None:
    async with world() as made:
        node = await made.broker(limits=FAST)
        one = await given_up(made, node)
        one.session.close()
        topic = await node.topic()
        for producer in list(topic.publishing.producers.values()):
            producer.close()

        await node.broker._maintain(topic)
        assert not topic.closed

        made.forwarder.failure = None
        await until(lambda: topic.lanes.waiting_messages == 0)
        await until(lambda: not topic.in_use)
        await node.broker._maintain(topic)
        assert topic.closed


async def test_a_consumer_of_another_type_makes_no_second_ones() -> None:
    """It begins anew with what is not acknowledged."""
    async with world() as made:
        node = await made.broker()
        one = await given_up(made, node, shared=True)
        for kind in (SubscriptionKind.EXCLUSIVE, SubscriptionKind.SHARED):
            one.session.close()
            one = await Subscriber.open(node, kind=kind, max_deliveries=1)
            await settle()
        topic = await node.topic()
        assert topic.lanes.waiting_messages == 2
        made.forwarder.failure = None
        await until(lambda: topic.lanes.waiting_messages == 0)

        assert await dead_payloads(node) == [b"bad", b"worse"]
        assert one.payloads == []


async def test_what_expires_after_it_was_given_up_is_written_once() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(
            message_ttl_ms=60_000, dead_letter_expired=True))
        await given_up(made, node)
        topic = await node.topic()
        node.clock.wall_offset_ms = 120_000
        subscription = await subscription_of(node)
        await subscription.backlog_expiry.run()
        await subscription.backlog_expiry.run()
        assert subscription.expiry.given_messages == 2
        made.forwarder.failure = None
        await until(lambda: topic.lanes.waiting_messages == 0)

        assert await dead_payloads(node) == [b"bad", b"worse"]


@pytest.mark.parametrize("how", ["here", "at the next owner", "in its turn"])
async def test_they_do_not_expire_while_they_wait(how: str) -> None:
    async with world() as made:
        policies = TopicPolicies(message_ttl_ms=60_000)
        node = await made.broker(policies=policies)
        await given_up(made, node)
        if how != "here":
            await made.kill(node)
            node = await made.broker("b2", policies=policies)
        node.clock.wall_offset_ms = 120_000
        if how == "in its turn":
            await Subscriber.open(node, max_deliveries=1)
        subscription = await subscription_of(node)
        for _ in range(2):
            await subscription.backlog_expiry.run()
        await settle()
        assert subscription.backlog_messages == 2

        made.forwarder.failure = None
        await until(lambda: subscription.backlog_messages == 0)

        assert await dead_payloads(node) == [b"bad", b"worse"]
        assert subscription.expiry.expired_messages == 0


async def test_others_expire_around_them() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(message_ttl_ms=60_000))
        one = await given_up(made, node)
        one.session.close()
        await (await Publisher.open(node)).publish(b"later")
        node.clock.wall_offset_ms = 120_000
        subscription = await subscription_of(node)
        for _ in range(2):
            await subscription.backlog_expiry.run()

        assert subscription.expiry.expired_messages == 1
        assert subscription.backlog_messages == 2
        assert await expire_messages(subscription, 0) == 2  # by hand they are


async def test_after_a_seek_they_are_given_up_anew() -> None:
    async with world() as made:
        node = await made.broker()
        one = await given_up(made, node)
        await one.session.seek(positions_of(one.deliveries, b"bad")[0])
        await one.receive(5)
        made.forwarder.failure = None

        one.session.negative(positions_of(one.deliveries[2:], b"bad"))
        topic = await node.topic()
        await until(lambda: topic.lanes.waiting_messages == 0 and bool(made.forwarder.batches))

        assert await dead_payloads(node) == [b"bad"]
