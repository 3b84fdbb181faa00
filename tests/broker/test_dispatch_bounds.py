"""What dispatch remembers and hands out stays within its bounds, whatever consumers do."""

from __future__ import annotations

import asyncio

import pytest

from broker.dispatch.waiting import Wait, Waiting
from broker.settings import BrokerLimits
from broker.state_records import SubscriptionKind
from broker.stored_entry import StoredEntry
from broker.topic_log import TopicLog
from tenants.policies import TopicPolicies
from tests.broker.test_failures_of_an_earlier_owner import next_owner
from tests.broker.test_key_shared import publish
from tests.broker.test_negative_acknowledgement import later, subscription_of
from tests.broker.world import Publisher, Subscriber, positions_of, settle, world


def test_messages_that_fail_again_and_again_leave_nothing_behind() -> None:
    waiting = Waiting()
    waiting.add(waiting.entry((1, 0), 0, 1, None), 1, 1, "", Wait.TIME, 1e9)
    for number in range(10_000):
        key = (1, 1 + number % 3)
        entry = waiting.entry(key, 3, 1, None)
        waiting.add(entry, 1, 1, "", Wait.TIME if number % 2 else Wait.TURN, 1e8 + number)
        waiting.settle(key, 1)

    assert len(waiting) == 1
    assert len(waiting._order) + len(waiting._turns) + len(waiting._times) < 1_000
    assert waiting.next_due_s() == 1e9
    assert [one.key for one, _, _ in waiting.settle_below(1)] == [(1, 0)]


async def test_the_subscriptions_bound_holds_when_keys_leave_an_idle_owner() -> None:
    async with world() as made:
        node = await made.broker(
            policies=TopicPolicies(max_unacked_messages_per_subscription=5),
            limits=BrokerLimits(idle_owner_s=5.0))
        kind = SubscriptionKind.KEY_SHARED
        stuck = await Subscriber.open(node, kind=kind, permits=0)
        await publish(await Publisher.open(node), [f"k{number}" for number in range(40)])
        await settle()
        quick = await Subscriber.open(node, kind=kind, permits=100)
        await settle()
        while quick.deliveries:
            found = positions_of(quick.deliveries)
            quick.deliveries.clear()
            await quick.acknowledge(*found)
            await settle()
        await later(node, 6)

        assert 0 < len(quick.payloads) <= 5
        assert stuck.payloads == []


async def test_what_is_acknowledged_is_no_more_remembered_as_failed_by_the_next_owner() -> None:
    """Also above the first message that is not acknowledged."""
    async with world() as made:
        node = await made.broker("b1")
        one = await Subscriber.open(node, shared=True)
        publisher = await Publisher.open(node)
        for payload in (b"0", b"1", b"2", b"3"):
            await publisher.publish(payload)
        await one.receive(4)
        one.session.negative(positions_of(one.deliveries), reason="no")
        await one.receive(8)
        await one.acknowledge(*positions_of(one.deliveries, b"1", b"2", b"3"))
        second = await next_owner(made, node)

        assert len((await subscription_of(second)).counts) == 1


class SlowReads:
    """Entries are read when the test says so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.gate = asyncio.Event()
        read = TopicLog.entry_at

        async def entry_at(log: TopicLog, ledger_id: int, entry_id: int) -> StoredEntry:
            await self.gate.wait()
            return await read(log, ledger_id, entry_id)

        patch.setattr(TopicLog, "entry_at", entry_at)


async def test_what_failed_and_is_looked_up_is_not_out_twice_when_it_was_delivered_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as made:
        node = await made.broker(
            policies=TopicPolicies(max_unacked_messages_per_consumer=-1),
            limits=BrokerLimits(in_flight_entries=1))
        one = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        for payload in (b"0", b"1", b"2"):
            await publisher.publish(payload)
        await one.receive(3)
        reads = SlowReads(monkeypatch)
        one.session.negative(positions_of(one.deliveries, b"0"))
        await settle()
        one.session.close()
        two = await Subscriber.open(node)
        await two.receive(3)

        reads.gate.set()
        await settle()

        assert two.payloads == [b"0", b"1", b"2"]


async def test_more_failures_at_once_than_may_be_looked_at_are_all_heard() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(acknowledge_positions=2))
        one = await Subscriber.open(node, shared=True)
        await (await Publisher.open(node)).publish(*(b"%d" % number for number in range(7)))
        await one.receive(7)

        one.session.negative(positions_of(one.deliveries), 60_000)
        await settle()

        assert (await subscription_of(node)).snapshot_stats().delayed == 7


async def test_what_expires_while_it_waits_makes_room_at_once() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(max_unacked_messages_per_subscription=2))
        one = await Subscriber.open(node, shared=True)
        publisher = await Publisher.open(node)
        publisher.session.publish(publisher.batch(
            b"0", b"1", b"2", expires_after_ms=[60_000, 60_000, 0]))
        await one.receive(2)
        one.session.negative(positions_of(one.deliveries), 3_600_000)
        await settle()
        assert one.payloads == [b"0", b"1"]

        node.clock.wall_offset_ms = 61_000
        expiry = (await subscription_of(node)).backlog_expiry
        await expiry.run()
        await expiry.run()
        await settle()

        assert one.payloads == [b"0", b"1", b"2"]
