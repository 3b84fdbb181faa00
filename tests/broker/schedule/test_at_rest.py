"""Of a schedule in which nothing waits any more nothing is left on the bookies."""

from __future__ import annotations

import asyncio

from broker.settings import BrokerLimits
from broker.topic import Topic
from magnetar.entry import SchedulePlace
from metadata.topics import TopicRecord
from tests.broker.schedule.scheduled import (
    HOUR_MS,
    delayed,
    pass_time,
    place_of,
    schedule,
    takeover,
    until_stored,
)
from tests.broker.world import Node, Publisher, settle, until, world

BOOKIES = ("k1", "k2", "k3")


async def flushed(topic: Topic) -> None:
    """What waits in memory is in a run."""
    topic.schedule.reduce()
    await until(lambda: not topic.schedule.is_reducing)


async def one_run(node: Node, publisher: Publisher, count: int) -> list[SchedulePlace]:
    """Of `count` messages that are due in an hour."""
    due_ms = node.clock.wall_ms() + HOUR_MS
    receipt = await schedule(publisher, *((b"%d" % n, due_ms + n) for n in range(count)))
    await flushed(await node.topic())
    return [place_of(receipt, n) for n in range(count)]


async def maintained(topic: Topic) -> TopicRecord:
    """The topic's record after some rounds of maintenance."""
    for _ in range(4):
        await topic.durable_epoch()
        await topic.maintain()
        await until(lambda: not topic.schedule.is_reducing)
    return topic.log.log.record


async def test_runs_that_name_the_same_messages_do_not_keep_each_other() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        topic = await node.topic()
        places = await one_run(node, publisher, 4)
        for some in (places[::2], places[1::2]):
            await topic.schedule.cancel(some)
            await flushed(topic)
        await schedule(publisher, (b"last", node.clock.wall_ms() + 2 * HOUR_MS))
        await pass_time(node, 3 * HOUR_MS)
        await until_stored(node, 1)

        record = await maintained(topic)

        assert record.schedule_runs == () and record.schedule_ledgers == ()


async def test_a_run_of_cancelled_messages_is_dropped_though_nothing_fires_behind_it() -> None:
    async with world() as made:
        node = await made.broker()
        topic = await node.topic()
        places = await one_run(node, await Publisher.open(node, "p"), 2)
        await topic.schedule.cancel(places)
        await flushed(topic)
        before = await maintained(topic)
        await pass_time(node, 2 * HOUR_MS)

        record = await maintained(topic)

        assert len(before.schedule_runs) == 2 and before.schedule_ledgers == ()
        assert record.schedule_runs == () and topic.schedule.count == 0


async def test_a_cancellation_that_no_run_knows_is_let_go_when_its_time_has_passed() -> None:
    async with world() as made:
        node = await made.broker()
        topic = await node.topic()
        places = await one_run(node, await Publisher.open(node, "p"), 2)
        await topic.schedule.cancel(places)
        await pass_time(node, 2 * HOUR_MS)

        record = await maintained(topic)

        assert record.schedule_runs == () and record.schedule_ledgers == ()
        assert topic.schedule.memory_bytes == 0


async def test_a_run_stays_while_only_records_say_that_what_is_in_it_was_cancelled() -> None:
    """A new owner reads those records, and would count what it does not find as gone twice."""
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        topic = await first.topic()
        places = await one_run(first, publisher, 2)
        await schedule(publisher, (b"far", first.clock.wall_ms() + 9 * HOUR_MS))
        await topic.schedule.cancel(places)
        await pass_time(first, 2 * HOUR_MS)
        await settle()
        await maintained(topic)

        second = await takeover(made, first, "b2")
        topic = await second.topic()
        count = topic.schedule.count
        await pass_time(second, 9 * HOUR_MS)
        await until_stored(second, 1)
        record = await maintained(topic)

        assert count == 1 and topic.schedule.count == 0
        assert record.schedule_runs == () and record.schedule_ledgers == ()


async def test_a_ledger_that_nothing_came_into_goes_with_the_next_owner() -> None:
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        topic = await first.topic()
        for name in BOOKIES:
            made.ground.bookies[name].held = True
        publisher.session.publish(delayed(publisher, (b"1", first.clock.wall_ms() + HOUR_MS)))
        await until(lambda: bool(topic.log.log.record.schedule_ledgers))
        await settle()
        for name in BOOKIES:
            made.ground.bookies[name].waiting.clear()
            made.ground.bookies[name].held = False

        second = await takeover(made, first, "b2")
        record = await maintained(await second.topic())

        assert not record.has_schedule


async def test_a_run_is_not_dropped_while_it_is_merged() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(schedule_runs=1, schedule_runs_merged=2))
        publisher = await Publisher.open(node, "p")
        topic = await node.topic()
        for _ in range(2):
            await one_run(node, publisher, 2)
        await topic.log.log.schedule.roll()
        bookies = [made.ground.bookies[name] for name in BOOKIES]
        for bookie in bookies:
            bookie.held = True
        maintaining = asyncio.ensure_future(topic.schedule.maintain())
        await settle()
        late = [answer for bookie in bookies for answer in bookie.waiting]
        for bookie in bookies:
            bookie.waiting.clear()
            bookie.release()
        await maintaining
        await pass_time(node, 2 * HOUR_MS)
        await until_stored(node, 4)
        await maintained(topic)
        for answer in late:
            answer()
        await settle()

        record = await maintained(topic)

        assert late and topic.schedule.blocked_reason is None
        assert record.schedule_runs == () and record.schedule_ledgers == ()
