"""What consumers get, acknowledge, and get again."""

from __future__ import annotations

import pytest

from broker.conversation import InitialPosition, MessagePosition
from broker.settings import BrokerLimits
from magnetar.errors import ConsumerBusy, InvalidArgument
from tenants.policies import TopicPolicies
from tests.broker.world import (
    TOPIC,
    Publisher,
    Subscriber,
    payloads_of,
    position_of,
    settle,
    until,
    world,
)

EARLIEST = InitialPosition.EARLIEST


async def test_messages_come_in_order_and_only_as_permitted() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, permits=3)
        publisher = await Publisher.open(node)
        for number in range(6):
            await publisher.publish(b"%d" % number)
        await settle()
        assert subscriber.payloads == [b"0", b"1", b"2"]

        subscriber.session.add_permits(2)

        assert await subscriber.receive(5) == [b"0", b"1", b"2", b"3", b"4"]


async def test_latest_and_earliest_begin_where_they_say() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        await publisher.publish(b"0", b"1")
        latest = await Subscriber.open(node, "latest")
        earliest = await Subscriber.open(node, "earliest", initial_position=EARLIEST)

        await publisher.publish(b"2")

        assert await earliest.receive(3) == [b"0", b"1", b"2"]
        assert await latest.receive(1) == [b"2"]


async def test_acknowledged_messages_never_come_back_and_others_do() -> None:
    async with world() as made:
        node = await made.broker("b1")
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        for number in range(4):
            await publisher.publish(b"%da" % number, b"%db" % number)
        await subscriber.receive(8)
        first, second, third, _ = subscriber.deliveries

        assert await subscriber.acknowledge(position_of(first), position_of(third, 0)) is None
        assert await subscriber.acknowledge(position_of(second, mask=0b10)) is None
        await made.kill(node)
        successor = await made.broker("b2")
        again = await Subscriber.open(successor)

        assert await again.receive(4) == [b"1a", b"2b", b"3a", b"3b"]
        await settle()
        assert len(again.payloads) == 4


async def test_what_is_acknowledged_beside_no_message_is_acknowledged_all_the_same() -> None:
    async with world() as made:
        node = await made.broker("b1")
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        for number in range(4):
            await publisher.publish(b"%da" % number, b"%db" % number)
        await subscriber.receive(8)
        first, *others = map(position_of, subscriber.deliveries)
        beyond = MessagePosition(first.ledger_id, first.entry_id, 2)
        nowhere = MessagePosition(first.ledger_id, 999)
        await made.kill(node)
        successor = await made.broker("b2")
        again = await Subscriber.open(successor, permits=2)
        await again.receive(2)  # it knows nothing of the entries behind

        for asked in ((beyond, others[0]), (nowhere, others[1]), (nowhere, first)):
            assert isinstance(await again.acknowledge(*asked), InvalidArgument)

        await made.kill(successor)
        last = await Subscriber.open(await made.broker("b3"))
        assert await last.receive(2) == [b"3a", b"3b"]
        await settle()
        assert len(last.payloads) == 2


async def test_acknowledgements_are_answered_only_when_durable() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        await publisher.publish(b"x")
        await subscriber.receive(1)
        for name in ("k1", "k2"):
            made.ground.bookies[name].held = True
        answers: list[object] = []

        subscriber.session.acknowledge([position_of(subscriber.deliveries[0])], None,
                                       answers.append)
        await settle()
        assert answers == []
        for name in ("k1", "k2"):
            made.ground.bookies[name].release()
        await until(lambda: bool(answers))

        assert answers == [None]


async def test_an_acknowledgement_at_a_fenced_owner_is_an_error() -> None:
    async with world() as made:
        old, new = await made.broker("b1"), await made.broker("b2")
        subscriber = await Subscriber.open(old)
        await (await Publisher.open(old)).publish(b"x")
        await subscriber.receive(1)
        old.broker._watches.pop(TOPIC)()
        await new.take()

        error = await subscriber.acknowledge(position_of(subscriber.deliveries[0]))

        assert error is not None
        await until(lambda: bool(subscriber.ended))
        again = await Subscriber.open(new)
        assert await again.receive(1) == [b"x"]


async def test_cumulative_acknowledgement_covers_everything_before() -> None:
    async with world() as made:
        node = await made.broker("b1")
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        for number in range(3):
            await publisher.publish(b"%da" % number, b"%db" % number)
        await subscriber.receive(6)

        last = position_of(subscriber.deliveries[2], 0)
        assert await subscriber.acknowledge(cumulative=last) is None
        subscriber.session.close()
        again = await Subscriber.open(node)

        assert await again.receive(1) == [b"2b"]
        topic = await node.topic()
        assert topic.state.subscriptions["s"].durable_floor == 5


async def test_positions_of_an_earlier_session_can_be_acknowledged() -> None:
    async with world() as made:
        node = await made.broker("b1")
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        for number in range(3):
            await publisher.publish(b"%d" % number)
        await subscriber.receive(3)
        await made.kill(node)
        successor = await made.broker("b2")
        again = await Subscriber.open(successor, permits=0)

        assert await again.acknowledge(*map(position_of, subscriber.deliveries[:2])) is None

        again.session.add_permits(10)
        assert await again.receive(1) == [b"2"]


async def test_no_client_reaches_another_topics_ledger() -> None:
    async with world() as made:
        node = await made.broker()
        secret = await Publisher.open(node, topic="secret")
        receipt = await secret.publish(b"secret")
        subscriber = await Subscriber.open(node)
        await (await Publisher.open(node)).publish(b"x")
        await subscriber.receive(1)
        foreign = MessagePosition(receipt.ledger_id, receipt.entry_id)
        ahead = MessagePosition(receipt.ledger_id + 1_000, 0)

        for named in (foreign, ahead):
            if named.ledger_id > subscriber.deliveries[0].ledger_id:
                assert isinstance(await subscriber.acknowledge(named), InvalidArgument)
                with pytest.raises(InvalidArgument):
                    await subscriber.session.seek(named)
                with pytest.raises(InvalidArgument):
                    await Subscriber.open(node, "", start=named, start_inclusive=True)
        reader = await Subscriber.open(node, "", start=foreign, start_inclusive=True)
        await settle()
        assert b"secret" not in reader.payloads


async def test_an_exclusive_subscription_has_one_consumer() -> None:
    async with world() as made:
        node = await made.broker()
        first = await Subscriber.open(node)
        with pytest.raises(ConsumerBusy):
            await Subscriber.open(node)
        with pytest.raises(ConsumerBusy):
            await Subscriber.open(node, shared=True)

        first.session.close()

        await Subscriber.open(node, shared=True)


async def test_unacknowledged_messages_come_again_in_order_after_a_disconnect() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        for number in range(5):
            await publisher.publish(b"%d" % number)
        await subscriber.receive(5)
        await subscriber.acknowledge(position_of(subscriber.deliveries[2]))
        subscriber.session.close()
        await publisher.publish(b"5")

        again = await Subscriber.open(node)

        assert await again.receive(5) == [b"0", b"1", b"3", b"4", b"5"]
        assert [one.redelivery_count for one in again.deliveries] == [1, 1, 1, 1, 0]


async def test_an_exclusive_consumer_that_outran_the_tracking_starts_over() -> None:
    async with world() as made:
        node = await made.broker(
            policies=TopicPolicies(max_unacked_messages_per_consumer=-1),
            limits=BrokerLimits(in_flight_entries=3),
        )
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        for number in range(8):
            await publisher.publish(b"%d" % number)
        await subscriber.receive(8)
        await subscriber.acknowledge(position_of(subscriber.deliveries[1]))
        subscriber.session.redeliver([position_of(subscriber.deliveries[0])])
        await subscriber.receive(9)
        assert subscriber.payloads[-1] == b"0"
        subscriber.session.close()

        again = await Subscriber.open(node)

        assert await again.receive(7) == [b"0", b"2", b"3", b"4", b"5", b"6", b"7"]


async def test_a_shared_subscription_goes_round_and_waits_at_its_limit() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(in_flight_entries=6))
        one = await Subscriber.open(node, shared=True)
        two = await Subscriber.open(node, shared=True)
        publisher = await Publisher.open(node)
        for number in range(10):
            await publisher.publish(b"%d" % number)
        await settle()
        assert len(one.payloads) == len(two.payloads) == 3

        await one.acknowledge(*map(position_of, one.deliveries))
        await until(lambda: len(one.payloads + two.payloads) == 9)

        two.session.close()
        await until(lambda: set(one.payloads) >= {b"%d" % number for number in range(9)})
        counts = {payloads_of(d)[0]: d.redelivery_count for d in one.deliveries}
        assert sum(counts.values()) == len(set(two.payloads))


async def test_negative_acknowledgements_count_for_each_message() -> None:
    async with world() as made:
        node = await made.broker("b1")
        subscriber = await Subscriber.open(node, shared=True)
        await (await Publisher.open(node)).publish(b"a", b"b", b"c")
        await subscriber.receive(3)

        subscriber.session.redeliver([position_of(subscriber.deliveries[0], 1)])
        await until(lambda: len(subscriber.deliveries) == 2)
        subscriber.session.redeliver([position_of(subscriber.deliveries[0], 1)])
        await until(lambda: len(subscriber.deliveries) == 3)

        assert [payloads_of(one) for one in subscriber.deliveries[1:]] == [[b"b"], [b"b"]]
        assert [one.redelivery_count for one in subscriber.deliveries] == [0, 1, 2]
        await settle()
        await made.kill(node)
        successor = await made.broker("b2")
        again = await Subscriber.open(successor, shared=True)
        await again.receive(3)
        counts = {p: one.redelivery_count for one in again.deliveries for p in payloads_of(one)}
        assert counts == {b"a": 0, b"b": 2, b"c": 0}


async def test_catch_up_reads_ranges_when_the_tail_cache_has_nothing() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(tail_cache_bytes=0, read_ahead_bytes=5_000))
        publisher = await Publisher.open(node)
        topic = await node.topic()
        for number in range(40):
            await publisher.publish(b"%d" % number + b"x" * 500)
            if number % 13 == 0:
                await topic.log.log.roll()
        subscriber = await Subscriber.open(node, initial_position=EARLIEST)

        await subscriber.receive(40)

        assert [int(one.split(b"x")[0]) for one in subscriber.payloads] == list(range(40))
        assert len(made.ground.bookies.reads) < 40
        subscriber.session.close()
        again = await Subscriber.open(node)
        await again.receive(40)
        assert again.payloads == subscriber.payloads


async def test_dispatch_waits_for_a_slow_stream() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(consumer_backlog_bytes=1_000))
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        subscriber.backlog_bytes = 2_000
        await publisher.publish(b"x")
        await settle()
        assert subscriber.payloads == []

        subscriber.backlog_bytes = 0
        subscriber.session.resume()

        assert await subscriber.receive(1) == [b"x"]


async def test_seek_by_id_time_and_end() -> None:
    async with world() as made:
        node = await made.broker("b1")
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        for number in range(6):
            await publisher.publish(b"%da" % number, b"%db" % number)
            node.clock.wall_offset_ms += 1_000
        await subscriber.receive(12)
        topic = await node.topic()
        times = [await topic.log.entry_at(one.ledger_id, one.entry_id)
                 for one in subscriber.deliveries]
        await subscriber.acknowledge(cumulative=position_of(subscriber.deliveries[5]))

        epoch = await subscriber.session.seek(position_of(subscriber.deliveries[4], 1))
        await subscriber.receive(15)
        assert epoch == 1 and {one.epoch for one in subscriber.deliveries[6:]} == {1}
        assert subscriber.payloads[12:] == [b"4b", b"5a", b"5b"]
        await subscriber.session.seek(publish_time_ms=times[3].append_time_ms)
        await subscriber.receive(21)
        assert subscriber.payloads[15:17] == [b"3a", b"3b"]
        await subscriber.session.seek(initial_position=InitialPosition.LATEST)
        await subscriber.session.seek(initial_position=EARLIEST)
        await until(lambda: len(subscriber.payloads) >= 33)
        assert subscriber.payloads[-12] == b"0a"

        await made.kill(node)
        successor = await made.broker("b2")
        again = await Subscriber.open(successor)
        assert (await again.receive(12))[0] == b"0a"


async def test_readers_start_where_they_are_told_and_leave_nothing_behind() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        receipts = [await publisher.publish(b"%da" % n, b"%db" % n) for n in range(3)]
        middle = MessagePosition(receipts[1].ledger_id, receipts[1].entry_id, 0)

        after = await Subscriber.open(node, "", start=middle)
        including = await Subscriber.open(node, "", start=middle, start_inclusive=True)
        everything = await Subscriber.open(node, "", initial_position=EARLIEST)

        assert await after.receive(3) == [b"1b", b"2a", b"2b"]
        assert (await including.receive(4))[0] == b"1a"
        assert len(await everything.receive(6)) == 6
        last = await after.session.last_message()
        assert last == MessagePosition(receipts[2].ledger_id, receipts[2].entry_id, 1)
        for one in (after, including, everything):
            one.session.close()
        assert (await node.topic()).subscriptions() == []


async def test_an_empty_topic_has_no_last_message() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node)

        assert await subscriber.session.last_message() is None


async def test_unsubscribing_forgets_the_cursor_for_good() -> None:
    async with world() as made:
        node = await made.broker("b1")
        publisher = await Publisher.open(node)
        subscriber = await Subscriber.open(node)
        await publisher.publish(b"old")
        await subscriber.receive(1)

        await subscriber.session.unsubscribe()
        subscriber.session.close()
        await made.kill(node)
        successor = await made.broker("b2")
        again = await Subscriber.open(successor)
        await (await Publisher.open(successor)).publish(b"new")

        assert await again.receive(1) == [b"new"]


async def test_subscriptions_that_are_not_durable_end_with_their_last_consumer() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, durable=False)
        await (await Publisher.open(node)).publish(b"x")
        await subscriber.receive(1)
        assert await subscriber.acknowledge(position_of(subscriber.deliveries[0])) is None

        subscriber.session.close()

        assert (await node.topic()).subscriptions() == []


async def test_thousands_of_holes_survive_compaction_and_a_new_owner() -> None:
    async with world() as made:
        limits = BrokerLimits(state_compaction_bytes=100)
        node = await made.broker("b1", limits=limits)
        subscriber = await Subscriber.open(node, permits=100_000)
        publisher = await Publisher.open(node)
        for number in range(5):
            await publisher.publish(*(b"%d" % (number * 2_000 + one) for one in range(2_000)))
        await subscriber.receive(10_000)
        odd = int.from_bytes(b"\xaa" * 250, "little")
        for delivery in subscriber.deliveries:
            await subscriber.acknowledge(position_of(delivery, mask=odd))
        await (await node.topic()).maintain()
        await made.kill(node)
        successor = await made.broker("b2", limits=limits)

        again = await Subscriber.open(successor, permits=100_000)

        await again.receive(5_000)
        assert again.payloads == [b"%d" % number for number in range(0, 10_000, 2)]
        subscription = (await successor.topic()).state.subscriptions["s"]
        assert subscription.backlog_messages == 5_000
