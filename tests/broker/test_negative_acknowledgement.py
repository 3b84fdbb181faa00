"""Messages that failed: delivered again, later, elsewhere, in order, and not for ever."""

from __future__ import annotations

import asyncio

import pytest

from broker.conversation import HoldFailedKeys, InitialPosition, OpenConsumer
from broker.dead_letters import TopicDeadLetters
from broker.state_records import SubscriptionKind
from broker.stored_entry import StoredEntry
from broker.subscription import Subscription
from broker.subscription_stats import Block
from magnetar.dead_letter import MAX_REASON_BYTES
from magnetar.errors import ConsumerBusy, InvalidArgument, MagnetarError
from tests.broker.world import (
    TOPIC,
    Node,
    Publisher,
    Subscriber,
    payloads_of,
    positions_of,
    settle,
    until,
    world,
)

EARLIEST = InitialPosition.EARLIEST
HOLD, PASS = HoldFailedKeys.HOLD, HoldFailedKeys.PASS
HOUR_MS = 3_600_000


async def subscription_of(node: Node) -> Subscription:
    return (await node.topic()).state.subscriptions["s"]


async def publish(publisher: Publisher, **keys: str) -> None:
    """One batch: payload = key."""
    expected = len(publisher.receipts) + 1
    publisher.session.publish(publisher.batch(
        *(name.encode() for name in keys), partition_keys=list(keys.values())))
    await until(lambda: len(publisher.receipts) >= expected)


async def later(node: Node, seconds: float) -> None:
    """Move the clock, and let dispatch look at it."""
    node.clock.ahead_s += seconds
    (await node.topic()).wake_dispatch()
    await settle()


async def test_a_delayed_message_comes_again_when_its_time_has_come() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        await publisher.publish(b"1", b"2", b"3")
        await one.receive(3)

        one.session.negative(positions_of(one.deliveries, b"2"), 60_000, "not now")
        one.session.negative(positions_of(one.deliveries, b"1"), 90_000)
        await later(node, 59)
        assert len(one.payloads) == 3
        await later(node, 2)

        assert one.payloads[3:] == [b"2"]
        assert one.deliveries[-1].redelivery_count == 1
        await later(node, 30)
        assert one.payloads[3:] == [b"2", b"1"]


async def test_one_timer_wakes_for_whatever_comes_first() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, shared=True)
        publisher = await Publisher.open(node)
        await publisher.publish(b"1", b"2", b"3")
        await one.receive(3)

        for payload, delay_ms in ((b"1", HOUR_MS), (b"2", 500), (b"3", 20)):
            one.session.negative(positions_of(one.deliveries, payload), delay_ms)

        assert await one.receive(5) == [b"1", b"2", b"3", b"3", b"2"]
        subscription = await subscription_of(node)
        assert subscription.snapshot_stats().delayed == 1


async def test_what_is_given_back_unused_is_not_counted() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, max_deliveries=2)
        publisher = await Publisher.open(node)
        await publisher.publish(b"1", b"2")
        for _ in range(5):
            await until(lambda: bool(one.deliveries))
            one.session.negative(positions_of(one.deliveries), counted=False)
            one.deliveries.clear()

        await one.receive(2)

        assert [delivery.redelivery_count for delivery in one.deliveries] == [0]


async def test_a_delay_is_cut_short_by_an_acknowledgement() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        await publisher.publish(b"1")
        await one.receive(1)
        one.session.negative(positions_of(one.deliveries), 60_000)

        assert await one.acknowledge(*positions_of(one.deliveries)) is None

        await later(node, 61)
        assert len(one.payloads) == 1
        assert (await subscription_of(node)).backlog_messages == 0


async def test_delays_outlive_their_consumer() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        await publisher.publish(b"1", b"2")
        await one.receive(2)
        one.session.negative(positions_of(one.deliveries, b"1"), 60_000)
        one.session.close()

        again = await Subscriber.open(node)

        await settle()
        assert again.payloads == [b"2"]
        await later(node, 61)
        assert again.payloads == [b"2", b"1"]


@pytest.mark.parametrize("kind", [
    SubscriptionKind.EXCLUSIVE, SubscriptionKind.SHARED, SubscriptionKind.KEY_SHARED,
    SubscriptionKind.FAILOVER,
])
async def test_a_failed_message_holds_its_key_and_no_other(kind: SubscriptionKind) -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, kind=kind, hold_failed_keys=HOLD)
        publisher = await Publisher.open(node)
        await publish(publisher, a1="a", b1="b")
        await one.receive(2)

        one.session.negative(positions_of(one.deliveries, b"a1"), 60_000)
        await publish(publisher, a2="a", b2="b", a3="a")
        await settle()
        assert one.payloads == [b"a1", b"b1", b"b2"]
        stats = (await subscription_of(node)).snapshot_stats()
        assert (stats.held_keys, stats.set_aside, stats.delayed) == (1, 2, 1)
        assert Block.HELD_KEY in [one.reason for one in stats.blocked]

        await later(node, 61)
        assert one.payloads[3:] == [b"a1"]
        await one.acknowledge(*positions_of(one.deliveries, b"a1"))
        await settle()

        assert one.payloads[4:] == [b"a2", b"a3"]
        stats = (await subscription_of(node)).snapshot_stats()
        assert (stats.held_keys, stats.set_aside, stats.delayed) == (0, 0, 0)


async def test_messages_given_back_wait_behind_the_failed_one_in_the_order_of_the_log() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, kind=SubscriptionKind.KEY_SHARED)
        publisher = await Publisher.open(node)
        await publish(publisher, a1="a", a2="a", a3="a", a4="a")
        await one.receive(4)
        got = list(one.deliveries)

        one.session.negative(positions_of(got, b"a4"), counted=False)
        one.session.negative(positions_of(got, b"a1"), reason="oops")
        one.session.negative(positions_of(got, b"a2", b"a3"), counted=False)
        await settle()

        assert one.payloads[4:] == [b"a1"]
        await one.acknowledge(*positions_of(got, b"a1"))
        await settle()
        assert one.payloads[4:] == [b"a1", b"a2", b"a3", b"a4"]
        counts = [one.redelivery_count for one in one.deliveries[1:] for _ in payloads_of(one)]
        assert counts == [1, 0, 0, 0]


async def test_two_failures_of_a_key_are_settled_one_after_the_other() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, kind=SubscriptionKind.SHARED, hold_failed_keys=HOLD)
        publisher = await Publisher.open(node)
        await publish(publisher, a1="a", a2="a")
        await one.receive(2)

        one.session.negative(positions_of(one.deliveries, b"a2"))
        one.session.negative(positions_of(one.deliveries, b"a1"))
        await settle()

        assert one.payloads[2:] == [b"a1"]
        await one.acknowledge(*positions_of(one.deliveries, b"a1"))
        await settle()
        assert one.payloads[2:] == [b"a1", b"a2"]


async def test_without_holding_a_failed_message_lets_its_key_pass() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(
            node, kind=SubscriptionKind.KEY_SHARED, hold_failed_keys=PASS)
        publisher = await Publisher.open(node)
        await publish(publisher, a1="a")
        await one.receive(1)

        one.session.negative(positions_of(one.deliveries, b"a1"), 60_000)
        await publish(publisher, a2="a")

        assert await one.receive(2) == [b"a1", b"a2"]
        await later(node, 61)
        assert one.payloads[2:] == [b"a1"]


class Undertaker:
    """Dead letters that are taken, and acknowledged when the test says so."""

    def __init__(self, subscription: Subscription, patch: pytest.MonkeyPatch) -> None:
        self.subscription = subscription
        self.taken: list[tuple[StoredEntry, int, int, str]] = []

        def give(
            _: TopicDeadLetters, name: str, entry: StoredEntry, mask: int, attempts: int,
            reason: str, done: object,
        ) -> None:
            assert name == subscription.name
            self.taken.append((entry, mask, attempts, reason))

        patch.setattr(TopicDeadLetters, "give", give)

    async def bury(self) -> None:
        """All that was taken is in the dead-letter topic."""
        from broker.conversation import MessagePosition

        for entry, mask, _, _ in self.taken:
            done: asyncio.Future[MagnetarError | None] = asyncio.get_running_loop().create_future()
            self.subscription.acknowledge(
                [MessagePosition(entry.ledger_id, entry.entry_id, batch_mask=mask)], None,
                done.set_result)
            assert await done is None


async def test_a_message_is_given_up_after_so_many_deliveries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(
            node, kind=SubscriptionKind.KEY_SHARED, max_deliveries=3, dead_letter_topic="grave")
        subscription = await subscription_of(node)
        undertaker = Undertaker(subscription, monkeypatch)
        publisher = await Publisher.open(node)
        await publish(publisher, a1="a", b1="b")
        for attempt in range(3):
            await until(lambda: one.payloads.count(b"a1") == attempt + 1)  # noqa: B023
            one.session.negative(
                positions_of(one.deliveries, b"a1"), reason=f"{attempt} " + "é" * 2_000)
        await publish(publisher, a2="a")
        await settle()

        (entry, mask, attempts, reason), = undertaker.taken
        assert (entry.entry_id, mask, attempts) == (0, 0b01, 3)
        assert reason.startswith("2 éé")
        assert MAX_REASON_BYTES - 2 <= len(reason.encode()) <= MAX_REASON_BYTES
        assert one.payloads.count(b"a1") == 3
        assert b"a2" not in one.payloads
        stats = subscription.snapshot_stats()
        assert (stats.dead_lettering, stats.held_keys, stats.max_deliveries) == (1, 1, 3)
        assert stats.dead_letter_topic == "persistent://public/default/grave"
        assert Block.DEAD_LETTERING in [one.reason for one in stats.blocked]

        await undertaker.bury()
        await until(lambda: b"a2" in one.payloads)
        assert subscription.snapshot_stats().dead_lettering == 0
        assert subscription.backlog_messages == 2


async def test_leaving_counts_as_a_failed_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as made:
        node = await made.broker()
        undertaker = None
        for attempt in range(2):
            one = await Subscriber.open(node, shared=True, max_deliveries=2)
            undertaker = undertaker or Undertaker(await subscription_of(node), monkeypatch)
            if attempt == 0:
                await (await Publisher.open(node)).publish(b"1", b"2")
            await one.receive(2)
            one.session.close()
        await settle()

        assert undertaker is not None
        (_, mask, attempts, reason), = undertaker.taken
        assert (mask, attempts) == (0b11, 2)
        assert "2 times" in reason


async def test_deliveries_are_counted_over_a_change_of_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as made:
        node = await made.broker("b1")
        one = await Subscriber.open(node, max_deliveries=2)
        undertaker = Undertaker(await subscription_of(node), monkeypatch)
        publisher = await Publisher.open(node)
        await publisher.publish(b"1", b"2")
        await one.receive(2)
        one.session.redeliver(positions_of(one.deliveries, b"1"))
        await one.receive(3)
        one.session.redeliver(positions_of(one.deliveries, b"1"))
        await one.acknowledge(*positions_of(one.deliveries, b"2"))
        assert len(undertaker.taken) == 1
        await made.kill(node)
        successor = await made.broker("b2")

        again = await Subscriber.open(successor, max_deliveries=2)
        await settle()

        assert again.payloads == []
        assert [taken[1:3] for taken in undertaker.taken] == [(0b01, 2), (0b01, 2)]


async def test_options_are_agreed_on_and_remembered() -> None:
    async with world() as made:
        node = await made.broker("b1")
        options = {
            "shared": True, "hold_failed_keys": HOLD, "max_deliveries": 4,
            "dead_letter_topic": "grave",
        }
        one = await Subscriber.open(node, **options)
        await Subscriber.open(node, shared=True)
        await Subscriber.open(node, **options)
        for option, value in (
            ("hold_failed_keys", PASS), ("max_deliveries", 5), ("dead_letter_topic", "other"),
        ):
            with pytest.raises(ConsumerBusy, match=option):
                await Subscriber.open(node, **{**options, option: value})
        del one
        await made.kill(node)
        successor = await made.broker("b2", limits=None)
        topic = await successor.topic()

        stored = topic.state.subscriptions["s"].options
        assert (stored.hold, stored.max_deliveries) == (HOLD, 4)
        await topic.state.compact()
        await made.kill(successor)
        last = await made.broker("b3")
        stored = (await last.topic()).state.subscriptions["s"].options
        assert stored.dead_letter_topic == "persistent://public/default/grave"
        await Subscriber.open(last, shared=True)
        assert (await last.topic()).state.subscriptions["s"].options.max_deliveries == 0


@pytest.mark.parametrize("wrong", ["not/a/topic/name", TOPIC])
async def test_a_dead_letter_topic_that_cannot_be_is_refused(wrong: str) -> None:
    async with world() as made:
        node = await made.broker()

        with pytest.raises(InvalidArgument, match="dead-letter topic"):
            await node.broker.open_consumer(
                OpenConsumer(TOPIC, "s", dead_letter_topic=wrong), lambda _: None, lambda _: None)
