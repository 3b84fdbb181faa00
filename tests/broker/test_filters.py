"""What a filter keeps from a consumer, and what that leaves of batches, ids and the backlog."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
from crc32c import crc32c

from broker import filtered_log
from broker.conversation import Delivery, InitialPosition, MessagePosition, OpenConsumer
from broker.filtered_log import FilteredLog
from broker.selector import MessageFilter, parse_filter
from broker.stored_entry import StoredEntry
from magnetar.entry import (
    Codec,
    Columns,
    EntryView,
    Flag,
    Prefix,
    encode_batch,
    encode_prefix,
    parse_prefix,
)
from magnetar.errors import ConsumerBusy
from magnetar.picked_view import PickedView
from tests.broker.world import (
    TOPIC,
    Node,
    Publisher,
    Subscriber,
    position_of,
    settle,
    until,
    world,
)

EARLIEST = InitialPosition.EARLIEST


def wanted(tags: str = "*", expression: str = "") -> MessageFilter:
    found = parse_filter(tags, expression)
    assert found is not None
    return found


def picked(delivery: Delivery) -> dict[int, bytes]:
    """Payloads by batch index, of all messages that crossed over."""
    _, batch = parse_prefix(delivery.entry)
    if delivery.picked:
        view: EntryView = PickedView(batch, delivery.picked)
        assert not delivery.skip and view.header.flags & Flag.DERIVED
        return {index: view.payload(index) for index in view.indexes}
    view = EntryView(batch)
    assert not delivery.skip
    return {index: view.payload(index) for index in range(view.count)}


def received(subscriber: Subscriber) -> list[bytes]:
    return [payload for one in subscriber.deliveries for payload in picked(one).values()]


async def publish(
    publisher: Publisher, payloads: list[bytes], tags: list[str | None] | None = None,
    codec: Codec = Codec.NONE, **columns: object,
) -> None:
    """One batch, stored."""
    first = publisher.next_sequence_id
    publisher.next_sequence_id += len(payloads)
    expected = len(publisher.receipts) + 1
    publisher.session.publish(encode_batch(
        publisher.session.producer_name, first, payloads, publish_time_ms=1, codec=codec,
        columns=Columns(tags=tags, **columns),  # type: ignore[arg-type]
    ))
    await until(lambda: len(publisher.receipts) >= expected)
    assert publisher.receipts[-1].error is None


def sealed(batch: bytes) -> bytes:
    """With the checksum that fits."""
    return crc32c(batch[4:]).to_bytes(4, "little") + batch[4:]


async def backlog(node: Node, name: str = "s") -> int:
    return (await node.topic()).state.subscriptions[name].backlog_messages


@pytest.mark.parametrize("codec", Codec)
async def test_only_matching_messages_cross_over_with_their_ids(codec: Codec) -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, filter=wanted("A || C"))
        publisher = await Publisher.open(node)
        chance = random.Random(1)
        secret = [chance.randbytes(40) + b"-secret" for _ in range(3)]
        await publish(publisher, [secret[0], b"one" * 50, secret[1], b"three" * 50],
                      ["B", "A", None, "C"], codec, event_times_ms=[1, 2, 3, 4],
                      partition_keys=["k0", "k1", "k2", "k3"])
        await publish(publisher, [secret[2]], ["B"], codec)
        await publish(publisher, [b"last"], ["C"], codec)

        await until(lambda: len(subscriber.deliveries) == 2)
        first, last = subscriber.deliveries
        assert picked(first) == {1: b"one" * 50, 3: b"three" * 50}
        assert picked(last) == {0: b"last"} and last.picked == b""
        for one in subscriber.deliveries:
            assert not any(payload in one.entry for payload in secret)
        prefix, batch = parse_prefix(first.entry)
        view = PickedView(batch, first.picked)
        assert (view.sequence_id(1), view.sequence_id(3)) == (1, 3)
        assert [view.partition_key(i) for i in (1, 3)] == ["k1", "k3"]
        assert [view.event_time_ms(i) for i in (1, 3)] == [2, 4]
        assert [view.tag(i) for i in (1, 3)] == ["A", "C"]
        assert prefix.first_ordinal == 0 and view.header.producer_name
        assert subscriber.session.permits == 1_000 - 3


async def test_what_does_not_match_is_acknowledged_for_good() -> None:
    async with world() as made:
        node = await made.broker("b1")
        subscriber = await Subscriber.open(node, filter=wanted("A"))
        publisher = await Publisher.open(node)
        await publish(publisher, [b"0", b"1", b"2"], ["B", "A", "B"])
        await publish(publisher, [b"3", b"4"], ["B", "B"])
        await until(lambda: len(subscriber.deliveries) == 1)
        await settle()
        assert await backlog(node) == 1

        one = subscriber.deliveries[0]
        assert await subscriber.acknowledge(position_of(one, 1)) is None
        assert await backlog(node) == 0
        topic = await node.topic()
        await until(lambda: topic.state.subscriptions["s"].durable_floor == 5)
        await made.kill(node)
        successor = await made.broker("b2")
        again = await Subscriber.open(successor)  # without a filter now

        await publish(await Publisher.open(successor), [b"5"], ["B"])
        await until(lambda: len(again.deliveries) == 1)
        assert received(again) == [b"5"]


async def test_unmatched_messages_survive_the_owner_as_acknowledged_without_any_ack() -> None:
    async with world() as made:
        node = await made.broker("b1")
        await Subscriber.open(node, filter=wanted("A"))
        await publish(await Publisher.open(node), [b"0", b"1", b"2"], ["B", "A", "B"])
        subscription = (await node.topic()).state.subscriptions["s"]
        await until(lambda: subscription.backlog_messages == 1)
        await subscription.flushed()
        await made.kill(node)

        again = await Subscriber.open(await made.broker("b2"))

        await until(lambda: len(again.deliveries) == 1)
        assert again.payloads == [b"1"] and again.deliveries[0].skip == b"\x05"


async def test_redelivery_and_sharing_keep_to_the_parts() -> None:
    async with world() as made:
        node = await made.broker()
        keep = wanted("*", "n >= 2")
        one = await Subscriber.open(node, shared=True, filter=keep)
        await publish(
            await Publisher.open(node), [b"%d" % n for n in range(5)],
            properties=[{"n": str(n)} for n in range(5)],
        )
        await until(lambda: len(one.deliveries) == 1)
        assert picked(one.deliveries[0]) == {2: b"2", 3: b"3", 4: b"4"}
        assert await one.acknowledge(position_of(one.deliveries[0], mask=0b01000)) is None

        other = await Subscriber.open(node, shared=True, filter=wanted("", " n>=2 "))
        one.session.redeliver([position_of(one.deliveries[0], mask=0b00100)])
        await until(lambda: len(one.deliveries) + len(other.deliveries) == 2)
        again = [*one.deliveries[1:], *other.deliveries][0]
        assert picked(again) == {2: b"2"} and again.redelivery_count == 1
        one.session.close()
        await until(lambda: {4: b"4"} in [picked(two) for two in other.deliveries])
        assert await other.acknowledge(position_of(again, 2), position_of(again, 4)) is None
        assert await backlog(node) == 0


async def test_consumers_of_one_subscription_want_the_same() -> None:
    async with world() as made:
        node = await made.broker()
        first = await Subscriber.open(node, shared=True, filter=wanted("A || B"))
        second = await Subscriber.open(node, shared=True, filter=wanted("B||A"))

        with pytest.raises(ConsumerBusy, match=r"in use with tags 'A .. B', not with no filter"):
            await Subscriber.open(node, shared=True)
        with pytest.raises(ConsumerBusy, match="not with tags 'A' and filter 'x = 1'"):
            await Subscriber.open(node, shared=True, filter=wanted("A", "x = 1"))

        first.session.close()
        second.session.close()
        await Subscriber.open(node, shared=True, filter=wanted("A"))


async def test_the_filter_is_remembered_and_replaced_when_nobody_is_there() -> None:
    async with world() as made:
        node = await made.broker("b1")
        subscriber = await Subscriber.open(node, filter=wanted("A", "x = 1"), permits=0)
        publisher = await Publisher.open(node)
        await publish(publisher, [b"0", b"1"], ["A", "B"], properties=[{"x": "1"}, {"x": "1"}])
        state = (await node.topic()).state
        await state.compact()
        subscriber.session.close()
        await made.kill(node)
        successor = await made.broker("b2")
        remembered = (await successor.topic()).state.subscriptions["s"].filter
        assert (remembered.tags, remembered.expression) == ("A", "x = 1")

        replaced = await Subscriber.open(successor, filter=wanted("B"))
        await until(lambda: received(replaced) == [b"1"])
        assert (remembered.tags, remembered.expression) == ("B", "")
        replaced.session.close()
        await made.kill(successor)
        last = await made.broker("b3")
        assert (await last.topic()).state.subscriptions["s"].filter.tags == "B"


async def test_a_new_filter_holds_for_what_waits_to_be_delivered_again() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, filter=wanted("A || B"))
        await publish(await Publisher.open(node), [b"a", b"b"], ["A", "B"])
        await until(lambda: len(subscriber.deliveries) == 1)
        subscriber.session.close()

        again = await Subscriber.open(node, filter=wanted("B"))
        await until(lambda: len(again.deliveries) == 1)
        assert picked(again.deliveries[0]) == {1: b"b"}
        assert await backlog(node) == 1


async def test_seek_asks_the_filter_again_and_readers_have_one_too() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, filter=wanted("A"))
        publisher = await Publisher.open(node)
        for n in range(6):
            await publish(publisher, [b"%da" % n, b"%db" % n], ["A", "B"])
        await until(lambda: len(subscriber.deliveries) == 6)
        await subscriber.session.seek(initial_position=EARLIEST)
        await until(lambda: len(subscriber.deliveries) == 12)
        assert received(subscriber)[6:] == [b"%da" % n for n in range(6)]

        reader = await Subscriber.open(node, "", initial_position=EARLIEST, filter=wanted("B"))
        await until(lambda: len(reader.deliveries) == 6)
        assert received(reader) == [b"%db" % n for n in range(6)]
        third = subscriber.deliveries[2]
        start = MessagePosition(third.ledger_id, third.entry_id, 1)
        later = await Subscriber.open(node, "", start=start, filter=wanted("A || B"))
        await until(lambda: len(received(later)) == 6)
        assert received(later)[0] == b"3a"


async def test_long_batches_are_gone_through_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as made:
        monkeypatch.setattr(filtered_log, "TURN_STEPS", 50)
        node = await made.broker()
        subscriber = await Subscriber.open(
            node, permits=100_000, filter=wanted("*", "n LIKE '%7'")
        )
        publisher = await Publisher.open(node)
        for start in range(0, 1_000, 250):
            numbers = range(start, start + 250)
            await publish(
                publisher, [b"%d" % n for n in numbers],
                properties=[{"n": str(n), "pad": "x" * (2_000 if n == 500 else 1)}
                            for n in numbers],
            )

        await until(lambda: len(received(subscriber)) >= 100)
        assert received(subscriber) == [b"%d" % n for n in range(7, 1_000, 10)]
        assert await backlog(node) == 100


class OneEntry:
    """A log of one entry."""

    def __init__(self, entry: StoredEntry) -> None:
        self.left = [entry]

    def next(self) -> StoredEntry | None:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("columns", [
    Columns(properties=[{"n": "a" * 8_000}] * 100), Columns(partition_keys=["a" * 8_000] * 100),
], ids=["property", "key"])
def test_what_takes_long_to_compare_is_gone_through_in_more_turns(columns: Columns) -> None:
    host = SimpleNamespace(passed_over=lambda _entry, _mask: None)
    turns = {}
    for name, pattern in (("plain", "%" + "a" * 250 + "b"), ("wild", "%_" + "a" * 250 + "b")):
        body = encode_prefix(Prefix(0, 1, 0)) + encode_batch(
            "p", 0, [b""] * 100, publish_time_ms=1, columns=columns)
        woken: list[None] = []
        log = FilteredLog(
            OneEntry(StoredEntry(1, 0, 0, 100, 1, body)), host,  # type: ignore[arg-type]
            lambda woken=woken: woken.append(None))  # type: ignore[misc]
        log.filter = wanted("*", f"n LIKE '{pattern}' OR key LIKE '{pattern}'")
        while log.next() is None and log._entry is not None:
            log.begin_turn()
        turns[name] = len(woken)

    assert turns["wild"] >= 50 > 12 >= turns["plain"]


async def test_what_cannot_be_read_is_delivered_as_it_is() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, filter=wanted("A"))
        publisher = await Publisher.open(node)
        good = publisher.batch(b"x", b"y", tags=["ABBA", "B"])
        no_text = sealed(good.replace(b"ABBA", b"\xff\xff\xff\xff"))
        packed = encode_batch(
            publisher.session.producer_name, 2, [b"x" * 500, b"y" * 500], publish_time_ms=1,
            codec=Codec.ZSTD, columns=Columns(tags=["A", "B"]),
        )
        no_payload = sealed(packed[:-20] + b"?" * 20)
        publisher.session.publish(no_text)
        publisher.session.publish(no_payload)

        await until(lambda: len(subscriber.deliveries) == 2)
        first, second = subscriber.deliveries
        assert first.entry.endswith(no_text) and first.skip == b""
        assert second.entry.endswith(no_payload) and second.skip == b"\x02"


async def test_random_filters_pass_exactly_what_matches() -> None:
    chance = random.Random(7)
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        sent: list[tuple[bytes, str]] = []
        for _ in range(40):
            tags = [chance.choice("ABC") for _ in range(chance.randint(1, 8))]
            payloads = [b"%d" % (len(sent) + at) for at in range(len(tags))]
            sent += list(zip(payloads, tags, strict=True))
            await publish(publisher, payloads, list(tags))
        for asked in ("A", "B || C", "D", "A || B || C"):
            subscriber = await Subscriber.open(
                node, asked, initial_position=EARLIEST, filter=wanted(asked)
            )
            expected = [payload for payload, tag in sent if tag in asked]
            await until(lambda: len(received(subscriber)) >= len(expected))  # noqa: B023
            await settle()
            assert received(subscriber) == expected
            assert await backlog(node, asked) == len(expected)


def test_requests_compare_by_meaning() -> None:
    plain = OpenConsumer(TOPIC, "s", filter=wanted("A || B"))
    assert plain == replace(plain, filter=wanted("B || A"))
