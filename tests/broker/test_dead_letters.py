"""Messages that a subscription gives up: copied whole, once, and only then acknowledged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from crc32c import crc32c

from broker.conversation import InitialPosition, MessagePosition
from broker.dead_letters import TopicDeadLetters
from broker.forwarding.lane import ForwardLane, producer_name
from broker.state_records import ForwardPlanned
from broker.subscription import Subscription
from broker.topic import Topic
from magnetar.dead_letter import DeadLetter, default_dead_letter_topic
from magnetar.entry import Codec, Columns, EntryView, encode_batch, parse_prefix
from magnetar.errors import ConnectionFailed, LedgerFenced, MagnetarError, TopicTerminated
from tenants.policies import TopicPolicies
from tests.broker.world import (
    LANE_LIMITS,
    TOPIC,
    Node,
    Publisher,
    Subscriber,
    World,
    settle,
    until,
    world,
)

DEAD = f"{TOPIC}-s-dead"
EARLIEST = InitialPosition.EARLIEST


class Giver:
    """A subscription on a topic with something in it, and what it is told."""

    def __init__(self, node: Node, topic: Topic) -> None:
        self.node = node
        self.topic = topic
        self.done: list[MagnetarError | None] = []

    @classmethod
    async def open(cls, node: Node) -> Giver:
        consumer = await Subscriber.open(node, permits=0, initial_position=EARLIEST)
        consumer.session.close()
        return cls(node, await node.topic())

    @property
    def subscription(self) -> Subscription:
        return self.topic.state.subscriptions["s"]

    @property
    def letters(self) -> TopicDeadLetters:
        return self.topic.dead_letters

    @property
    def lane(self) -> ForwardLane:
        [lane] = self.topic.lanes.of("s").values()
        return lane

    async def give(
        self, ledger_id: int, entry_id: int, mask: int = 1, reason: str = "it fails",
        attempts: int = 5,
    ) -> None:
        entry = await self.topic.log.entry_at(ledger_id, entry_id)
        self.letters.give("s", entry, mask, attempts, reason, self.done.append)

    async def told(self, times: int = 1) -> None:
        await until(lambda: len(self.done) >= times)
        assert self.done == [None] * times


async def dead_letters(node: Node, topic: str = DEAD) -> list[tuple[EntryView, int]]:
    """Everything that lies in the dead-letter topic: views with an index each."""
    log = (await node.topic(topic)).log
    found: list[tuple[EntryView, int]] = []
    if log.end_ordinal:
        for entry in await log.read(await log.before_ordinal(0), 1_000, 1 << 24):
            view = EntryView(parse_prefix(entry.body)[1])
            found += [(view, index) for index in range(view.count)]
    return found


async def dead_payloads(node: Node, topic: str = DEAD) -> list[bytes]:
    return [view.payload(index) for view, index in await dead_letters(node, topic)]


async def test_a_dead_letter_has_all_of_its_message_and_says_where_from_and_why() -> None:
    async with world() as made:
        node = await made.broker()
        node.clock.wall_offset_ms = 0
        publisher = await Publisher.open(node, "p")
        publisher.session.publish(publisher.batch(
            b"one", b"two", b"three", partition_keys=["k1", "k2", None],
            ordering_keys=[None, "o2", None], tags=[None, "t", None], event_times_ms=[0, 77, 0],
            properties=[None, {"color": "red"}, None],
        ))
        await until(lambda: bool(publisher.receipts))
        stored = publisher.receipts[0]
        giver = await Giver.open(node)

        await giver.give(stored.ledger_id, stored.entry_id, 0b010, reason="no such customer")
        await giver.told()

        [(view, index)] = await dead_letters(node)
        assert (view.payload(index), view.checksum(index)) == (b"two", crc32c(b"two"))
        assert (view.partition_key(index), view.ordering_key(index)) == ("k2", "o2")
        assert (view.tag(index), view.event_time_ms(index)) == ("t", 77)
        assert view.expires_after_ms(index) == view.deliver_at_ms(index) == 0
        properties = view.properties(index)
        letter = DeadLetter.of(properties)
        assert letter is not None
        assert properties["color"] == "red"
        assert letter == DeadLetter(
            TOPIC, "s", f"{stored.ledger_id}:{stored.entry_id}:-1:1", 5, "no such customer",
            letter.failed_at_ms, 1, "p", 1,
        )
        assert abs(letter.failed_at_ms - node.clock.wall_ms()) < 60_000
        assert giver.subscription.backlog_messages == 2
        assert giver.subscription.cursor.mask(0, 3) == 0b010
        assert node.broker.lanes.counters.forwarded_messages == 1


async def test_what_is_acknowledged_by_its_dead_letter_stays_so_on_the_next_owner() -> None:
    async with world() as made:
        node = await made.broker("b1")
        publisher = await Publisher.open(node, "p")
        stored = await publisher.publish(b"bad", b"good")
        giver = await Giver.open(node)
        await giver.give(stored.ledger_id, stored.entry_id)
        await giver.told()

        await made.kill(node)
        second = await made.broker("b2")
        consumer = await Subscriber.open(second)

        assert await consumer.receive(1) == [b"good"]
        assert await dead_payloads(second) == [b"bad"]


async def test_messages_out_of_a_compressed_batch_keep_their_checksums() -> None:
    pytest.importorskip("zstandard")
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        payloads = [b"%d" % number * 500 for number in range(10)]
        publisher.session.publish(encode_batch(
            "p", 0, payloads, publish_time_ms=1, codec=Codec.ZSTD, columns=Columns()))
        await until(lambda: bool(publisher.receipts))
        stored = publisher.receipts[0]
        giver = await Giver.open(node)

        await giver.give(stored.ledger_id, stored.entry_id, 0b10_0000_0001)
        await giver.told()

        found = await dead_letters(node)
        assert [view.payload(index) for view, index in found] == [payloads[0], payloads[9]]
        assert [view.checksum(index) for view, index in found] == [
            crc32c(payloads[0]), crc32c(payloads[9])]


async def test_what_cannot_go_out_waits_unacknowledged_says_why_and_goes_in_order() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        stored = [await publisher.publish(b"%d" % number) for number in range(5)]
        giver = await Giver.open(node)
        made.forwarder.failure = TopicTerminated("the topic takes no more")

        for one in stored:
            await giver.give(one.ledger_id, one.entry_id)
        await until(lambda: made.forwarder.openings >= 3)

        assert giver.done == []
        assert giver.subscription.backlog_messages == 5
        assert giver.topic.lanes.waiting_messages == 5
        assert "takes no more" in giver.topic.lanes.problems["s"]
        assert node.broker.lanes.counters.forward_failures >= 2

        made.forwarder.failure = None
        await giver.told(5)

        assert await dead_payloads(node) == [b"0", b"1", b"2", b"3", b"4"]
        assert giver.subscription.backlog_messages == giver.topic.lanes.waiting_messages == 0
        assert giver.topic.lanes.problems == {}


async def test_waiting_dead_letters_keep_no_more_bytes_than_they_may() -> None:
    async with world() as made:
        node = await made.broker(lane_limits=replace(LANE_LIMITS, kept_bytes=1_500))
        publisher = await Publisher.open(node, "p")
        stored = [await publisher.publish(b"%d" % number * 500) for number in range(6)]
        giver = await Giver.open(node)
        made.forwarder.failure = ConnectionFailed("nobody there")

        for one in stored:
            await giver.give(one.ledger_id, one.entry_id)
        assert 0 < giver.lane._kept_bytes <= 1_500

        made.forwarder.failure = None
        await giver.told(6)
        assert await dead_payloads(node) == [b"%d" % number * 500 for number in range(6)]
        assert giver.lane._kept_bytes == 0


async def test_one_that_is_too_large_holds_back_its_key_only_until_the_limit_is_raised() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(max_message_size_bytes=8_000))
        publisher = await Publisher.open(node, "p")
        publisher.session.publish(publisher.batch(
            b"large " * 1_000, b"k after", b"other", b"no key", b"k last",
            partition_keys=["k", "k", "other", None, "k"],
        ))
        await until(lambda: bool(publisher.receipts))
        stored = publisher.receipts[0]
        giver = await Giver.open(node)
        (await node.topic(DEAD)).policies = TopicPolicies(max_message_size_bytes=2_000)

        await giver.give(stored.ledger_id, stored.entry_id, 0b11111)
        await until(lambda: giver.subscription.backlog_messages == 3)

        assert await dead_payloads(node) == [b"other", b"no key"]
        assert giver.lane.messages_aside == 3
        await until(lambda: "max_message_size_bytes" in giver.topic.lanes.problems.get("s", ""))
        assert giver.done == []

        (await node.topic(DEAD)).policies = TopicPolicies(max_message_size_bytes=8_000)
        await giver.told()

        assert (await dead_payloads(node))[2:] == [b"large " * 1_000, b"k after", b"k last"]
        assert giver.topic.lanes.problems == {}


async def test_one_that_does_not_read_is_set_aside_and_others_go_on() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        bad, good = await publisher.publish(b"bad"), await publisher.publish(b"good")
        giver = await Giver.open(node)
        entry = await giver.topic.log.entry_at(bad.ledger_id, bad.entry_id)
        damaged = entry.body[:-1] + b"?"
        entry.body, whole = damaged, entry.body

        await giver.give(bad.ledger_id, bad.entry_id)
        await giver.give(good.ledger_id, good.entry_id)
        await giver.told()

        assert await dead_payloads(node) == [b"good"]
        await until(lambda: "checksum" in giver.topic.lanes.problems.get("s", ""))

        entry.body = whole
        await giver.told(2)
        assert await dead_payloads(node) == [b"good", b"bad"]


async def test_what_others_acknowledged_meanwhile_is_not_sent() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        stored = await publisher.publish(b"0", b"1")
        giver = await Giver.open(node)
        made.forwarder.failure = ConnectionFailed("nobody there")
        await giver.give(stored.ledger_id, stored.entry_id, 0b11)

        giver.subscription.acknowledge(
            [MessagePosition(stored.ledger_id, stored.entry_id, 0)], None, lambda _error: None)
        await until(lambda: giver.subscription.backlog_messages == 1)
        made.forwarder.failure = None
        await giver.told()

        assert await dead_payloads(node) == [b"1"]


async def killed_on_the_way(made: World, *, stored: bool) -> Node:
    """A broker that dies between a dead letter's way out and the original's acknowledgement."""
    node = await made.broker("b1")
    dead_owner = await made.broker("b2")
    await dead_owner.topic(DEAD)
    publisher = await Publisher.open(node, "p")
    receipt = await publisher.publish(b"bad", b"good")
    giver = await Giver.open(node)
    made.forwarder.lose_answers = stored
    if not stored:
        made.forwarder.gate.clear()

    await giver.give(receipt.ledger_id, receipt.entry_id)
    if stored:
        await until(lambda: bool(made.forwarder.batches))
    else:
        await until(lambda: DEAD in giver.subscription.forward_plans)
        await settle()
    assert giver.subscription.backlog_messages == 2
    await made.kill(node)
    await until(lambda: len(dead_owner.broker.directory.all()) == 1)
    made.forwarder.lose_answers = False
    made.forwarder.gate.set()
    return dead_owner


async def test_an_owner_killed_after_the_dead_letter_was_stored_repeats_nothing() -> None:
    async with world() as made:
        second = await killed_on_the_way(made, stored=True)

        topic = await second.topic()
        subscription = topic.state.subscriptions["s"]
        await until(lambda: not subscription.forward_plans)

        assert subscription.cursor.mask(0, 2) == 0b01
        consumer = await Subscriber.open(second)
        assert await consumer.receive(1) == [b"good"]
        assert await dead_payloads(second) == [b"bad"]


async def test_an_owner_killed_before_the_dead_letter_was_stored_loses_nothing() -> None:
    async with world() as made:
        second = await killed_on_the_way(made, stored=False)

        topic = await second.topic()
        subscription = topic.state.subscriptions["s"]
        await until(lambda: not subscription.forward_plans)

        assert subscription.backlog_messages == 2
        assert await dead_payloads(second) == []
        giver = Giver(second, topic)
        entry = (await topic.log.read(await topic.log.before_ordinal(0), 1, 1))[0]
        await giver.give(entry.ledger_id, entry.entry_id)
        await giver.told()
        assert await dead_payloads(second) == [b"bad"]


async def test_a_lost_answer_is_looked_up_not_sent_again() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        stored = [await publisher.publish(b"%d" % number) for number in range(3)]
        giver = await Giver.open(node)
        made.forwarder.lose_answers = True

        for one in stored:
            await giver.give(one.ledger_id, one.entry_id)
        await giver.told(3)

        assert await dead_payloads(node) == [b"0", b"1", b"2"]


async def test_a_broker_that_lost_the_topic_sends_nothing() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        stored = await publisher.publish(b"bad")
        giver = await Giver.open(node)

        def fenced(record: object, on_done: object) -> None:
            on_done(LedgerFenced("another owner"))  # type: ignore[operator]

        giver.topic.write_state = fenced  # type: ignore[method-assign, assignment]
        await giver.give(stored.ledger_id, stored.entry_id)
        await until(lambda: "another owner" in giver.topic.lanes.problems.get("s", ""))

        assert made.forwarder.batches == []
        assert giver.done == []


async def test_what_waits_follows_the_subscription_to_another_dead_letter_topic() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        stored = [await publisher.publish(b"%d" % number) for number in range(3)]
        giver = await Giver.open(node)
        made.forwarder.failing[DEAD] = TopicTerminated("the topic takes no more")
        for one in stored[:2]:
            await giver.give(one.ledger_id, one.entry_id)
        await until(lambda: made.forwarder.openings >= 2)

        giver.subscription.options.dead_letter_topic = "other"
        await giver.told(2)
        await giver.give(stored[2].ledger_id, stored[2].entry_id)
        await giver.told(3)

        other = "persistent://public/default/other"
        assert await dead_payloads(node, other) == [b"0", b"1", b"2"]
        assert giver.topic.lanes.problems == {}


async def test_a_seek_takes_back_what_was_given_up() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        stored = await publisher.publish(b"bad")
        consumer = await Subscriber.open(node, permits=0, initial_position=EARLIEST)
        giver = Giver(node, await node.topic())
        made.forwarder.failure = ConnectionFailed("nobody there")
        await giver.give(stored.ledger_id, stored.entry_id)
        await settle()

        await consumer.session.seek(initial_position=EARLIEST)
        made.forwarder.failure = None
        await until(lambda: giver.topic.lanes.waiting_messages == 0)

        assert await dead_payloads(node) == []
        assert giver.subscription.backlog_messages == 1


async def test_a_plan_is_kept_by_snapshots_and_forgotten_by_a_seek() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        stored = await publisher.publish(b"bad")
        consumer = await Subscriber.open(node, permits=0, initial_position=EARLIEST)
        giver = Giver(node, await node.topic())
        made.forwarder.gate.clear()
        await giver.give(stored.ledger_id, stored.entry_id)
        await until(lambda: DEAD in giver.subscription.forward_plans)

        records = giver.topic.state.snapshot()
        assert [one for one in records if isinstance(one, ForwardPlanned)] == [
            giver.subscription.forward_plans[DEAD]]

        await consumer.session.seek(initial_position=EARLIEST)
        assert not any(
            isinstance(one, ForwardPlanned) for one in giver.topic.state.snapshot())


def test_names_of_dead_letter_topics_and_their_producers() -> None:
    assert default_dead_letter_topic("orders", "audit") == (
        "persistent://public/default/orders-audit-dead")
    assert default_dead_letter_topic("orders-partition-7", "audit") == (
        "persistent://public/default/orders-audit-dead")
    odd = default_dead_letter_topic("orders", "a/b c")
    assert odd.startswith("persistent://public/default/orders-a_b_c-") and odd.endswith("-dead")
    assert odd != default_dead_letter_topic("orders", "a b/c")
    long = default_dead_letter_topic("o" * 250, "s" * 1_000)
    assert len(long.rpartition("/")[2].encode()) <= 255
    assert len(producer_name("o" * 250, "ü" * 500).encode()) <= 512
    assert producer_name("o" * 250, "ü" * 500) != producer_name("o" * 250, "ü" * 501)
