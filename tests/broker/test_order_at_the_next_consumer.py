"""Who comes next, here or at the next owner, gets what was delivered before in its order."""

from __future__ import annotations

import pytest

from broker.conversation import HoldFailedKeys
from broker.state_records import SubscriptionKind
from magnetar.errors import InvalidArgument
from tenants.policies import TopicPolicies
from tests.broker.test_failures_of_an_earlier_owner import KINDS, next_owner
from tests.broker.test_negative_acknowledgement import later, publish, subscription_of
from tests.broker.world import Publisher, Subscriber, positions_of, settle, until, world

HOLD = HoldFailedKeys.HOLD
ONE_AT_A_TIME = [SubscriptionKind.EXCLUSIVE, SubscriptionKind.FAILOVER]


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_messages_of_a_held_key_come_one_after_the_other(
    kind: SubscriptionKind, moves: bool
) -> None:
    """They are of one batch, and were delivered more or less often. `moves`: to another owner."""
    async with world() as made:
        node = await made.broker("b1")
        one = await Subscriber.open(node, kind=kind, hold_failed_keys=HOLD)
        publisher = await Publisher.open(node)
        await publish(publisher, a1="a", b1="b", a2="a", a3="a", b2="b")
        await one.receive(5)
        one.session.negative(positions_of(one.deliveries, b"a2", b"b2"))
        one.session.negative(positions_of(one.deliveries, b"a3"), counted=False)
        await one.receive(6)
        if moves:
            node = await next_owner(made, node)
        else:
            one.session.close()

        two = await Subscriber.open(node, kind=kind, hold_failed_keys=HOLD)
        await two.receive(4)
        await settle()
        assert [name for name in two.payloads if name.startswith(b"a")] == [b"a1", b"a2"]
        assert [name for name in two.payloads if name.startswith(b"b")] == [b"b1", b"b2"]
        await two.acknowledge(*positions_of(two.deliveries, b"a2"))
        await settle()

        assert two.payloads[4:] == [b"a3"]


@pytest.mark.parametrize("kind", ONE_AT_A_TIME)
async def test_what_failed_does_not_go_before_what_its_consumer_had(
    kind: SubscriptionKind,
) -> None:
    """It waits for permits when the consumer leaves: one cumulative acknowledgement of it may
    mean all before it."""
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, permits=4, kind=kind)
        publisher = await Publisher.open(node)
        for payload in (b"1", b"2", b"3", b"4"):
            await publisher.publish(payload)
        await one.receive(4)
        one.session.negative(positions_of(one.deliveries, b"3"))
        await settle()
        one.session.close()

        two = await Subscriber.open(node, kind=kind)

        assert await two.receive(4) == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("bounds", [
    TopicPolicies(), TopicPolicies(max_unacked_messages_per_subscription=2),
])
async def test_what_is_due_again_does_not_go_before_what_was_never_delivered(
    bounds: TopicPolicies,
) -> None:
    async with world() as made:
        first = await made.broker("b1")
        one = await Subscriber.open(first)
        publisher = await Publisher.open(first)
        await publisher.publish(b"1", b"2", b"3", b"4")
        await one.receive(4)
        one.session.negative(positions_of(one.deliveries, b"3", b"4"), 60_000)
        await settle()
        await made.kill(first)
        second = await made.broker("b2", policies=bounds)

        two = await Subscriber.open(second, permits=0)
        two.session.exact = True
        two.session.add_permits(1)
        await settle()
        await later(second, 61)
        two.session.add_permits(10)
        await settle()
        last, = positions_of(two.deliveries, two.payloads[-1])
        await two.acknowledge(cumulative=last)
        await settle()

        assert two.payloads[:3] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("kind", ONE_AT_A_TIME)
async def test_where_keys_hold_no_acknowledgement_means_all_before_a_message(
    kind: SubscriptionKind,
) -> None:
    """Some of those may never have been delivered: they wait for one of their key."""
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, kind=kind, hold_failed_keys=HOLD)
        publisher = await Publisher.open(node)
        await publish(publisher, a1="a")
        await one.receive(1)
        one.session.negative(positions_of(one.deliveries, b"a1"), 60_000)
        await publish(publisher, a2="a", b1="b")
        await until(lambda: b"b1" in one.payloads)
        last, = positions_of(one.deliveries, b"b1")

        refused = await one.acknowledge(cumulative=last)

        assert isinstance(refused, InvalidArgument)
        assert "hold" in str(refused)
        assert (await subscription_of(node)).backlog_messages == 3
