"""Cancelling, moving, listing and counting what waits: exact answers."""

from __future__ import annotations

import asyncio

import pytest

from broker.schedule.interface import ScheduleAnswer
from magnetar.entry import SchedulePlace
from magnetar.errors import InvalidArgument, NotOwner
from tests.broker.schedule.scheduled import (
    HOUR_MS,
    pass_time,
    place_of,
    schedule,
    stored,
    takeover,
    until_stored,
)
from tests.broker.world import Node, Publisher, World, settle, until, world

CANCELLED, MOVED = ScheduleAnswer.CANCELLED, ScheduleAnswer.MOVED
DELIVERED, UNKNOWN = ScheduleAnswer.DELIVERED, ScheduleAnswer.UNKNOWN
BOOKIES = ("k1", "k2", "k3")


def hold(made: World) -> None:
    for name in BOOKIES:
        made.ground.bookies[name].held = True


def release(made: World) -> None:
    for name in BOOKIES:
        made.ground.bookies[name].release()


async def three(node: Node) -> tuple[SchedulePlace, SchedulePlace, SchedulePlace]:
    """Messages 1, 2 and 3, due so many hours ahead."""
    publisher = await Publisher.open(node, "p")
    now_ms = node.clock.wall_ms()
    receipt = await schedule(
        publisher, *((b"%d" % hours, now_ms + hours * HOUR_MS) for hours in (1, 2, 3))
    )
    return place_of(receipt, 0), place_of(receipt, 1), place_of(receipt, 2)


async def test_a_cancelled_message_is_never_delivered() -> None:
    async with world() as made:
        node = await made.broker()
        _, second, _ = await three(node)
        topic = await node.topic()

        answers = await topic.schedule.cancel([second])
        count = topic.schedule.count
        again = await topic.schedule.cancel([second])
        await pass_time(node, 4 * HOUR_MS)
        messages = await until_stored(node, 2)
        after = await topic.schedule.cancel([second])

        assert (answers, again, after, count) == ([CANCELLED], [CANCELLED], [CANCELLED], 2)
        assert [one.payload for one in messages] == [b"1", b"3"]


async def test_what_was_delivered_cannot_be_cancelled() -> None:
    async with world() as made:
        node = await made.broker()
        first, second, third = await three(node)
        topic = await node.topic()
        await pass_time(node, HOUR_MS)
        await until_stored(node, 1)

        some = await topic.schedule.cancel([third, first])
        await pass_time(node, 2 * HOUR_MS)
        await until_stored(node, 2)
        rest = await topic.schedule.cancel([first, second, third])

        assert some == [CANCELLED, DELIVERED]
        assert rest == [DELIVERED, DELIVERED, CANCELLED]


@pytest.mark.parametrize("place", [
    SchedulePlace(99, 0, 0), SchedulePlace(1, 7, 0), SchedulePlace(1, 0, 3),
    SchedulePlace(0, -1, 0), SchedulePlace(2**63, 0, 0), SchedulePlace(1, 0, -1),
])
async def test_an_id_that_never_was_is_unknown(place: SchedulePlace) -> None:
    async with world() as made:
        node = await made.broker()
        first, _, _ = await three(node)
        assert (first.ledger_id, first.entry_id) == (1, 0)
        topic = await node.topic()

        assert await topic.schedule.cancel([place]) == [UNKNOWN]
        assert await topic.schedule.move(place, 5) is UNKNOWN
        assert topic.schedule.count == 3


async def test_a_cancellation_is_answered_when_it_is_durable() -> None:
    async with world() as made:
        node = await made.broker()
        first, _, _ = await three(node)
        topic = await node.topic()
        hold(made)
        cancelling = asyncio.ensure_future(topic.schedule.cancel([first]))
        again = asyncio.ensure_future(topic.schedule.cancel([first]))
        await settle()
        await pass_time(node, 4 * HOUR_MS)
        await settle()
        before = cancelling.done(), again.done(), await stored(node)

        release(made)
        answers = await cancelling, await again
        messages = await until_stored(node, 2)

        assert before == (False, False, [])
        assert answers == ([CANCELLED], [CANCELLED])
        assert [one.payload for one in messages] == [b"2", b"3"]


async def test_delivered_is_answered_when_the_log_has_it_durably() -> None:
    async with world() as made:
        node = await made.broker()
        first, _, _ = await three(node)
        topic = await node.topic()
        hold(made)
        await pass_time(node, HOUR_MS)
        cancelling = asyncio.ensure_future(topic.schedule.cancel([first]))
        await settle()
        before = cancelling.done()

        release(made)

        assert not before and await cancelling == [DELIVERED]


async def test_a_moved_message_is_delivered_at_its_new_time_only() -> None:
    async with world() as made:
        node = await made.broker()
        first, second, third = await three(node)
        topic = await node.topic()
        now_ms = node.clock.wall_ms()

        answers = [
            await topic.schedule.move(first, now_ms + 5 * HOUR_MS),
            await topic.schedule.move(third, now_ms + HOUR_MS),
        ]
        count = topic.schedule.count
        await pass_time(node, HOUR_MS)
        one = [message.payload for message in await until_stored(node, 1)]
        await pass_time(node, 3 * HOUR_MS)
        two = [message.payload for message in await until_stored(node, 2)]
        await pass_time(node, HOUR_MS)
        messages = await until_stored(node, 3)

        assert (answers, count) == ([MOVED, MOVED], 3)
        assert (one, two) == ([b"3"], [b"3", b"2"])
        assert [message.payload for message in messages] == [b"3", b"2", b"1"]
        assert [message.place for message in messages] == [third, second, first]
        assert [message.sequence_id for message in messages] == [2, 1, 0]
        assert await topic.schedule.move(first, now_ms) is DELIVERED


async def test_a_message_is_moved_again_and_cancelled_under_its_first_id() -> None:
    async with world() as made:
        node = await made.broker()
        first, _, _ = await three(node)
        topic = await node.topic()
        now_ms = node.clock.wall_ms()

        for hours in (7, 6, 8):
            assert await topic.schedule.move(first, now_ms + hours * HOUR_MS) is MOVED
        page = await topic.schedule.list()
        cancelled = await topic.schedule.cancel([first])
        moved = await topic.schedule.move(first, now_ms)

        assert [(one.place, one.deliver_at_ms) for one in page.messages][-1] == (
            first, now_ms + 8 * HOUR_MS
        )
        assert (cancelled, moved, topic.schedule.count) == ([CANCELLED], CANCELLED, 2)


async def test_a_message_moved_into_the_past_is_due_now() -> None:
    async with world() as made:
        node = await made.broker()
        _, _, third = await three(node)

        assert await (await node.topic()).schedule.move(third, 1) is MOVED

        assert [one.payload for one in await until_stored(node, 1)] == [b"3"]


async def test_the_place_of_a_move_is_nobodys_id() -> None:
    async with world() as made:
        node = await made.broker()
        first, _, _ = await three(node)
        topic = await node.topic()
        await topic.schedule.move(first, node.clock.wall_ms() + HOUR_MS)

        answers = await topic.schedule.cancel([first._replace(entry_id=1)])

        assert answers == [UNKNOWN] and topic.schedule.count == 3


@pytest.mark.parametrize("time_ms", [0, -1, 2**63])
async def test_what_is_no_time_is_refused(time_ms: int) -> None:
    async with world() as made:
        node = await made.broker()
        first, _, _ = await three(node)

        with pytest.raises(InvalidArgument, match="no time"):
            await (await node.topic()).schedule.move(first, time_ms)


async def test_changes_survive_the_owner() -> None:
    async with world() as made:
        node = await made.broker()
        first, second, third = await three(node)
        topic = await node.topic()
        now_ms = node.clock.wall_ms()
        await topic.schedule.move(first, now_ms + 4 * HOUR_MS)
        await topic.schedule.cancel([second])

        following = await takeover(made, node, "b2")
        topic = await following.topic()
        page = await topic.schedule.list()
        answers = await topic.schedule.cancel([second])
        await pass_time(following, 3 * HOUR_MS)
        await until_stored(following, 1)
        delivered = await topic.schedule.cancel([third])
        await pass_time(following, HOUR_MS)
        messages = await until_stored(following, 2)
        last = await takeover(made, following, "b3")
        rest = await (await last.topic()).schedule.cancel([first, second, third])

        assert [one.place for one in page.messages] == [third, first]
        assert (answers, delivered) == ([CANCELLED], [DELIVERED])
        assert [one.payload for one in messages] == [b"3", b"1"]
        assert rest == [DELIVERED, CANCELLED, DELIVERED]


async def test_a_cancellation_whose_topic_closes_is_unknown_to_who_asked() -> None:
    async with world() as made:
        node = await made.broker()
        first, _, _ = await three(node)
        topic = await node.topic()
        hold(made)
        cancelling = asyncio.ensure_future(topic.schedule.cancel([first]))
        await settle()

        topic.abandon()

        with pytest.raises(NotOwner, match="unknown"):
            await cancelling
        with pytest.raises(NotOwner):
            await topic.schedule.cancel([first])


async def test_what_becomes_due_as_it_is_cancelled_is_not_delivered() -> None:
    async with world() as made:
        node = await made.broker()
        first, _, _ = await three(node)
        topic = await node.topic()
        node.clock.wall_offset_ms += HOUR_MS

        cancelling = asyncio.ensure_future(topic.schedule.cancel([first]))
        asyncio.get_running_loop().call_soon(topic.schedule.fire)
        answers = await cancelling
        await settle()

        assert answers == [CANCELLED] and await stored(node) == []


async def test_what_is_moved_as_it_is_cancelled_is_what_both_are_told() -> None:
    async with world() as made:
        node = await made.broker()
        first, _, _ = await three(node)
        topic = await node.topic()

        answers = await asyncio.gather(
            topic.schedule.cancel([first]),
            topic.schedule.move(first, node.clock.wall_ms() + HOUR_MS),
        )

        assert answers == [[CANCELLED], CANCELLED]
        assert topic.schedule.count == 2


async def test_a_change_that_is_stored_meanwhile_is_not_waited_for() -> None:
    async with world() as made:
        node = await made.broker()
        first, second, _ = await three(node)
        topic = await node.topic()
        hold(made)
        one = asyncio.ensure_future(topic.schedule.cancel([first]))
        await settle()
        both = asyncio.ensure_future(topic.schedule.cancel([first, second]))
        await settle()

        release(made)
        async with asyncio.timeout(5):
            answers = await one, await both

        assert answers == ([CANCELLED], [CANCELLED, CANCELLED])


async def test_many_are_cancelled_at_once_and_few_records_say_so() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        due_ms = node.clock.wall_ms() + HOUR_MS
        receipt = await schedule(publisher, *((b"x", due_ms) for _ in range(5_000)))
        topic = await node.topic()
        places = [place_of(receipt, index) for index in range(5_000)]

        answers = await topic.schedule.cancel(places + places[:2])

        assert set(answers) == {CANCELLED} and len(answers) == 5_002
        assert topic.schedule.count == 0
        assert topic.log.log.schedule.last_confirmed.entry_id == 2


async def test_pages_list_what_waits_in_the_order_of_delivery() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        now_ms = node.clock.wall_ms() + HOUR_MS
        for number in range(10):
            await schedule(
                publisher, (b"late %d" % number, now_ms + 100 - number),
                (b"soon %d" % number, now_ms + number),
            )
        topic = await node.topic()

        first = await topic.schedule.list(limit=8)
        second = await topic.schedule.list(limit=8, cursor=first.cursor)
        third = await topic.schedule.list(limit=8, cursor=second.cursor)
        range_of_time = await topic.schedule.list(from_ms=now_ms + 8, until_ms=now_ms + 92)

        dues = [one.deliver_at_ms - now_ms
                for page in (first, second, third) for one in page.messages]
        assert dues == [*range(10), *range(91, 101)]
        assert first.cursor and second.cursor and not third.cursor
        assert [one.deliver_at_ms - now_ms for one in range_of_time.messages] == [8, 9, 91]
        one = first.messages[0]
        assert (one.producer_name, one.sequence_id, one.size_bytes) == ("p", 1, 6)


@pytest.mark.parametrize("cursor", ["x", "1", "1.", ".1", "1.x", "-1.2"])
async def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    async with world() as made:
        topic = await (await made.broker()).topic()

        with pytest.raises(InvalidArgument, match="cursor"):
            await topic.schedule.list(cursor=cursor)
        with pytest.raises(InvalidArgument, match="at least one"):
            await topic.schedule.list(limit=0)


async def test_ids_of_freed_ledgers_are_unknown() -> None:
    async with world() as made:
        node = await made.broker()
        first, _, _ = await three(node)
        topic = await node.topic()
        await pass_time(node, 3 * HOUR_MS)
        await until_stored(node, 3)
        before = await topic.schedule.cancel([first])
        await topic.durable_epoch()
        await topic.schedule.free()
        await until(lambda: not topic.log.log.record.schedule_ledgers)

        assert before == [DELIVERED]
        assert await topic.schedule.cancel([first]) == [UNKNOWN]
