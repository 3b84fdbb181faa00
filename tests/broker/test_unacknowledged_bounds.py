"""What consumers and subscriptions may have unacknowledged, counted exactly."""

from __future__ import annotations

import logging

import pytest

from broker.conversation import InitialPosition
from broker.dispatch_metrics import dispatch_metrics
from broker.settings import BrokerLimits
from broker.state_records import SubscriptionKind
from broker.subscription import Subscription
from broker.subscription_stats import Block
from tenants.policies import TopicPolicies
from tests.broker.world import Node, Publisher, Subscriber, positions_of, settle, until, world

EARLIEST = InitialPosition.EARLIEST
THREE = TopicPolicies(max_unacked_messages_per_consumer=3)
FIVE_TOGETHER = TopicPolicies(max_unacked_messages_per_subscription=5)


async def subscription_of(node: Node) -> Subscription:
    return (await node.topic()).state.subscriptions["s"]


def reasons_of(subscription: Subscription) -> list[Block]:
    return [one.reason for one in subscription.snapshot_stats().blocked]


@pytest.mark.parametrize("kind", [
    SubscriptionKind.EXCLUSIVE, SubscriptionKind.FAILOVER, SubscriptionKind.SHARED,
    SubscriptionKind.KEY_SHARED,
])
async def test_a_consumer_holds_no_more_than_it_may(
    kind: SubscriptionKind, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as made:
        node = await made.broker(policies=THREE)
        one = await Subscriber.open(node, kind=kind, permits=100)
        publisher = await Publisher.open(node)
        await publisher.publish(b"0", b"1")
        with caplog.at_level(logging.WARNING):
            await publisher.publish(b"2", b"3", b"4", b"5")
            await settle()

        assert one.payloads == [b"0", b"1", b"2"]
        subscription = await subscription_of(node)
        assert one.session.unacknowledged == 3
        assert Block.CONSUMER_BOUND in reasons_of(subscription)
        assert sum("unacknowledged" in record.message for record in caplog.records) == 1
        await one.acknowledge(*positions_of(one.deliveries, b"1"))
        await until(lambda: one.payloads == [b"0", b"1", b"2", b"3"])
        one.session.redeliver(positions_of(one.deliveries, b"0"))
        assert await one.receive(5) == [b"0", b"1", b"2", b"3", b"0"]
        await one.acknowledge(*positions_of(one.deliveries))
        await until(lambda: len(one.payloads) == 7)
        assert one.session.unacknowledged == 2


async def test_a_subscription_holds_no_more_than_it_may() -> None:
    async with world() as made:
        node = await made.broker(policies=FIVE_TOGETHER)
        one = await Subscriber.open(node, shared=True, permits=40)
        two = await Subscriber.open(node, shared=True, permits=40)
        publisher = await Publisher.open(node)
        for number in range(20):
            await publisher.publish(b"%d" % number)
        await settle()

        subscription = await subscription_of(node)
        assert len(one.payloads) + len(two.payloads) == 5
        assert Block.SUBSCRIPTION_BOUND in reasons_of(subscription)
        one.session.redeliver(positions_of(one.deliveries))
        await settle()
        assert subscription.dispatcher.flights.messages == 5

        await two.acknowledge(*positions_of(two.deliveries))
        await settle()
        assert subscription.dispatcher.flights.messages == 5
        assert subscription.backlog_messages == 16


async def test_messages_that_wait_for_their_time_count_as_well() -> None:
    async with world() as made:
        node = await made.broker(policies=FIVE_TOGETHER)
        one = await Subscriber.open(node, permits=100)
        publisher = await Publisher.open(node)
        for number in range(8):
            await publisher.publish(b"%d" % number)
        await one.receive(5)

        one.session.negative(positions_of(one.deliveries), 3_600_000)
        await settle()

        assert len(one.payloads) == 5
        stats = (await subscription_of(node)).snapshot_stats()
        assert (stats.unacknowledged, stats.waiting, stats.delayed) == (0, 5, 5)
        assert {Block.SUBSCRIPTION_BOUND, Block.DELAYED} <= {one.reason for one in stats.blocked}


async def test_a_bound_that_is_raised_lets_dispatch_go_on() -> None:
    async with world() as made:
        node = await made.broker(policies=THREE)
        one = await Subscriber.open(node, shared=True, permits=100)
        publisher = await Publisher.open(node)
        for number in range(8):
            await publisher.publish(b"%d" % number)
        await one.receive(3)
        topic = await node.topic()

        topic.follow(TopicPolicies(max_unacked_messages_per_consumer=6), topic.log.log.policy)

        assert len(await one.receive(6)) == 6
        topic.follow(TopicPolicies(max_unacked_messages_per_consumer=-1), topic.log.log.policy)
        assert len(await one.receive(8)) == 8


@pytest.mark.parametrize("lifted", [0, -1])
@pytest.mark.parametrize("kind", [SubscriptionKind.EXCLUSIVE, SubscriptionKind.SHARED])
async def test_neither_0_nor_minus_1_is_a_bound(kind: SubscriptionKind, lifted: int) -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(
            max_unacked_messages_per_consumer=lifted,
            max_unacked_messages_per_subscription=lifted,
        ))
        one = await Subscriber.open(node, kind=kind)
        await (await Publisher.open(node)).publish(b"0", b"1", b"2")

        assert await one.receive(3) == [b"0", b"1", b"2"]
        assert reasons_of(await subscription_of(node)) == []


async def test_counts_stay_exact_whatever_settles_messages() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, permits=1_000)
        publisher = await Publisher.open(node)
        for number in range(6):
            await publisher.publish(*(b"%d.%d" % (number, index) for index in range(10)))
        await one.receive(60)
        subscription = await subscription_of(node)
        assert one.session.unacknowledged == 60

        for position in positions_of(one.deliveries[:1])[:4] * 2:  # twice is once
            await one.acknowledge(position)
        assert one.session.unacknowledged == 56
        one.session.negative(positions_of(one.deliveries[1:2])[:5], 3_600_000)
        assert one.session.unacknowledged == 51
        assert subscription.dispatcher.waiting.delivered == 5
        await one.acknowledge(*positions_of(one.deliveries[1:2]))
        assert one.session.unacknowledged == 46
        assert subscription.dispatcher.waiting.delivered == 0
        await one.acknowledge(cumulative=positions_of(one.deliveries[2:3])[4])
        assert one.session.unacknowledged == 35
        subscription.pass_trimmed(40)
        assert one.session.unacknowledged == 20
        await one.session.seek(initial_position=EARLIEST)
        assert one.session.unacknowledged == 0
        await until(lambda: one.session.unacknowledged == 60)
        one.session.close()
        assert subscription.dispatcher.flights.messages == 0
        assert subscription.dispatcher.waiting.delivered == 60


async def test_metrics_tell_what_is_out_and_which_bound_is_met() -> None:
    async with world() as made:
        node = await made.broker(policies=THREE)
        one = await Subscriber.open(node, permits=100)
        publisher = await Publisher.open(node)
        await publisher.publish(*(b"%d" % number for number in range(8)))
        await one.receive(3)
        one.session.negative(positions_of(one.deliveries, b"0"), 3_600_000)
        await one.receive(4)
        await settle()

        found = {
            (sample.name.removeprefix("magnetar_broker_"), *sample.labels.values()): sample.value
            for family in dispatch_metrics((await node.topic()).subscriptions())
            for sample in family.samples
        }

        assert found["unacknowledged_messages",] == 3
        assert found["waiting_messages", "delayed"] == 1
        assert found["bounded_subscriptions", "consumer"] == 1
        assert found["bounded_subscriptions", "look_ahead"] == 0


async def test_the_bound_of_tracked_entries_is_told() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(in_flight_entries=4))
        one = await Subscriber.open(node, permits=100)
        publisher = await Publisher.open(node)
        for number in range(6):
            await publisher.publish(b"%d" % number)
        await one.receive(4)
        await settle()

        assert len(one.payloads) == 4
        assert Block.FLIGHT_BOUND in reasons_of(await subscription_of(node))
