"""Where a subscription reaches a limit it says so: in its statistics, the metrics and the log."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence

import pytest

from broker.dispatch_metrics import dispatch_metrics
from broker.expiry import MAX_GIVEN_ENTRIES
from broker.settings import BrokerLimits
from broker.state_records import StateRecord, SubscriptionKind
from broker.subscription_stats import Block
from magnetar.errors import MagnetarError
from tenants.policies import TopicPolicies
from tests.broker.world import Node, Publisher, Subscriber, positions_of, settle, world

THREE = TopicPolicies(max_unacked_messages_per_consumer=3)
FIVE_TOGETHER = TopicPolicies(max_unacked_messages_per_subscription=5)
NO_BOUND = TopicPolicies(max_unacked_messages_per_consumer=-1)
LETTERED = TopicPolicies(message_ttl_ms=60_000, dead_letter_expired=True)


async def metric(node: Node, name: str) -> dict[str, float]:
    """By its label, what is not 0."""
    return {
        "".join(sample.labels.values()): sample.value
        for family in dispatch_metrics((await node.topic()).subscriptions())
        if family.name == f"magnetar_broker_{name}"
        for sample in family.samples if sample.value
    }


async def bounded(node: Node) -> dict[str, float]:
    """How many subscriptions are at which bound."""
    return await metric(node, "bounded_subscriptions")


async def reasons(node: Node) -> set[Block]:
    stats = (await node.topic()).state.subscriptions["s"].snapshot_stats()
    return {one.reason for one in stats.blocked}


def warnings(caplog: pytest.LogCaptureFixture) -> Sequence[str]:
    return [
        record.message for record in caplog.records if "subscription s:" in record.message
    ]


async def publish(publisher: Publisher, count: int) -> None:
    for number in range(count):
        await publisher.publish(b"%d" % number)
    await settle()


@pytest.mark.parametrize("kind", [
    SubscriptionKind.EXCLUSIVE, SubscriptionKind.FAILOVER, SubscriptionKind.SHARED,
    SubscriptionKind.KEY_SHARED,
])
async def test_consumers_at_their_bound_are_told_for_as_long_as_they_are(
    kind: SubscriptionKind, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as made:
        node = await made.broker(policies=THREE)
        one = await Subscriber.open(node, kind=kind)

        await publish(await Publisher.open(node), 10)

        assert await bounded(node) == {"consumer": 1}
        assert await reasons(node) == {Block.CONSUMER_BOUND}
        assert warnings(caplog) == [
            "persistent://public/default/orders, subscription s:"
            " a consumer holds as many unacknowledged messages as it may"
        ]
        await one.acknowledge(*positions_of(one.deliveries))
        await one.receive(6)
        await one.acknowledge(*positions_of(one.deliveries))
        await one.receive(9)
        await one.acknowledge(*positions_of(one.deliveries))
        await one.receive(10)
        assert await bounded(node) == {}


async def test_a_consumer_that_left_is_at_no_bound() -> None:
    async with world() as made:
        node = await made.broker(policies=THREE)
        one = await Subscriber.open(node, shared=True)
        await publish(await Publisher.open(node), 5)

        one.session.close()

        assert await bounded(node) == {}


async def test_a_consumer_that_left_at_its_bound_is_forgotten_while_another_is_at_its() -> None:
    async with world() as made:
        node = await made.broker(policies=THREE)
        leaving = await Subscriber.open(node, shared=True)
        await publish(await Publisher.open(node), 10)
        await Subscriber.open(node, shared=True)
        await settle()
        kept = weakref.ref(leaving)

        leaving.session.close()
        del leaving
        await settle()
        gc.collect()

        assert await bounded(node) == {"consumer": 1}
        assert kept() is None


async def test_the_bound_of_a_subscription_is_told_while_nobody_asks_for_more() -> None:
    async with world() as made:
        node = await made.broker(policies=FIVE_TOGETHER)
        await Subscriber.open(node, shared=True, permits=5)

        await publish(await Publisher.open(node), 8)

        assert await bounded(node) == {"subscription": 1}
        assert await reasons(node) == {Block.SUBSCRIPTION_BOUND, Block.NO_PERMITS}


async def test_a_bound_is_logged_although_another_is_met_already(
    caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(
            max_unacked_messages_per_consumer=3, max_unacked_messages_per_subscription=5))
        publisher = await Publisher.open(node)
        await Subscriber.open(node, shared=True)
        await publish(publisher, 8)

        await Subscriber.open(node, shared=True)
        await settle()

        assert await bounded(node) == {"consumer": 1, "subscription": 1}
        assert [text.rpartition(": ")[2] for text in warnings(caplog)] == [
            Block.CONSUMER_BOUND.value, Block.SUBSCRIPTION_BOUND.value,
        ]


async def test_a_bound_that_comes_and_goes_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as made:
        node = await made.broker(policies=THREE)
        one = await Subscriber.open(node, shared=True)
        publisher = await Publisher.open(node)

        for _ in range(3):
            await publish(publisher, 3)
            await one.acknowledge(*positions_of(one.deliveries))
        assert len(warnings(caplog)) == 1
        node.clock.ahead_s += 61
        await publish(publisher, 3)

        assert len(warnings(caplog)) == 2


async def test_dispatch_that_waits_for_the_dead_letter_topic_says_so(
    caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as made:
        node = await made.broker(policies=LETTERED)
        one = await Subscriber.open(node, permits=0)
        publisher = await Publisher.open(node)
        publisher.session.publish(publisher.batch(b"0"))
        for number in range(MAX_GIVEN_ENTRIES):
            publisher.session.publish(publisher.batch(b"%d" % number))
        await settle(2_000)
        made.forwarder.gate.clear()
        node.clock.wall_offset_ms = 61_000

        one.session.add_permits(10)
        await settle(2_000)

        assert await bounded(node) == {"dead_letter": 1}
        assert Block.DEAD_LETTER_BOUND in await reasons(node)
        assert [text.rpartition(": ")[2] for text in warnings(caplog)] == [
            Block.DEAD_LETTER_BOUND.value]
        made.forwarder.gate.set()


async def test_dispatch_that_waits_for_the_state_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(state_stall_s=10))
        one = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        await publish(publisher, 1)
        held: list[Callable[[MagnetarError | None], None]] = []
        subscription = (await node.topic()).state.subscriptions["s"]

        def write_state(
            record: StateRecord, on_done: Callable[[MagnetarError | None], None]
        ) -> None:
            held.append(on_done)

        monkeypatch.setattr(subscription, "write_state", write_state)
        one.session.acknowledge(positions_of(one.deliveries), None, lambda _error: None)
        await settle()
        node.clock.ahead_s += 11
        await publish(publisher, 1)

        assert one.payloads == [b"0"]
        assert await bounded(node) == {"state_not_durable": 1}
        assert await reasons(node) == {Block.STATE_NOT_DURABLE}
        assert [text.rpartition(": ")[2] for text in warnings(caplog)] == [
            Block.STATE_NOT_DURABLE.value]
        held[0](None)
        await one.receive(2)
        assert await bounded(node) == {}


async def test_a_consumer_that_outran_the_tracking_is_told(
    caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as made:
        node = await made.broker(policies=NO_BOUND, limits=BrokerLimits(in_flight_entries=3))
        one = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        await publish(publisher, 3)
        assert await bounded(node) == {}

        await publish(publisher, 1)

        assert await bounded(node) == {"tracking": 1}
        assert await reasons(node) == {Block.TRACKING_BOUND}
        assert [text.rpartition(": ")[2] for text in warnings(caplog)] == [
            Block.TRACKING_BOUND.value]
        assert len(one.payloads) == 4
        one.session.close()
        again = await Subscriber.open(node, permits=1)
        await again.receive(1)
        assert await bounded(node) == {}


async def test_reasons_that_are_cut_short_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("broker.redelivery.REASONS_BYTES", 3_000)
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node)
        await publish(await Publisher.open(node), 5)
        first, *others = positions_of(one.deliveries)
        one.session.negative([first], delay_ms=3_600_000, reason="first " * 150)
        await settle()
        assert await bounded(node) == await metric(node, "shortened_reasons") == {}

        for number, position in enumerate(others):
            one.session.negative([position], delay_ms=3_600_000, reason=f"{number} " * 500)
        await settle()

        assert await bounded(node) == {"reasons": 1}
        assert await metric(node, "shortened_reasons") == {"": 2}
        assert Block.REASONS_BOUND in await reasons(node)
        assert [text.rpartition(": ")[2] for text in warnings(caplog)] == [
            Block.REASONS_BOUND.value]
        await one.acknowledge(*others)
        assert await bounded(node) == {}
