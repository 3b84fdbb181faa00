"""The way of a batch into the log, and its receipt."""

from __future__ import annotations

import pytest

from broker.conversation import ChecksumMismatch
from broker.settings import BrokerLimits
from ledger.position import BEFORE_FIRST
from magnetar.entry import EntryView, parse_prefix
from magnetar.errors import (
    ConnectionFailed,
    InvalidArgument,
    InvalidFrame,
    MessageTooLarge,
    NotOwner,
    ProducerFenced,
    SequenceOverlap,
)
from tenants.policies import TopicPolicies
from tests.broker.world import Node, Publisher, settle, until, world


async def stored(node: Node) -> list[tuple[int, int, list[bytes]]]:
    """(first ordinal, epoch, payloads) of everything in the log."""
    topic = await node.topic()
    entries = await topic.log.read(BEFORE_FIRST, 1_000, 1 << 30)
    found = []
    for entry in entries:
        prefix, batch = parse_prefix(entry.body)
        found.append((prefix.first_ordinal, prefix.owner_epoch, EntryView(batch).payloads()))
    return found


async def test_receipts_come_in_order_with_growing_ids() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)

        for number in range(5):
            publisher.session.publish(publisher.batch(b"a%d" % number, b"b%d" % number))
        await until(lambda: len(publisher.receipts) == 5)

        assert [one.first_sequence_id for one in publisher.receipts] == [0, 2, 4, 6, 8]
        ids = [(one.ledger_id, one.entry_id) for one in publisher.receipts]
        assert ids == sorted(ids) and len(set(ids)) == 5
        assert [one[0] for one in await stored(node)] == [0, 2, 4, 6, 8]


async def test_receipts_of_one_turn_go_out_together() -> None:
    async with world() as made:
        node = await made.broker()
        calls: list[int] = []
        session = await node.broker.open_producer(
            "orders", "", 0, lambda receipts: calls.append(len(receipts)), lambda _error: None
        )
        publisher = Publisher(session=session)
        await publisher.session.ready()
        for name in ("k1", "k2", "k3"):
            made.ground.bookies[name].held = True

        for _ in range(10):
            session.publish(publisher.batch(b"x"))
        await settle()
        for name in ("k1", "k2", "k3"):
            made.ground.bookies[name].release()
        await until(lambda: sum(calls) == 10)

        assert len(calls) <= 2


async def test_ordinals_and_append_times_go_on_across_owners() -> None:
    async with world() as made:
        first = await made.broker("b1")
        await (await Publisher.open(first)).publish(b"1", b"2", b"3")
        await made.kill(first)
        second = await made.broker("b2")
        second.clock.wall_offset_ms = -3_600_000

        await (await Publisher.open(second)).publish(b"4")

        topic = await second.topic()
        entries = await topic.log.read(BEFORE_FIRST, 10, 1 << 20)
        assert [one.first_ordinal for one in entries] == [0, 3]
        assert entries[1].append_time_ms >= entries[0].append_time_ms
        assert [one[1] for one in await stored(second)] == [1, 2]


async def test_a_log_emptied_by_trimming_forgets_neither_ordinal_nor_source() -> None:
    async with world() as made:
        first = await made.broker("b1")
        publisher = await Publisher.open(first, "p")
        await publisher.publish(b"1", b"2", b"3")
        await made.stop(first)
        second = await made.broker("b2")
        again = await second.topic()
        await again.log.log.trim(again.log.log.position_after(again.log.last_position))
        assert again.log.log.record.ledgers == ()
        await made.stop(second)
        third = await made.broker("b3")

        successor = await Publisher.open(third, "p")

        assert successor.session.last_sequence_id == 2
        await successor.publish(b"4")
        assert (await stored(third))[0][0] == 3


async def test_a_refused_batch_sent_again_is_not_called_stored() -> None:
    async with world() as made:
        node = await made.broker("b1", TopicPolicies(max_message_size_bytes=1_024))
        publisher = await Publisher.open(node, "p")
        await publisher.publish(b"0")
        publisher.session.publish(publisher.batch(bytes(2_000)))
        publisher.session.publish(publisher.batch(b"2"))
        await until(lambda: len(publisher.receipts) == 3)
        assert isinstance(publisher.receipts[1].error, MessageTooLarge)
        epoch = publisher.session.producer_epoch
        await made.kill(node)
        successor = await made.broker("b2")

        again = await Publisher.open(successor, "p", epoch)
        again.session.publish(again.batch(bytes(2_000), first=1))
        again.session.publish(again.batch(b"2", first=2))
        await until(lambda: len(again.receipts) == 2)

        assert isinstance(again.receipts[0].error, InvalidArgument)
        assert again.receipts[1].entry_id == 1
        assert [one[2] for one in await stored(successor)] == [[b"0"], [b"2"]]


async def test_a_resend_gets_the_id_it_got_first() -> None:
    async with world() as made:
        node = await made.broker("b1")
        publisher = await Publisher.open(node, "p")
        receipts = [await publisher.publish(b"%d" % number) for number in range(3)]
        await made.kill(node)
        successor = await made.broker("b2")

        again = await Publisher.open(successor, "p", publisher.session.producer_epoch)
        for number in range(3):
            again.session.publish(again.batch(b"%d" % number, first=number))
        await until(lambda: len(again.receipts) == 3)

        assert again.receipts == receipts
        assert len(await stored(successor)) == 3


async def test_a_resend_of_what_is_in_flight_waits_for_it() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        await publisher.publish(b"0")
        for name in ("k1", "k2", "k3"):
            made.ground.bookies[name].held = True
        publisher.session.publish(publisher.batch(b"1"))
        publisher.session.publish(publisher.batch(b"1", first=1))
        await settle()
        assert len(publisher.receipts) == 1

        for name in ("k1", "k2", "k3"):
            made.ground.bookies[name].release()
        await until(lambda: len(publisher.receipts) == 3)

        assert publisher.receipts[1] == publisher.receipts[2]


async def test_a_partial_overlap_says_up_to_where_and_bars_what_follows() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        await publisher.publish(b"0", b"1", b"2")

        publisher.session.publish(publisher.batch(b"1", b"2", b"3", first=1))
        publisher.session.publish(publisher.batch(b"4"))
        await settle()

        assert len(publisher.receipts) == 2
        error = publisher.receipts[1].error
        assert isinstance(error, SequenceOverlap) and error.last_sequence_id == 2
        assert len(await stored(node)) == 1


async def test_a_batch_too_old_to_be_remembered_is_still_a_duplicate() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(remembered_batches=2))
        publisher = await Publisher.open(node, "p")
        for number in range(5):
            await publisher.publish(b"%d" % number)

        receipt = await publisher.publish(b"0", first=0)

        assert receipt.entry_id == -1 and receipt.error is None
        assert len(await stored(node)) == 5


async def test_sources_survive_checkpoints_and_compaction() -> None:
    async with world() as made:
        limits = BrokerLimits(checkpoint_entries=3, state_compaction_bytes=50)
        node = await made.broker("b1", limits=limits)
        publisher = await Publisher.open(node, "p")
        for number in range(10):
            await publisher.publish(b"%d" % number)
        topic = await node.topic()
        assert topic.state.compaction_is_due
        await topic.maintain()
        assert not topic.state.compaction_is_due
        await publisher.publish(b"10")
        await made.kill(node)
        successor = await made.broker("b2", limits=limits)

        again = await Publisher.open(successor, "p", publisher.session.producer_epoch)

        assert again.session.last_sequence_id == 10
        receipt = await again.publish(b"4", first=4)
        assert receipt == publisher.receipts[4]


async def test_deduplication_can_be_switched_off() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(deduplication=False))
        publisher = await Publisher.open(node, "p")

        await publisher.publish(b"0", first=0)
        await publisher.publish(b"0", first=0)

        assert len(await stored(node)) == 2


async def test_a_newer_producer_of_the_name_ends_the_older_one() -> None:
    async with world() as made:
        node = await made.broker("b1")
        older = await Publisher.open(node, "p")
        newer = await Publisher.open(node, "p")

        assert isinstance(older.ended[0], ProducerFenced)
        assert newer.session.producer_epoch > older.session.producer_epoch
        await made.kill(node)
        successor = await made.broker("b2")
        with pytest.raises(ProducerFenced):
            await Publisher.open(successor, "p", older.session.producer_epoch)
        await Publisher.open(successor, "p", newer.session.producer_epoch)


async def test_automatic_names_differ_and_cannot_be_chosen() -> None:
    async with world() as made:
        node = await made.broker()
        names = {(await Publisher.open(node)).session.producer_name for _ in range(3)}

        assert len(names) == 3
        with pytest.raises(InvalidArgument):
            await Publisher.open(node, names.pop())


async def test_automatic_names_are_forgotten_when_idle() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        await publisher.publish(b"x")
        publisher.session.close()
        topic = await node.topic()
        await topic.maintain()
        assert len(topic.state.sources) == 1

        node.clock.wall_offset_ms = 7 * 3_600_000
        await topic.maintain()

        assert len(topic.state.sources) == 0


@pytest.mark.parametrize(
    ("kind", "error"),
    [("large", MessageTooLarge), ("mixed", InvalidArgument), ("foreign", InvalidArgument)],
)
async def test_what_is_refused_gets_a_receipt_that_says_why(
    kind: str, error: type[Exception]
) -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(max_message_size_bytes=2048))
        publisher = await Publisher.open(node, "p")
        other = await Publisher.open(node, "q")
        batch = {
            "large": lambda: publisher.batch(b"x" * 3000),
            "mixed": lambda: publisher.batch(b"x", b"y", deliver_at_ms=[99, 0]),
            "foreign": lambda: other.batch(b"x"),
        }[kind]()

        publisher.session.publish(batch)
        await publisher.publish(b"fine", first=10)

        assert isinstance(publisher.receipts[0].error, error)
        assert [one[2] for one in await stored(node)] == [[b"fine"]]


async def test_damaged_batches_are_told_from_malformed_ones() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        batch = bytearray(publisher.batch(b"hello"))
        batch[-1] ^= 1

        with pytest.raises(ChecksumMismatch):
            publisher.session.publish(batch)
        with pytest.raises(InvalidFrame):
            publisher.session.publish(b"nonsense")


async def test_a_fenced_owner_tells_its_producers_that_the_outcome_is_unknown() -> None:
    async with world() as made:
        old, new = await made.broker("b1"), await made.broker("b2")
        publisher = await Publisher.open(old)
        await publisher.publish(b"1")
        topic = await old.topic()
        old.broker._watches.pop(topic.name)()  # it does not notice by itself
        await new.take()

        publisher.session.publish(publisher.batch(b"2"))
        await until(lambda: bool(publisher.ended))

        assert isinstance(publisher.ended[0], ConnectionFailed)
        assert len(publisher.receipts) == 1
        assert old.broker.registry.get(topic.name) is None
        assert [one[2] for one in await stored(new)] == [[b"1"]]


async def test_stopping_a_broker_settles_what_is_in_flight_and_lets_go() -> None:
    async with world() as made:
        node, other = await made.broker("b1"), await made.broker("b2")
        publisher = await Publisher.open(node)
        for number in range(20):
            publisher.session.publish(publisher.batch(b"%d" % number))

        await made.stop(node)

        assert len(publisher.receipts) == 20
        assert isinstance(publisher.ended[0], NotOwner)
        found = await other.broker.lookup("orders")
        assert found.owner_address == "127.0.0.1:7002"
        assert len(await stored(other)) == 20


async def test_producers_are_held_back_while_the_bookies_are_behind() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(pending_publish_bytes=1_000))
        publisher = await Publisher.open(node)
        await publisher.publish(b"first")
        for name in ("k1", "k2", "k3"):
            made.ground.bookies[name].held = True
        publisher.session.publish(publisher.batch(b"x" * 2_000))
        assert publisher.session.congested

        for name in ("k1", "k2", "k3"):
            made.ground.bookies[name].release()
        await publisher.session.ready()

        assert not publisher.session.congested
