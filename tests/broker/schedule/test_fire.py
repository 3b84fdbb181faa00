"""Delayed messages from a producer into the topic's log."""

from __future__ import annotations

from broker.settings import BrokerLimits
from magnetar.entry import Codec, Columns, encode_batch
from magnetar.errors import InvalidArgument, InvalidFrame
from tests.broker.schedule.scheduled import (
    HOUR_MS,
    delayed,
    pass_time,
    place_of,
    schedule,
    stored,
    until_stored,
)
from tests.broker.world import Publisher, Subscriber, settle, until, world

TEN_YEARS_MS = 10 * 365 * 24 * HOUR_MS


async def test_a_delayed_message_reaches_the_log_when_it_is_due_and_not_before() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        due_ms = node.clock.wall_ms() + HOUR_MS

        receipt = await schedule(publisher, (b"later", due_ms))
        topic = await node.topic()
        waiting = topic.schedule.count, topic.schedule.next_due_ms, await stored(node)
        await pass_time(node, HOUR_MS)
        (message,) = await until_stored(node, 1)

        assert waiting == (1, due_ms, [])
        assert receipt.scheduled and topic.schedule.count == 0
        assert (message.payload, message.producer, message.sequence_id) == (b"later", "p", 0)
        assert message.place == place_of(receipt)
        assert message.append_time_ms >= due_ms


async def test_the_timer_wakes_by_itself() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        due_ms = node.clock.wall_ms() + 30

        await schedule(publisher, (b"soon", due_ms))
        (message,) = await until_stored(node, 1)

        assert due_ms <= message.append_time_ms < due_ms + 2_000


async def test_messages_fire_in_the_order_of_due_time_then_of_arrival() -> None:
    async with world() as made:
        node = await made.broker()
        first, second = await Publisher.open(node, "p"), await Publisher.open(node, "q")
        now_ms = node.clock.wall_ms()

        await schedule(first, (b"d", now_ms + 4_000), (b"a", now_ms + 1_000))
        await schedule(second, (b"b", now_ms + 1_000), (b"c", now_ms + 3_000))
        await schedule(first, (b"e", now_ms + 4_000))
        await pass_time(node, HOUR_MS)
        messages = await until_stored(node, 5)

        assert [one.payload for one in messages] == [b"a", b"b", b"c", b"d", b"e"]
        assert [one.sequence_id for one in messages] == [1, 0, 1, 0, 2]
        assert [one.producer for one in messages] == ["p", "q", "q", "p", "p"]
        assert len({one.mark for one in messages}) == 1


async def test_a_due_time_in_the_past_is_due_now_and_behind_what_fired() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        now_ms = node.clock.wall_ms()

        await schedule(publisher, (b"1", now_ms - 1_000))
        await until_stored(node, 1)
        await schedule(publisher, (b"2", now_ms - HOUR_MS))
        messages = await until_stored(node, 2)

        marks = [one.mark for one in messages]
        assert [one.payload for one in messages] == [b"1", b"2"]
        assert marks[0] is not None and marks[1] is not None and marks[0] < marks[1]
        assert marks[1].due_ms == now_ms - 1_000


async def test_all_messages_of_one_time_fire_in_entries_of_bounded_size() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        due_ms = node.clock.wall_ms() + HOUR_MS

        for batch in range(5):
            payloads = [(b"%d" % (batch * 300 + n), due_ms) for n in range(300)]
            await schedule(publisher, *payloads)
        await pass_time(node, HOUR_MS)
        messages = await until_stored(node, 1_500)

        assert [int(one.payload) for one in messages] == list(range(1_500))
        limit = node.broker.settings.limits.schedule_entry_messages
        per_entry = [[one.mark for one in messages].count(mark)
                     for mark in {one.mark for one in messages}]
        assert max(per_entry) <= limit


async def test_what_becomes_due_within_the_pause_behind_an_entry_goes_in_one_entry() -> None:
    async with world() as made:
        pause_ms = HOUR_MS
        node = await made.broker(limits=BrokerLimits(schedule_entry_pause_ms=pause_ms))
        publisher = await Publisher.open(node)
        now_ms = node.clock.wall_ms()
        times_ms = [now_ms + minutes * 60_000 for minutes in (1, 2, 3)]
        await schedule(publisher, *((b"%d" % due_ms, due_ms) for due_ms in times_ms))
        await pass_time(node, 60_000)
        await until_stored(node, 1)

        await pass_time(node, 60_000)
        await pass_time(node, 60_000)
        await settle()
        within = len(await stored(node))
        node.clock.ahead_s += pause_ms / 1000
        await pass_time(node, 0)
        messages = await until_stored(node, 3)

        assert within == 1
        assert [one.mark.due_ms for one in messages if one.mark] == [
            times_ms[0], times_ms[2], times_ms[2]]


async def test_what_is_due_already_does_not_wait_for_the_pause() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(schedule_entry_pause_ms=HOUR_MS))
        publisher = await Publisher.open(node)
        due_ms = node.clock.wall_ms() + 60_000
        count = 2 * node.broker.settings.limits.schedule_entry_messages + 1

        await schedule(publisher, *((b"%d" % number, due_ms) for number in range(count)))
        await pass_time(node, 60_000)
        messages = await until_stored(node, count)

        assert [int(one.payload) for one in messages] == list(range(count))


async def test_a_message_ten_years_ahead_waits_for_them() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        due_ms = node.clock.wall_ms() + TEN_YEARS_MS

        await schedule(publisher, (b"far", due_ms), (b"farther", 2**63 - 1))
        await pass_time(node, TEN_YEARS_MS - 10_000)
        await settle()
        before = await stored(node)
        await pass_time(node, 10_000)
        (message,) = await until_stored(node, 1)

        assert before == [] and message.payload == b"far"
        assert (await node.topic()).schedule.count == 1


async def test_a_clock_that_goes_back_fires_nothing_twice_and_nothing_early() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        now_ms = node.clock.wall_ms()
        await schedule(publisher, (b"1", now_ms + HOUR_MS))
        await pass_time(node, HOUR_MS)
        await until_stored(node, 1)

        await pass_time(node, -2 * HOUR_MS)
        await schedule(publisher, (b"2", now_ms - HOUR_MS))
        await settle()
        early = await stored(node)
        await pass_time(node, 2 * HOUR_MS)
        messages = await until_stored(node, 2)

        assert [one.payload for one in early] == [b"1"]
        assert [one.payload for one in messages] == [b"1", b"2"]


async def test_a_batch_is_wholly_delayed_or_wholly_immediate() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)

        receipt = await schedule(publisher, (b"later", node.clock.wall_ms() + HOUR_MS), (b"now", 0))

        assert isinstance(receipt.error, InvalidArgument) and "wholly" in str(receipt.error)
        assert (await node.topic()).schedule.count == 0


async def test_a_batch_that_could_not_be_read_when_due_is_refused_at_once() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        batch = bytearray(encode_batch(
            publisher.session.producer_name, 0, [b"payload" * 50], publish_time_ms=1,
            codec=Codec.LZ4, columns=Columns(deliver_at_ms=[node.clock.wall_ms() + HOUR_MS]),
        ))
        batch[-5:] = b"\xff" * 5
        from crc32c import crc32c
        batch[:4] = crc32c(bytes(batch[4:])).to_bytes(4, "little")

        publisher.session.publish(bytes(batch))
        await until(lambda: bool(publisher.receipts))

        assert isinstance(publisher.receipts[0].error, InvalidFrame)


async def test_immediate_messages_pass_the_delayed_ones() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)

        publisher.session.publish(delayed(publisher, (b"later", node.clock.wall_ms() + HOUR_MS)))
        await publisher.publish(b"now")
        await pass_time(node, HOUR_MS)
        messages = await until_stored(node, 2)

        assert [one.payload for one in messages] == [b"now", b"later"]
        assert [one.first_sequence_id for one in publisher.receipts] == [0, 1]


async def test_consumers_of_every_kind_get_fired_messages() -> None:
    async with world() as made:
        node = await made.broker()
        exclusive = await Subscriber.open(node, "exclusive")
        shared = await Subscriber.open(node, "shared", shared=True)
        publisher = await Publisher.open(node)
        now_ms = node.clock.wall_ms()

        await schedule(publisher, (b"2", now_ms + 2_000), (b"1", now_ms + 1_000))
        await pass_time(node, HOUR_MS)

        assert await exclusive.receive(2) == [b"1", b"2"]
        assert await shared.receive(2) == [b"1", b"2"]
