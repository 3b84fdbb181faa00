"""Consumers of a terminated topic are told once when everything has come."""

from __future__ import annotations

from broker.conversation import ConsumerEvent, InitialPosition
from broker.state_records import SubscriptionKind
from tests.broker.world import Publisher, Subscriber, positions_of, settle, until, world

EARLIEST = InitialPosition.EARLIEST
END = ConsumerEvent.END_OF_TOPIC


async def test_an_exclusive_consumer_and_a_reader_are_told_behind_the_last_message() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, permits=1)
        reader = await Subscriber.open(node, "", initial_position=EARLIEST)
        publisher = await Publisher.open(node)
        await publisher.publish(b"1")
        await publisher.publish(b"2")
        await settle()
        assert reader.events == []

        await (await node.topic()).terminate()
        await settle()
        assert (one.events, reader.events) == ([], [END])

        one.session.add_permits(5)
        await until(lambda: one.events == [END])
        await one.acknowledge(*positions_of(one.deliveries))
        await settle()
        assert one.events == [END]


async def test_consumers_that_share_are_told_when_everything_is_acknowledged() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, shared=True)
        two = await Subscriber.open(node, shared=True)
        publisher = await Publisher.open(node)
        await publisher.publish(b"1")
        await publisher.publish(b"2")
        await settle()
        await (await node.topic()).terminate()
        await one.acknowledge(*positions_of(one.deliveries))
        await settle()
        assert (one.events, two.events) == ([], [])

        two.session.close()
        await until(lambda: len(one.payloads) == 2)
        await one.acknowledge(*positions_of(one.deliveries))

        await until(lambda: one.events == [END])


async def test_a_consumer_that_comes_late_is_told_and_so_is_one_that_seeks_back() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        await publisher.publish(b"1")
        await (await node.topic()).terminate()

        late = await Subscriber.open(node, initial_position=EARLIEST)
        await until(lambda: late.events == [END])
        await late.session.seek(initial_position=EARLIEST)

        await until(lambda: late.events == [END, END])
        assert late.payloads == [b"1", b"1"]


async def test_a_delayed_message_is_still_to_come() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, kind=SubscriptionKind.FAILOVER, consumer_name="a")
        two = await Subscriber.open(node, kind=SubscriptionKind.FAILOVER, consumer_name="b")
        publisher = await Publisher.open(node)
        await publisher.publish(b"1")
        await one.receive(1)
        one.session.negative(positions_of(one.deliveries), 60_000)
        topic = await node.topic()
        await topic.terminate()
        await settle()
        assert END not in one.events

        node.clock.ahead_s += 61
        topic.wake_dispatch()
        await until(lambda: END in one.events)

        assert one.payloads == [b"1", b"1"]
        assert END not in two.events
