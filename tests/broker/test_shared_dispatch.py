"""Shared subscriptions: nobody gets more than it asked for, and nobody is passed over."""

from __future__ import annotations

import random

from broker.conversation import InitialPosition
from broker.state_records import SubscriptionKind
from tests.broker.world import (
    Publisher,
    Subscriber,
    payloads_of,
    positions_of,
    settle,
    world,
)

EARLIEST = InitialPosition.EARLIEST


async def test_a_batch_is_split_by_what_consumers_asked_for() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, shared=True, permits=3)
        two = await Subscriber.open(node, shared=True, permits=5)
        publisher = await Publisher.open(node)

        await publisher.publish(*(b"%d" % number for number in range(10)))
        await settle()

        assert one.payloads == [b"0", b"1", b"2"]
        assert two.payloads == [b"3", b"4", b"5", b"6", b"7"]
        assert (one.session.permits, two.session.permits) == (0, 0)
        one.session.add_permits(1)
        await settle()
        assert one.payloads[3:] == [b"8"]
        two.session.add_permits(100)
        await settle()
        assert two.payloads[5:] == [b"9"]


async def test_large_batches_are_cut_rather_than_sent_to_everybody() -> None:
    async with world() as made:
        node = await made.broker()
        consumers = [await Subscriber.open(node, shared=True, permits=2) for _ in range(5)]
        publisher = await Publisher.open(node)

        await publisher.publish(*(b"%d" % number * 8_000 for number in range(10)))
        await settle()

        for number, one in enumerate(consumers):
            assert [payload[:1] for payload in one.payloads] == [
                b"%d" % (2 * number), b"%d" % (2 * number + 1)]
            assert sum(len(delivery.entry) for delivery in one.deliveries) < 20_000
            assert one.deliveries[0].picked
        await consumers[0].acknowledge(*positions_of(consumers[0].deliveries))
        assert (await node.topic()).state.subscriptions["s"].backlog_messages == 8


async def test_what_a_leaving_consumer_had_comes_before_newer_messages() -> None:
    async with world() as made:
        node = await made.broker()
        leaving = await Subscriber.open(node, shared=True, permits=4)
        publisher = await Publisher.open(node)
        await publisher.publish(*(b"%d" % number for number in range(4)))
        await leaving.receive(4)
        await leaving.acknowledge(*positions_of(leaving.deliveries, b"1"))
        await publisher.publish(b"4")
        staying = await Subscriber.open(node, shared=True, permits=0)

        leaving.session.close()
        staying.session.add_permits(2)
        await settle()
        staying.session.add_permits(9)

        assert await staying.receive(4) == [b"0", b"2", b"3", b"4"]
        counts = [one.redelivery_count for one in staying.deliveries for _ in payloads_of(one)]
        assert counts == [1, 1, 1, 0]


async def test_every_message_reaches_exactly_one_of_twenty_over_joins_and_leaves() -> None:
    """Nothing is lost, sent twice at a time, or sent beyond permits, whoever comes and goes."""
    chance = random.Random(7)
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        members = [
            await Subscriber.open(node, shared=True, permits=chance.randrange(5))
            for _ in range(20)
        ]
        done: set[bytes] = set()
        for turn in range(60):
            first = turn * 7
            await publisher.publish(*(b"%d" % number for number in range(first, first + 7)))
            member = chance.choice(members)
            for one in members:
                assert one.session.permits >= 0
            if chance.random() < 0.3:
                member.session.close()
                members.remove(member)
                members.append(await Subscriber.open(node, shared=True, permits=3))
            else:
                got = positions_of(member.deliveries)
                done.update(member.payloads)
                assert await member.acknowledge(*got) is None
                member.deliveries.clear()
                member.session.add_permits(chance.randrange(12))
        for _ in range(2_000):
            await settle(20)
            for member in members:
                done.update(member.payloads)
                await member.acknowledge(*positions_of(member.deliveries))
                member.deliveries.clear()
                member.session.add_permits(5)
            if len(done) == 420:
                break

        subscription = (await node.topic()).state.subscriptions["s"]
        assert len(done) == 420
        assert subscription.backlog_messages == 0
        assert subscription.dispatcher.flights.messages == 0
        assert subscription.kind is SubscriptionKind.SHARED


async def test_idle_consumers_get_their_turn_as_soon_as_they_ask() -> None:
    async with world() as made:
        node = await made.broker()
        busy = [await Subscriber.open(node, shared=True, permits=1_000) for _ in range(3)]
        idle = await Subscriber.open(node, shared=True, permits=0)
        publisher = await Publisher.open(node)
        for number in range(9):
            await publisher.publish(b"%d" % number)
        await settle()
        assert [len(one.payloads) for one in busy] == [3, 3, 3]

        idle.session.add_permits(10)
        for number in range(8):
            await publisher.publish(b"%d" % number)
        await settle()

        assert [len(one.payloads) for one in (*busy, idle)] == [5, 5, 5, 2]
