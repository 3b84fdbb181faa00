"""What a new owner of a topic knows of its schedule, and what nobody may do twice."""

from __future__ import annotations

import pytest

from broker.settings import BrokerLimits
from ledger.position import Position
from magnetar.entry import ScheduleMark
from magnetar.errors import SequenceOverlap
from magnetar.ids import EntryId
from tests.broker.schedule.scheduled import (
    HOUR_MS,
    delayed,
    pass_time,
    place_of,
    schedule,
    takeover,
    until_stored,
)
from tests.broker.world import Publisher, settle, until, world


async def test_a_new_owner_fires_what_the_old_one_did_not() -> None:
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        now_ms = first.clock.wall_ms()
        await schedule(publisher, *((b"%d" % n, now_ms + n * 1_000) for n in range(1, 7)))
        await pass_time(first, 3_500)
        await until_stored(first, 3)

        second = await takeover(made, first, "b2")
        waiting = (await second.topic()).schedule.count
        await pass_time(second, HOUR_MS)
        messages = await until_stored(second, 6)

        assert waiting == 3
        assert [one.payload for one in messages] == [b"1", b"2", b"3", b"4", b"5", b"6"]
        assert [one.sequence_id for one in messages] == [0, 1, 2, 3, 4, 5]


async def test_what_fired_is_known_from_the_log_when_the_checkpoint_is_older() -> None:
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        now_ms = first.clock.wall_ms()
        await schedule(publisher, (b"1", now_ms + 1_000), (b"2", now_ms + 2_000))
        await pass_time(first, 1_000)
        await until_stored(first, 1)
        topic = await first.topic()
        await topic.durable_epoch()
        await pass_time(first, 1_000)
        await until_stored(first, 2)

        second = await takeover(made, first, "b2")
        await pass_time(second, HOUR_MS)
        await settle()
        messages = await until_stored(second, 2)

        assert [one.payload for one in messages] == [b"1", b"2"]
        assert (await second.topic()).schedule.count == 0


async def test_what_fired_is_known_from_the_checkpoint_when_the_log_is_emptied() -> None:
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        now_ms = first.clock.wall_ms()
        await schedule(publisher, (b"1", now_ms + 1_000), (b"2", now_ms + HOUR_MS))
        await pass_time(first, 1_000)
        await until_stored(first, 1)
        topic = await first.topic()
        await topic.durable_epoch()
        await topic.log.log.roll()
        await topic.log.log.trim(Position(topic.log.last_position.ledger_id, EntryId(99)))

        second = await takeover(made, first, "b2")
        topic = await second.topic()
        nothing = await topic.log.read_bodies(topic.log.log.first_position, 10, 1 << 20)
        await pass_time(second, HOUR_MS)
        messages = await until_stored(second, 2)

        assert nothing == []
        assert [one.payload for one in messages] == [b"2"]
        assert topic.log.log.record.schedule_ledgers


async def test_an_entry_that_reached_the_log_without_a_word_is_not_fired_again() -> None:
    """The old owner dies between the write of a fired entry and its answer."""
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        now_ms = first.clock.wall_ms()
        await schedule(publisher, (b"1", now_ms + 1_000))
        await publisher.publish(b"0")
        for name in ("k1", "k2", "k3"):
            made.ground.bookies[name].held = True
        await pass_time(first, 1_000)
        await settle()
        for name in ("k1", "k2", "k3"):
            made.ground.bookies[name].waiting.clear()
            made.ground.bookies[name].held = False
        topic = await first.topic()
        assert topic.log.pending_entries == 1

        second = await takeover(made, first, "b2")
        await pass_time(second, HOUR_MS)
        await settle()
        messages = await until_stored(second, 2)

        assert [one.payload for one in messages] == [b"0", b"1"]


async def test_firing_does_not_pass_a_record_whose_write_is_in_flight() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        now_ms = node.clock.wall_ms()
        await schedule(publisher, (b"2", now_ms + 2_000))
        for name in ("k1", "k2", "k3"):
            made.ground.bookies[name].held = True
        publisher.session.publish(delayed(publisher, (b"1", now_ms + 1_000)))
        await pass_time(node, HOUR_MS)
        await settle()
        topic = await node.topic()
        held_back = topic.log.pending_entries, topic.schedule.core.held_back

        for name in ("k1", "k2", "k3"):
            made.ground.bookies[name].release()
        messages = await until_stored(node, 2)

        assert held_back == (0, True)
        assert [one.payload for one in messages] == [b"1", b"2"]


async def test_a_resend_gets_the_scheduled_id_it_got_first() -> None:
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        due_ms = first.clock.wall_ms() + HOUR_MS
        before = await schedule(publisher, (b"a", due_ms), (b"b", due_ms))
        again = await schedule(publisher, (b"a", due_ms), (b"b", due_ms), first=0)
        second = await takeover(made, first, "b2")
        publisher = await Publisher.open(second, "p", epoch=publisher.session.producer_epoch)
        after = await schedule(publisher, (b"a", due_ms), (b"b", due_ms), first=0)

        assert place_of(before) == place_of(again) == place_of(after)
        assert (await second.topic()).schedule.count == 2


async def test_a_resend_is_known_after_the_checkpoint_alone() -> None:
    """The schedule's ledgers may be gone when everything in them has fired."""
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        before = await schedule(publisher, (b"a", 1))
        await until_stored(first, 1)
        topic = await first.topic()
        await topic.durable_epoch()
        await topic.schedule.free()
        freed = topic.log.log.record.schedule_ledgers
        second = await takeover(made, first, "b2")
        publisher = await Publisher.open(second, "p", epoch=publisher.session.producer_epoch)
        after = await schedule(publisher, (b"a", 1), first=0)
        await settle()

        assert freed == ()
        assert place_of(before) == place_of(after)
        assert len(await until_stored(second, 1)) == 1


async def test_a_producer_goes_on_from_the_highest_number_of_both_lanes() -> None:
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        due_ms = first.clock.wall_ms() + HOUR_MS
        await publisher.publish(b"now")
        await schedule(publisher, (b"later", due_ms), (b"later", due_ms))

        second = await takeover(made, first, "b2")
        publisher = await Publisher.open(second, "p")
        one = publisher.session.last_sequence_id
        await publisher.publish(b"now")
        publisher = await Publisher.open(second, "p")

        assert (one, publisher.session.last_sequence_id) == (2, 3)


async def test_what_fired_counts_for_no_producer() -> None:
    """A fired entry has numbers of its own, which are nobody's."""
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        await schedule(publisher, (b"1", 1), (b"2", 1))
        await until_stored(first, 2)

        second = await takeover(made, first, "b2")
        topic = await second.topic()

        assert topic.state.sources.names == ["p"]
        source = topic.state.sources.get("p")
        assert source is not None and source.last_stored == -1


async def test_a_partly_stored_batch_is_told_so() -> None:
    async with world() as made:
        node = await made.broker("b1")
        publisher = await Publisher.open(node, "p")
        due_ms = node.clock.wall_ms() + HOUR_MS
        await schedule(publisher, (b"0", due_ms), (b"1", due_ms))

        receipt = await schedule(publisher, (b"1", due_ms), (b"2", due_ms), first=1)

        assert isinstance(receipt.error, SequenceOverlap)
        assert receipt.error.last_sequence_id == 1


async def test_a_topic_with_a_schedule_is_not_unloaded_and_closes_in_good_order() -> None:
    async with world() as made:
        first = await made.broker("b1", limits=BrokerLimits(idle_unload_s=0.0))
        publisher = await Publisher.open(first, "p")
        await schedule(publisher, (b"1", first.clock.wall_ms() + HOUR_MS))
        publisher.session.close()
        topic = await first.topic()
        used = topic.in_use

        await first.broker.registry.unload(topic)
        again = await first.topic()
        await pass_time(first, HOUR_MS)

        assert used and again is not topic
        assert [one.payload for one in await until_stored(first, 1)] == [b"1"]


async def test_a_failed_append_of_a_fired_entry_closes_the_topic() -> None:
    async with world() as made:
        node = await made.broker("b1")
        publisher = await Publisher.open(node, "p")
        await publisher.publish(b"0")
        await schedule(publisher, (b"1", node.clock.wall_ms() + HOUR_MS))
        topic = await node.topic()
        await made.ground.store.recover(topic.log.last_position.ledger_id)

        await pass_time(node, HOUR_MS)
        await until(lambda: topic.closed)

        assert [one.payload for one in await until_stored(node, 2)] == [b"0", b"1"]


@pytest.mark.parametrize("due_ms", [0, 5])
async def test_the_order_goes_on_across_owners(due_ms: int) -> None:
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        await schedule(publisher, (b"1", 1_000))
        await until_stored(first, 1)
        second = await takeover(made, first, "b2")
        publisher = await Publisher.open(second, "p")
        await schedule(publisher, (b"2", max(due_ms, 1)))
        messages = await until_stored(second, 2)

        assert [one.mark for one in messages] == [ScheduleMark(1_000, 0), ScheduleMark(1_000, 1)]

