"""A producer that sends some messages at once and delays others: nothing overtakes, so that the
last sequence id that is stored speaks for all before it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from crc32c import crc32c

from broker.settings import BrokerLimits
from ledger.position import Position
from magnetar.entry import Codec, Columns, encode_batch
from magnetar.errors import InvalidFrame, SequenceOverlap
from magnetar.ids import EntryId, LedgerId
from tests.broker.schedule.scheduled import HOUR_MS, delayed, pass_time, takeover, until_stored
from tests.broker.world import TOPIC, Node, Publisher, World, settle, until, world

Send = Callable[[Publisher, Node], None]


def at_once(publisher: Publisher, node: Node) -> None:
    publisher.session.publish(publisher.batch(b"%d" % publisher.next_sequence_id))


def later(publisher: Publisher, node: Node) -> None:
    due_ms = node.clock.wall_ms() + HOUR_MS
    publisher.session.publish(delayed(publisher, (b"%d" % publisher.next_sequence_id, due_ms)))


async def both_lanes_open(made: World) -> tuple[Node, Publisher]:
    """Sequence ids 0 and 1 are stored, one in each lane."""
    node = await made.broker("b1")
    publisher = await Publisher.open(node, "p")
    at_once(publisher, node)
    later(publisher, node)
    await until(lambda: len(publisher.receipts) == 2)
    return node, publisher


async def lose(made: World, lane: Send) -> None:
    """From now on nothing of this lane reaches the bookies."""
    record, _ = await made.ground.topics.get(TOPIC)
    made.ground.bookies.unreachable |= (
        {info.ledger_id for info in record.ledgers} if lane is at_once
        else set(record.schedule_ledgers)
    )


async def everything(node: Node) -> list[bytes]:
    """All payloads, those delayed too."""
    topic = await node.topic()
    await pass_time(node, 2 * HOUR_MS)
    await until(lambda: not (
        topic.schedule.count or topic.schedule.in_flight or topic.log.pending_entries
    ))
    return sorted(one.payload for one in await until_stored(node, topic.log.end_ordinal))


@pytest.mark.parametrize(("lost", "other"), [(at_once, later), (later, at_once)])
async def test_what_is_not_stored_is_never_below_the_last_sequence_id(
    lost: Send, other: Send
) -> None:
    async with world() as made:
        node, publisher = await both_lanes_open(made)
        await lose(made, lost)
        lost(publisher, node)
        other(publisher, node)
        await settle()
        made.ground.bookies.unreachable.clear()

        node = await takeover(made, node, "b2")
        again = await Publisher.open(node, "p")

        assert again.session.last_sequence_id == 1
        lost(again, node)
        other(again, node)
        await until(lambda: len(again.receipts) == 2)
        assert await everything(node) == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize(("first", "second"), [(at_once, later), (later, at_once)])
async def test_a_resend_of_what_was_stored_without_a_word_is_stored_once(
    first: Send, second: Send
) -> None:
    async with world() as made:
        node, publisher = await both_lanes_open(made)
        first(publisher, node)
        second(publisher, node)
        first(publisher, node)
        await until(lambda: len(publisher.receipts) == 5)
        places = [(one.ledger_id, one.entry_id) for one in publisher.receipts]

        node = await takeover(made, node, "b2")
        again = await Publisher.open(node, "p", epoch=publisher.session.producer_epoch)
        again.next_sequence_id = 2
        for send in (first, second, first, second):
            send(again, node)
        await until(lambda: len(again.receipts) == 4)

        assert [(one.ledger_id, one.entry_id) for one in again.receipts[:3]] == places[2:]
        assert await everything(node) == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_receipts_come_in_the_order_of_the_batches_however_lanes_change() -> None:
    async with world() as made:
        node, publisher = await both_lanes_open(made)
        lanes = [at_once, later, later, at_once, at_once, at_once, later, at_once] * 5

        for send in lanes:
            send(publisher, node)
        await until(lambda: len(publisher.receipts) == 2 + len(lanes))

        assert [one.first_sequence_id for one in publisher.receipts] == list(range(42))
        assert [one.scheduled for one in publisher.receipts[2:]] == [
            send is later for send in lanes
        ]


async def test_batches_of_one_lane_are_under_way_together() -> None:
    async with world() as made:
        node, publisher = await both_lanes_open(made)
        await lose(made, at_once)
        for _ in range(3):
            at_once(publisher, node)
        await settle()

        assert (await node.topic()).log.pending_entries == 3
        await made.kill(node)


async def test_what_waits_for_another_lane_counts_as_under_way() -> None:
    async with world() as made:
        node = await made.broker("b1", limits=BrokerLimits(pending_publish_bytes=1_000))
        publisher = await Publisher.open(node, "p")
        await publisher.publish(b"0")
        await lose(made, at_once)
        at_once(publisher, node)
        await settle()
        assert not publisher.session.congested

        due_ms = node.clock.wall_ms() + HOUR_MS
        publisher.session.publish(delayed(publisher, (b"x" * 1_000, due_ms)))

        assert publisher.session.congested
        publisher.session.close()
        assert not (await node.topic()).publishing.congested
        await made.kill(node)


async def test_what_waits_for_another_lane_goes_with_its_session() -> None:
    async with world() as made:
        node, publisher = await both_lanes_open(made)
        for name in made.ground.names:
            made.ground.bookies[name].held = True
        at_once(publisher, node)
        later(publisher, node)
        publisher.session.close()
        for name in made.ground.names:
            made.ground.bookies[name].release()
        await settle()

        again = await Publisher.open(node, "p")

        assert again.session.last_sequence_id == 2
        assert await everything(node) == [b"0", b"1", b"2"]


async def test_after_an_overlap_nothing_that_waits_is_stored() -> None:
    async with world() as made:
        node, publisher = await both_lanes_open(made)
        due_ms = node.clock.wall_ms() + HOUR_MS
        at_once(publisher, node)
        publisher.session.publish(delayed(publisher, (b"1", due_ms), (b"2", due_ms), first=1))
        later(publisher, node)
        await until(lambda: len(publisher.receipts) == 4)
        await settle()

        assert isinstance(publisher.receipts[-1].error, SequenceOverlap)
        assert await everything(node) == [b"0", b"1", b"2"]
        assert (await node.topic()).state.schedule.position == Position(LedgerId(2), EntryId(0))


async def test_a_damaged_message_that_waited_is_refused() -> None:
    async with world() as made:
        node, publisher = await both_lanes_open(made)
        damaged = encode_batch(
            "p", 3, [b"x" * 1_000], publish_time_ms=1, codec=Codec.LZ4,
            columns=Columns(deliver_at_ms=[node.clock.wall_ms() + HOUR_MS]),
        )[4:-1] + b"?"
        at_once(publisher, node)
        publisher.session.publish(crc32c(damaged).to_bytes(4, "little") + damaged)
        await until(lambda: len(publisher.receipts) == 4)

        assert isinstance(publisher.receipts[-1].error, InvalidFrame)
        assert await everything(node) == [b"0", b"1", b"2"]
