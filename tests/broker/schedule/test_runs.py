"""A schedule larger than memory: runs on the bookies, merged and dropped, and everything as
before."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from broker.administration.stats import topic_stats
from broker.schedule import core
from broker.schedule.interface import ScheduleAnswer
from broker.schedule.pending_batch import PendingBatch
from broker.schedule.runs.blocks import MarkBlock
from broker.schedule.runs.reader import RunReader
from broker.schedule.runs.run import Run
from broker.settings import BrokerLimits
from broker.topic import Topic
from ledger.schedule_runs import UNFINISHED
from magnetar.entry import EntryView, SchedulePlace
from tests.broker.schedule.scheduled import (
    HOUR_MS,
    delayed,
    pass_time,
    place_of,
    schedule,
    stored,
    takeover,
    until_stored,
)
from tests.broker.world import Node, Publisher, World, settle, until, world

BOOKIES = ("k1", "k2", "k3")
Result = TypeVar("Result")
SMALL = BrokerLimits(schedule_memory_bytes=30_000)


async def fill(node: Node, count: int, step_ms: int = 1_000) -> list[SchedulePlace]:
    """`count` messages named after their order of delivery, in batches of 20 in another order,
    due from an hour ahead on."""
    publisher = await Publisher.open(node, "p")
    start_ms = node.clock.wall_ms() + HOUR_MS
    places: dict[int, SchedulePlace] = {}
    for first in range(0, count, 20):
        numbers = [(first + n * 13) * 7919 % count for n in range(20)]
        receipt = await schedule(
            publisher, *((b"%d" % number, start_ms + number * step_ms) for number in numbers)
        )
        places.update((number, place_of(receipt, n)) for n, number in enumerate(numbers))
    assert len(places) == count
    return [places[number] for number in range(count)]


async def flushed(topic: Topic) -> None:
    """What waits in memory is in a run."""
    topic.schedule.reduce()
    await until(lambda: not topic.schedule.is_reducing)


async def overtaken_by_a_flush(
    made: World, topic: Topic, asked: Coroutine[Any, Any, Result]
) -> Result:
    """The answer to what is asked while memory goes to a run: it reads runs before that, and
    learns what is in them after."""
    bookies = [made.ground.bookies[name] for name in BOOKIES]
    for bookie in bookies:
        bookie.held = True
    asking = asyncio.ensure_future(asked)
    await settle()
    late = [answer for bookie in bookies for answer in bookie.waiting]
    for bookie in bookies:
        bookie.waiting.clear()
        bookie.release()
    await flushed(topic)
    assert late and not asking.done()
    for answer in late:
        answer()
    return await asking


async def numbers_stored(node: Node, count: int) -> list[int]:
    return [int(one.payload) for one in await until_stored(node, count)]


async def test_what_is_above_the_limit_leaves_memory_and_fires_all_the_same() -> None:
    async with world() as made:
        node = await made.broker(limits=SMALL)
        await fill(node, 1_000)
        topic = await node.topic()
        await until(lambda: not topic.schedule.is_reducing)
        waiting = topic.schedule.count, topic.schedule.memory_bytes
        runs = len(topic.schedule.core.runs)

        await pass_time(node, 2 * HOUR_MS)

        assert await numbers_stored(node, 1_000) == list(range(1_000))
        assert waiting[0] == 1_000 and waiting[1] <= SMALL.schedule_memory_bytes
        assert runs >= 2 and topic.schedule.count == 0


async def test_a_new_owner_reads_the_runs() -> None:
    async with world() as made:
        first = await made.broker("b1", limits=SMALL)
        await fill(first, 600, step_ms=60_000)
        await pass_time(first, HOUR_MS + 100 * 60_000)
        await until_stored(first, 101)
        second = await takeover(made, first, "b2")
        count = (await second.topic()).schedule.count

        await pass_time(second, 10 * HOUR_MS)

        assert count == 499
        assert await numbers_stored(second, 600) == list(range(600))


async def test_a_run_that_was_not_finished_is_thrown_away() -> None:
    async with world() as made:
        first = await made.broker("b1")
        await fill(first, 100)
        topic = await first.topic()
        for name in BOOKIES:
            made.ground.bookies[name].held = True
        topic.schedule.reduce()
        await until(lambda: any(
            run.entries == UNFINISHED for run in topic.log.log.record.schedule_runs
        ))
        unfinished = topic.log.log.record.schedule_runs[0].ledger_id
        for name in BOOKIES:
            made.ground.bookies[name].waiting.clear()
            made.ground.bookies[name].held = False

        second = await takeover(made, first, "b2")
        record = (await second.topic()).log.log.record
        await pass_time(second, 2 * HOUR_MS)

        assert record.schedule_runs == ()
        assert not await made.ground.store.exists(unfinished)
        assert await numbers_stored(second, 100) == list(range(100))


async def test_a_run_is_written_again_when_its_bookies_fail() -> None:
    async with world() as made:
        node = await made.broker()
        await fill(node, 100)
        topic = await node.topic()
        for name in BOOKIES[:2]:
            made.ground.bookies[name].down = True
        topic.schedule.reduce()
        await settle()
        for name in BOOKIES[:2]:
            made.ground.bookies[name].down = False
        await until(lambda: not topic.schedule.is_reducing)
        await pass_time(node, 2 * HOUR_MS)

        assert len(topic.log.log.record.schedule_runs) == 1
        assert await numbers_stored(node, 100) == list(range(100))


async def test_what_is_in_runs_is_cancelled_moved_and_listed() -> None:
    async with world() as made:
        node = await made.broker(limits=SMALL)
        places = await fill(node, 400)
        topic = await node.topic()
        await flushed(topic)
        start_ms = node.clock.wall_ms() + HOUR_MS

        answers = await topic.schedule.cancel([places[n] for n in range(0, 400, 4)])
        moved = await topic.schedule.move(places[1], start_ms + HOUR_MS)
        back = await topic.schedule.move(places[399], start_ms - 60_000)
        listed = []
        page = await topic.schedule.list(limit=70)
        while True:
            listed += page.messages
            if not page.cursor:
                break
            page = await topic.schedule.list(limit=70, cursor=page.cursor)
        again = await topic.schedule.cancel([places[0], places[1], places[2]])
        await pass_time(node, 3 * HOUR_MS)
        fired = await numbers_stored(node, 298)

        expected = [399, *(n for n in range(2, 399) if n % 4)]
        assert set(answers) == {ScheduleAnswer.CANCELLED}
        assert (moved, back) == (ScheduleAnswer.MOVED, ScheduleAnswer.MOVED)
        assert [one.place for one in listed] == [*(places[n] for n in expected), places[1]]
        assert again == [ScheduleAnswer.CANCELLED] * 3
        assert fired == [n for n in expected if n != 2]
        assert topic.schedule.count == 0


async def test_answers_stay_exact_when_memory_was_flushed_and_the_owner_changed() -> None:
    async with world() as made:
        first = await made.broker("b1")
        places = await fill(first, 60)
        topic = await first.topic()
        await topic.schedule.cancel([places[0]])
        await flushed(topic)
        await topic.schedule.cancel([places[1]])
        await topic.schedule.move(places[2], first.clock.wall_ms() + 3 * HOUR_MS)
        await flushed(topic)
        await topic.schedule.cancel([places[3]])
        await pass_time(first, HOUR_MS + 10_500)
        await until_stored(first, 7)

        second = await takeover(made, first, "b2")
        topic = await second.topic()
        answers = await topic.schedule.cancel([
            *places[:6], places[0]._replace(batch_index=99), places[0]._replace(ledger_id=999),
        ])

        cancelled, delivered = ScheduleAnswer.CANCELLED, ScheduleAnswer.DELIVERED
        assert answers == [
            cancelled, cancelled, cancelled, cancelled, delivered, delivered,
            ScheduleAnswer.UNKNOWN, ScheduleAnswer.UNKNOWN,
        ]
        assert topic.schedule.count == 49


async def test_what_a_run_takes_over_while_another_is_looked_for_is_still_found() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        due_ms = node.clock.wall_ms() + HOUR_MS
        in_run = place_of(await schedule(publisher, (b"1", due_ms)))
        topic = await node.topic()
        await flushed(topic)
        in_memory = place_of(await schedule(publisher, (b"2", due_ms)))
        cancelled = await overtaken_by_a_flush(
            made, topic, topic.schedule.cancel([in_memory, in_run]))

        assert cancelled == [ScheduleAnswer.CANCELLED, ScheduleAnswer.CANCELLED]
        assert topic.schedule.count == 0


async def test_what_is_cancelled_is_not_listed_though_a_run_takes_that_over_meanwhile() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        due_ms = node.clock.wall_ms() + HOUR_MS
        place = place_of(await schedule(publisher, (b"1", due_ms)))
        topic = await node.topic()
        await flushed(topic)
        await topic.schedule.cancel([place])
        listed = await overtaken_by_a_flush(made, topic, topic.schedule.list())

        assert listed.messages == ()


async def test_runs_are_merged_and_spent_ones_dropped() -> None:
    async with world() as made:
        node = await made.broker(
            limits=BrokerLimits(schedule_runs=3, schedule_runs_merged=4)
        )
        places: list[SchedulePlace] = []
        topic = await node.topic()
        publisher = await Publisher.open(node, "p")
        start_ms = node.clock.wall_ms() + HOUR_MS
        for part in range(5):
            receipt = await schedule(publisher, *(
                (b"%d" % (n * 5 + part), start_ms + n * 5 + part) for n in range(20)
            ))
            places += [place_of(receipt, n) for n in range(20)]
            await flushed(topic)
        await topic.schedule.cancel(places[::10])
        await flushed(topic)
        before = set(topic.log.log.record.schedule_runs)

        await topic.maintain()
        await until(lambda: len(topic.schedule.core.runs) == 3)
        merged = set(topic.log.log.record.schedule_runs)
        second = await takeover(made, node, "b2")
        topic = await second.topic()
        count = topic.schedule.count
        await pass_time(second, HOUR_MS + 1_000)
        fired = await numbers_stored(second, 90)
        await topic.durable_epoch()
        await topic.maintain()
        await topic.maintain()

        gone = {int(b) for b in (n * 5 + part for part in range(5) for n in (0, 10))}
        assert len(before) == 6 and len(before & merged) == 2
        assert count == 90 and fired == [n for n in range(100) if n not in gone]
        record = topic.log.log.record
        assert record.schedule_runs == () and record.schedule_ledgers == ()
        for run in before | merged:
            assert not await made.ground.store.exists(run.ledger_id)


async def test_one_far_message_does_not_keep_what_came_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ledger.schedule_log.MAX_LEDGER_BYTES", 5_000)
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(schedule_ledger_bytes=10_000))
        publisher = await Publisher.open(node, "p")
        far = await schedule(publisher, (b"far", node.clock.wall_ms() + 1_000 * HOUR_MS))
        for _ in range(20):
            await schedule(publisher, *((b"x" * 50, 1) for _ in range(20)))
        topic = await node.topic()
        await until_stored(node, 400)
        before = topic.log.log.schedule.size_bytes
        await topic.durable_epoch()
        await topic.maintain()
        await until(lambda: not topic.schedule.is_reducing)
        await topic.durable_epoch()
        await topic.maintain()

        assert before > 20_000 and topic.log.log.schedule.size_bytes < 5_000
        (run,) = topic.log.log.record.schedule_runs
        assert run.size_bytes < 1_000
        assert await topic.schedule.cancel([place_of(far)]) == [ScheduleAnswer.CANCELLED]
        assert topic.schedule.count == 0


async def test_nothing_is_freed_while_what_fired_is_not_durable() -> None:
    """What left the schedule's memory and has not reached the log is only in the ledgers."""
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        await schedule(publisher, (b"1", first.clock.wall_ms() + HOUR_MS))
        topic = await first.topic()
        await topic.durable_epoch()
        await topic.log.log.schedule.roll()
        for name in BOOKIES:
            made.ground.bookies[name].held = True
        await pass_time(first, HOUR_MS)
        freeing = asyncio.ensure_future(topic.schedule.free())
        await settle()
        kept = topic.log.log.record.schedule_ledgers
        freeing.cancel()
        for name in BOOKIES:
            made.ground.bookies[name].waiting.clear()
            made.ground.bookies[name].held = False
            made.ground.bookies[name].ledgers = {
                ledger_id: ledger for ledger_id, ledger
                in made.ground.bookies[name].ledgers.items() if ledger_id in kept
            }

        second = await takeover(made, first, "b2")
        await pass_time(second, HOUR_MS)

        assert len(kept) == 1
        assert [one.payload for one in await until_stored(second, 1)] == [b"1"]


async def reasons(topic: Topic) -> dict[str, str]:
    """What the topic's stats say is in the way."""
    return {one.reason: one.text for one in (await topic_stats(topic, "b1", 0.0)).blocked}


async def test_a_run_that_cannot_be_read_is_told_of() -> None:
    async with world() as made:
        node = await made.broker(limits=SMALL)
        await fill(node, 100)
        topic = await node.topic()
        await flushed(topic)
        (run,) = topic.schedule.core.runs
        before = await reasons(topic)
        for name in BOOKIES:
            made.ground.bookies[name].down = True
        await pass_time(node, 2 * HOUR_MS)
        await until(lambda: topic.schedule.blocked_reason is not None)
        blocked = await reasons(topic)
        for name in BOOKIES:
            made.ground.bookies[name].down = False
        stored_numbers = await numbers_stored(node, 100)

        assert before == {} and stored_numbers == list(range(100))
        assert f"run {run} cannot be read" in blocked["schedule"]
        assert await reasons(topic) == {}


async def test_producers_wait_while_memory_is_full(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(schedule_memory_bytes=3_000))
        publisher = await Publisher.open(node, "p")
        due_ms = node.clock.wall_ms() + HOUR_MS
        topic = await node.topic()
        for name in BOOKIES:
            made.ground.bookies[name].held = True
        for _ in range(10):
            publisher.session.publish(delayed(publisher, (b"x" * 500, due_ms)))
        for name in BOOKIES:
            made.ground.bookies[name].release()
            made.ground.bookies[name].held = False
        await until(lambda: len(publisher.receipts) == 10)
        congested = publisher.session.congested
        told, held_topics = await reasons(topic), node.broker.schedules.held_topics
        await publisher.session.ready()

        assert congested and not publisher.session.congested
        assert "wait in the memory" in told["congested"]
        assert held_topics == 1 and node.broker.schedules.held_topics == 0
        assert sum("delayed messages are held back" in text for text in caplog.messages) == 1
        assert await reasons(topic) == {}
        assert topic.schedule.count == 10


@pytest.mark.parametrize("seed", range(3))
async def test_owners_change_while_everything_happens(seed: int) -> None:
    """Every message once in the log, in order, whatever is flushed, merged and cut off."""
    async with world() as made:
        node = await made.broker("b1", limits=SMALL)
        publisher = await Publisher.open(node, "p")
        start_ms = node.clock.wall_ms()
        due: dict[bytes, int] = {}
        for step in range(60):
            payloads = [
                (b"%d.%d" % (step, n), node.clock.wall_ms() + (n * 7919 + step * 104729) % 9_000)
                for n in range(20)
            ]
            receipt = await schedule(publisher, *payloads)
            due.update(payloads)
            assert receipt.error is None
            await pass_time(node, 150)
            if step % 13 == 12 + seed % 2 - 1:
                (await node.topic()).schedule.reduce()
                for _ in range(step % 7 * (seed + 1)):
                    await asyncio.sleep(0)
                node = await takeover(made, node, f"b{step + 2}")
                publisher = await Publisher.open(node, "p")
        await pass_time(node, 10_000)
        messages = await until_stored(node, len(due))

        assert len({one.payload for one in messages}) == len(messages) == len(due)
        for message in messages:
            assert message.append_time_ms >= due[message.payload] >= start_ms
        marks = [one.mark for one in messages]
        assert marks == sorted(marks)  # type: ignore[type-var]
        assert (await node.topic()).schedule.count == 0
        assert await stored(node) == messages


def batches_alive() -> int:
    gc.collect()
    return sum(isinstance(one, PendingBatch) for one in gc.get_objects())


async def test_what_is_in_a_run_is_not_in_memory_any_more() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits())
        before = batches_alive()
        await fill(node, 400)
        assert batches_alive() == before + 20

        await flushed(await node.topic())

        assert batches_alive() == before


async def test_what_was_cancelled_is_not_in_memory_until_it_would_be_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core, "SWEEP_AT", 4)
    async with world() as made:
        node = await made.broker(limits=BrokerLimits())
        before = batches_alive()
        places = await fill(node, 400)

        await (await node.topic()).schedule.cancel(places)

        assert batches_alive() <= before + 4


async def test_a_list_holds_one_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages may be large, and a page have thousands of them."""
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        due_ms = node.clock.wall_ms() + HOUR_MS
        for number in range(10):
            await schedule(publisher, (b"x" * 70_000, due_ms + number))
        topic = await node.topic()
        await flushed(topic)
        read, alive = RunReader.messages, []

        def large_entries() -> int:
            gc.collect()
            return sum(
                isinstance(one, EntryView) and one.header.uncompressed_bytes == 70_000
                for one in gc.get_objects()
            )

        async def counted(reader: RunReader, run: Run, number: int) -> MarkBlock:
            alive.append(large_entries() - before)
            return await read(reader, run, number)

        before = large_entries()
        monkeypatch.setattr(RunReader, "messages", counted)
        page = await topic.schedule.list(limit=10)

        assert [one.size_bytes for one in page.messages] == [70_000] * 10
        assert len(alive) == 10 and max(alive) <= 1
