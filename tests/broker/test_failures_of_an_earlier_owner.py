"""What an owner knew of messages that failed is known to the next one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.conversation import HoldFailedKeys
from broker.state_records import Redelivered, RedeliveryCount, StateRecord, SubscriptionKind
from magnetar.dead_letter import DeadLetter
from magnetar.errors import MagnetarError
from tests.broker.test_dead_letters import DEAD, dead_letters
from tests.broker.test_negative_acknowledgement import HOUR_MS, later, publish, subscription_of
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

HOLD = HoldFailedKeys.HOLD
KINDS = [
    SubscriptionKind.EXCLUSIVE, SubscriptionKind.SHARED, SubscriptionKind.KEY_SHARED,
    SubscriptionKind.FAILOVER,
]


async def next_owner(made: World, node: Node, *, compacted: bool = False) -> Node:
    """Another broker, after the first was killed. `compacted`: all it gets is a snapshot."""
    await (await subscription_of(node)).flushed()
    if compacted:
        await (await node.topic()).state.compact()
    await made.kill(node)
    return await made.broker(f"b{len(made.nodes) + 2}")


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_delayed_message_is_not_given_out_before_its_time(
    kind: SubscriptionKind, compacted: bool
) -> None:
    async with world() as made:
        first = await made.broker("b1")
        one = await Subscriber.open(first, kind=kind)
        publisher = await Publisher.open(first)
        await publish(publisher, a1="a", b1="b", c1="c")
        await one.receive(3)
        one.session.negative(positions_of(one.deliveries, b"b1"), 60_000, "not now")
        second = await next_owner(made, first, compacted=compacted)

        again = await Subscriber.open(second, kind=kind)
        await again.receive(2)
        await later(second, 50)
        assert again.payloads == [b"a1", b"c1"]
        assert (await subscription_of(second)).snapshot_stats().delayed == 1
        await later(second, 11)

        assert again.payloads == [b"a1", b"c1", b"b1"]
        assert again.deliveries[-1].redelivery_count == 1


async def test_a_delay_that_ended_between_two_owners_is_over() -> None:
    async with world() as made:
        first = await made.broker("b1")
        one = await Subscriber.open(first)
        await (await Publisher.open(first)).publish(b"1", b"2")
        await one.receive(2)
        one.session.negative(positions_of(one.deliveries, b"1"), 60_000)
        second = await next_owner(made, first)
        second.clock.wall_offset_ms = 60_000

        again = await Subscriber.open(second)

        assert await again.receive(2) == [b"1", b"2"]


async def test_an_owner_whose_clock_was_ahead_makes_no_delay_longer() -> None:
    async with world() as made:
        first = await made.broker("b1")
        first.clock.wall_offset_ms = HOUR_MS
        one = await Subscriber.open(first)
        await (await Publisher.open(first)).publish(b"1", b"2")
        await one.receive(2)
        one.session.negative(positions_of(one.deliveries, b"1"), 60_000)
        second = await next_owner(made, first)

        again = await Subscriber.open(second)
        await again.receive(1)
        await later(second, 61)

        assert again.payloads == [b"2", b"1"]


async def test_messages_given_back_for_later_come_later_and_are_not_counted() -> None:
    async with world() as made:
        first = await made.broker("b1")
        one = await Subscriber.open(first, shared=True)
        await (await Publisher.open(first)).publish(b"1", b"2")
        await one.receive(2)
        one.session.negative(positions_of(one.deliveries, b"1"), 60_000, counted=False)
        second = await next_owner(made, first)

        again = await Subscriber.open(second, shared=True)
        await again.receive(1)
        await later(second, 61)

        assert again.payloads == [b"2", b"1"]
        assert [delivery.redelivery_count for delivery in again.deliveries] == [0, 0]


@pytest.mark.parametrize("delay_ms", [0, 60_000])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_message_holds_its_key_at_the_next_owner(
    kind: SubscriptionKind, delay_ms: int
) -> None:
    async with world() as made:
        first = await made.broker("b1")
        one = await Subscriber.open(first, kind=kind, hold_failed_keys=HOLD)
        publisher = await Publisher.open(first)
        await publish(publisher, a1="a", b1="b")
        await one.receive(2)
        one.session.negative(positions_of(one.deliveries, b"a1"), delay_ms)
        await publish(publisher, a2="a", b2="b")
        await settle()
        second = await next_owner(made, first)

        again = await Subscriber.open(second, kind=kind, hold_failed_keys=HOLD)
        await settle()
        await later(second, delay_ms / 1000 + 1)
        assert sorted(again.payloads) == [b"a1", b"b1", b"b2"]
        await again.acknowledge(*positions_of(again.deliveries, b"a1"))
        await settle()

        assert again.payloads[3:] == [b"a2"]


async def test_a_consumer_that_left_with_a_failed_message_lets_nothing_pass_it() -> None:
    async with world() as made:
        first = await made.broker("b1")
        one = await Subscriber.open(first, kind=SubscriptionKind.KEY_SHARED)
        publisher = await Publisher.open(first)
        await publish(publisher, a1="a", a2="a")
        await one.receive(2)
        one.session.negative(positions_of(one.deliveries, b"a1"), reason="no such customer")
        await one.receive(3)
        one.session.close()
        second = await next_owner(made, first)

        again = await Subscriber.open(second, kind=SubscriptionKind.KEY_SHARED)
        await settle()

        assert again.payloads == [b"a1"]
        assert again.deliveries[0].redelivery_count == 2


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("given_up", [False, True])
async def test_a_dead_letter_says_what_an_earlier_owner_was_told(
    given_up: bool, compacted: bool
) -> None:
    """`given_up`: already there, though the dead letter is not stored yet."""
    async with world() as made:
        made.forwarder.gate.clear()
        first = await made.broker("b1")
        one = await Subscriber.open(first, shared=True, max_deliveries=2)
        await (await Publisher.open(first)).publish(b"bad")
        await one.receive(1)
        one.session.negative(positions_of(one.deliveries), reason="no such customer")
        if given_up:
            await one.receive(2)
            one.session.negative(positions_of(one.deliveries[1:]))
        await settle()
        second = await next_owner(made, first, compacted=compacted)
        made.forwarder.gate.set()

        again = await Subscriber.open(second, shared=True, max_deliveries=2)
        if not given_up:
            await again.receive(1)
            again.session.negative(positions_of(again.deliveries))
        await until(lambda: bool(made.forwarder.batches))

        [(view, index)] = await dead_letters(second, DEAD)
        letter = DeadLetter.of(view.properties(index))
        assert letter is not None
        assert (letter.reason, letter.attempts) == ("no such customer", 2)


async def test_what_failed_before_a_filter_was_changed_waits_for_its_time() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, kind=SubscriptionKind.SHARED)
        await (await Publisher.open(node)).publish(b"1", b"2")
        await one.receive(2)
        one.session.negative(positions_of(one.deliveries, b"1"), 60_000)
        one.session.close()

        again = await Subscriber.open(node, kind=SubscriptionKind.EXCLUSIVE)
        await settle()

        assert again.payloads == [b"2"]
        await later(node, 61)
        assert again.payloads == [b"2", b"1"]


async def test_what_failed_just_before_a_topic_moves_is_known_to_the_next_owner() -> None:
    async with world() as made:
        first = await made.broker("b1")
        one = await Subscriber.open(first)
        await (await Publisher.open(first)).publish(b"1", b"2")
        await one.receive(2)
        one.session.negative(positions_of(one.deliveries, b"1"), 60_000)
        await made.stop(first)
        second = await made.broker("b2")

        again = await Subscriber.open(second)
        await settle()

        assert again.payloads == [b"2"]


async def test_what_fails_while_something_is_written_is_written_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as made:
        first = await made.broker("b1")
        one = await Subscriber.open(first)
        await (await Publisher.open(first)).publish(b"1", b"2")
        await one.receive(2)
        subscription = await subscription_of(first)
        written: list[StateRecord] = []
        waiting: list[Callable[[MagnetarError | None], None]] = []

        def write_state(
            record: StateRecord, on_done: Callable[[MagnetarError | None], None]
        ) -> None:
            written.append(record)
            waiting.append(on_done)

        monkeypatch.setattr(subscription, "write_state", write_state)
        one.session.acknowledge(positions_of(one.deliveries, b"2"), None, lambda _error: None)
        await until(lambda: bool(written))

        one.session.negative(positions_of(one.deliveries, b"1"), reason="no")
        await settle()
        waiting.pop()(None)
        await settle()

        assert written[1:] == [Redelivered("s", (RedeliveryCount(0, 0b01, 1, 0, 0, "no", True),))]
