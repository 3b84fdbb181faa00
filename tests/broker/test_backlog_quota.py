"""Backlogs that are too large: producers wait or are refused, or the oldest messages go."""

from __future__ import annotations

import asyncio

import pytest

from broker.conversation import InitialPosition
from broker.settings import BrokerLimits
from ledger.position import Position
from magnetar.errors import BacklogQuotaExceeded
from tenants.policies import BacklogQuotaPolicy, TopicPolicies
from tests.broker.world import Node, Publisher, Subscriber, position_of, settle, until, world

EARLIEST = InitialPosition.EARLIEST
ENTRY_BYTES = 1_100  # an entry of a thousand bytes of payload, about
SMALL = TopicPolicies(backlog_quota_bytes=5 * ENTRY_BYTES)
REJECTING = TopicPolicies(
    backlog_quota_bytes=5 * ENTRY_BYTES, backlog_quota_policy=BacklogQuotaPolicy.PRODUCER_REJECT
)
EVICTING = TopicPolicies(
    backlog_quota_bytes=5 * ENTRY_BYTES, backlog_quota_policy=BacklogQuotaPolicy.EVICT_OLDEST
)
PAYLOAD = b"x" * 1_000


async def offer(publisher: Publisher, *, first: int | None = None) -> BaseException | None:
    """One batch, and how it is answered."""
    before = len(publisher.receipts)
    publisher.session.publish(publisher.batch(PAYLOAD, first=first))
    await until(lambda: len(publisher.receipts) > before)
    return publisher.receipts[-1].error


async def acknowledge_all(subscriber: Subscriber) -> None:
    await subscriber.acknowledge(cumulative=position_of(subscriber.deliveries[-1]))


async def problem(node: Node) -> str | None:
    return (await node.topic()).quota.status().problem


async def test_producers_are_held_until_the_backlog_is_consumed() -> None:
    async with world() as made:
        node = await made.broker(policies=SMALL)
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        for _ in range(5):
            assert not publisher.session.congested
            await publisher.publish(PAYLOAD)
        assert not publisher.session.congested
        await publisher.publish(PAYLOAD)  # this one crosses the line
        assert publisher.session.congested
        assert "'s' is the slowest" in (await problem(node) or "")
        waiting = asyncio.ensure_future(publisher.session.ready())
        await settle()
        assert not waiting.done()

        await subscriber.receive(6)
        await acknowledge_all(subscriber)
        await waiting

        assert not publisher.session.congested
        assert await problem(node) is None


async def test_a_rejected_batch_leaves_no_trace_and_can_be_sent_again() -> None:
    async with world() as made:
        node = await made.broker(policies=REJECTING)
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node, "p")
        while (error := await offer(publisher)) is None:
            assert len(publisher.receipts) < 20
        assert isinstance(error, BacklogQuotaExceeded)
        assert not publisher.session.congested
        stored = len(publisher.receipts) - 1
        refused = publisher.receipts[-1].first_sequence_id
        assert (await node.topic()).log.end_ordinal == stored
        await subscriber.receive(stored)
        await acknowledge_all(subscriber)
        topic = await node.topic()
        await until(lambda: topic.quota.refusal() is None)

        assert await offer(publisher, first=refused) is None

        assert (await node.topic()).log.end_ordinal == stored + 1
        assert publisher.session.source.last_stored == refused


async def test_a_batch_stored_before_is_answered_however_large_the_backlog() -> None:
    async with world() as made:
        node = await made.broker(policies=REJECTING)
        await Subscriber.open(node)
        publisher = await Publisher.open(node, "p")
        while await offer(publisher) is None:
            pass

        assert await offer(publisher, first=0) is None
        assert publisher.receipts[-1].entry_id == publisher.receipts[0].entry_id


async def test_the_slowest_subscription_counts_and_deleting_it_helps() -> None:
    async with world() as made:
        node = await made.broker(policies=SMALL)
        fast = await Subscriber.open(node, "fast")
        slow = await Subscriber.open(node, "slow")
        publisher = await Publisher.open(node)
        for _ in range(6):
            await publisher.publish(PAYLOAD)
        await fast.receive(6)
        await acknowledge_all(fast)
        await settle()
        assert publisher.session.congested
        assert (await node.topic()).quota.status().slowest_subscription == "slow"

        slow.session.close()
        await (await node.topic()).delete_subscription("slow")

        await asyncio.wait_for(publisher.session.ready(), 5)


async def test_a_raised_quota_lets_producers_go_on() -> None:
    async with world() as made:
        node = await made.broker(policies=SMALL)
        await Subscriber.open(node)
        publisher = await Publisher.open(node)
        for _ in range(6):
            await publisher.publish(PAYLOAD)
        topic = await node.topic()
        assert topic.publishing.congested

        topic.follow(TopicPolicies(), topic.log.log.policy)

        await asyncio.wait_for(publisher.session.ready(), 5)


async def test_the_oldest_messages_are_evicted_and_counted() -> None:
    async with world() as made:
        node = await made.broker(policies=EVICTING)
        slow = await Subscriber.open(node, "slow", permits=0)
        publisher = await Publisher.open(node)
        for number in range(30):
            await publisher.publish(b"%03d" % number + PAYLOAD)
        topic = await node.topic()
        await until(lambda: topic.quota.status().problem is None)

        status = topic.quota.status()
        assert status.size_bytes <= EVICTING.backlog_quota_bytes
        assert status.evicted_messages == topic.quota.evicted["slow"] == 30 - 5
        assert not publisher.session.congested
        slow.session.add_permits(100)
        assert [one[:3] for one in await slow.receive(5)] == [b"%03d" % n for n in range(25, 30)]


async def test_evicted_messages_give_their_space_back() -> None:
    async with world() as made:
        policies = EVICTING.overlay({"max_ledger_entries": 3})
        node = await made.broker(policies=policies)
        await Subscriber.open(node, "slow", permits=0)
        publisher = await Publisher.open(node)
        for _ in range(30):
            await publisher.publish(PAYLOAD)
        topic = await node.topic()
        await until(lambda: topic.quota.status().problem is None)

        await topic.maintain()

        assert topic.log.log.size_bytes <= 5 * ENTRY_BYTES + 3 * ENTRY_BYTES


async def test_a_topic_without_subscriptions_is_bound_by_its_quota_too() -> None:
    async with world() as made:
        policies = EVICTING.overlay({"max_ledger_entries": 3})
        node = await made.broker(policies=policies)
        publisher = await Publisher.open(node)
        for _ in range(30):
            await publisher.publish(PAYLOAD)
        topic = await node.topic()
        await until(lambda: topic.quota.status().problem is None)
        await topic.maintain()
        assert topic.log.log.size_bytes <= 8 * ENTRY_BYTES

        subscriber = await Subscriber.open(node, initial_position=EARLIEST)
        await until(lambda: len(subscriber.payloads) >= 4)


async def test_a_topic_kept_by_its_retention_has_no_backlog_without_subscriptions() -> None:
    async with world() as made:
        node = await made.broker(policies=SMALL.overlay({"retention_minutes": -1}))
        publisher = await Publisher.open(node)
        for _ in range(10):
            await publisher.publish(PAYLOAD)

        assert not publisher.session.congested


async def test_an_old_backlog_holds_producers_until_its_oldest_messages_are_consumed() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(backlog_quota_age_ms=60_000))
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        await publisher.publish(b"old")
        node.clock.wall_offset_ms = 50_000
        await publisher.publish(b"young")
        topic = await node.topic()
        await topic.maintain()
        assert not publisher.session.congested

        node.clock.wall_offset_ms = 61_000
        await topic.maintain()

        assert publisher.session.congested
        assert "60000 ms" in (await problem(node) or "")
        await subscriber.receive(2)
        await subscriber.acknowledge(position_of(subscriber.deliveries[0]))
        await asyncio.wait_for(publisher.session.ready(), 5)


async def test_messages_above_the_age_are_evicted() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(
            backlog_quota_age_ms=60_000, backlog_quota_policy=BacklogQuotaPolicy.EVICT_OLDEST,
        ))
        subscriber = await Subscriber.open(node, permits=0)
        publisher = await Publisher.open(node)
        for second in range(0, 100, 10):
            node.clock.wall_offset_ms = second * 1000
            await publisher.publish(b"%d" % second)
        node.clock.wall_offset_ms = 125_000
        topic = await node.topic()

        await topic.maintain()
        await until(lambda: topic.quota.evicted.get("s", 0) == 7)  # of seconds 0 to 60

        subscriber.session.add_permits(10)
        assert await subscriber.receive(3) == [b"70", b"80", b"90"]


async def test_a_new_owner_knows_the_backlog_it_takes_over() -> None:
    async with world() as made:
        limits = BrokerLimits(checkpoint_entries=2)
        node = await made.broker(policies=REJECTING, limits=limits)
        await Subscriber.open(node)
        publisher = await Publisher.open(node, "p")
        while await offer(publisher) is None:
            pass
        size = (await node.topic()).quota.status().size_bytes
        await settle()
        await made.kill(node)

        other = await made.broker("b2", policies=REJECTING, limits=limits)

        assert (await other.topic()).quota.status().size_bytes == size
        again = await Publisher.open(other, "p")
        assert isinstance(await offer(again), BacklogQuotaExceeded)


@pytest.mark.parametrize("subscriptions", [1, 50])
async def test_publishing_does_not_look_at_the_backlog_each_time(subscriptions: int) -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(backlog_quota_bytes=1_000_000))
        for number in range(subscriptions):
            await Subscriber.open(node, f"s{number}", permits=0)
        publisher = await Publisher.open(node)
        topic = await node.topic()
        looks = 0
        find = topic.log.index.bytes_from

        def counted(ordinal: int) -> int:
            nonlocal looks
            looks += 1
            return find(ordinal)

        topic.log.index.bytes_from = counted  # type: ignore[method-assign]
        for _ in range(200):
            await publisher.publish(PAYLOAD)

        assert looks <= 1


async def test_a_quota_that_is_lifted_while_it_evicts_spares_what_is_left() -> None:
    async with world() as made:
        policies = TopicPolicies(
            backlog_quota_age_ms=60_000, backlog_quota_policy=BacklogQuotaPolicy.EVICT_OLDEST,
        )
        node = await made.broker(policies=policies)
        await Subscriber.open(node, permits=0)
        publisher = await Publisher.open(node)
        await publisher.publish(PAYLOAD)
        topic = await node.topic()
        before_time, reading, go_on = topic.log.before_time, asyncio.Event(), asyncio.Event()

        async def held(time_ms: int) -> Position:
            reading.set()
            await go_on.wait()
            return await before_time(time_ms)

        topic.log.before_time = held  # type: ignore[method-assign]
        node.clock.wall_offset_ms += 120_000
        await topic.quota.maintain()
        await reading.wait()

        topic.follow(policies.overlay({"backlog_quota_age_ms": -1}), topic.log.log.policy)
        go_on.set()
        await settle()

        assert topic.state.subscriptions["s"].backlog_messages == 1


async def test_what_was_too_old_for_a_quota_that_is_gone_is_not_evicted() -> None:
    async with world() as made:
        holding = TopicPolicies(backlog_quota_age_ms=60_000)
        node = await made.broker(policies=holding)
        await Subscriber.open(node, permits=0)
        publisher = await Publisher.open(node)
        await publisher.publish(PAYLOAD)
        topic = await node.topic()
        node.clock.wall_offset_ms += 120_000
        await topic.quota.maintain()
        assert topic.quota.holds

        topic.follow(
            EVICTING.overlay({"backlog_quota_bytes": 10 * ENTRY_BYTES}), topic.log.log.policy)
        await until(lambda: not topic.quota.holds)
        await settle()

        assert topic.state.subscriptions["s"].backlog_messages == 1
        assert await problem(node) is None


async def test_a_new_owner_evicts_nothing_that_the_quota_allows() -> None:
    async with world() as made:
        policies = EVICTING.overlay({"max_ledger_entries": 4})
        node = await made.broker(policies=policies)
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        for _ in range(4):
            await publisher.publish(PAYLOAD)
        await subscriber.receive(4)
        await subscriber.acknowledge(cumulative=position_of(subscriber.deliveries[2]))
        for _ in range(3):
            await publisher.publish(PAYLOAD)
        await made.stop(node)

        topic = await (await made.broker("b2", policies=policies)).topic()
        await settle()

        assert topic.quota.evicted == {}
        assert topic.state.subscriptions["s"].backlog_messages == 4


async def test_a_consumer_that_is_too_slow_does_not_let_producers_go_on() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(backlog_quota_age_ms=60_000))
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        for age_s in (100, 90):
            node.clock.wall_offset_ms = -age_s * 1000
            await publisher.publish(b"old")
        node.clock.wall_offset_ms = 0
        await publisher.publish(b"young")
        topic = await node.topic()
        await topic.maintain()
        first_ms = topic.quota.status().oldest_ms
        assert publisher.session.congested
        released = 0

        def release() -> None:
            nonlocal released
            released += 1

        topic.release_producers = release  # type: ignore[method-assign]
        await subscriber.receive(3)
        await subscriber.acknowledge(position_of(subscriber.deliveries[0]))
        await until(lambda: topic.quota.status().oldest_ms > first_ms)
        assert publisher.session.congested and not released

        await subscriber.acknowledge(position_of(subscriber.deliveries[1]))
        await until(lambda: released > 0)
        assert not publisher.session.congested
