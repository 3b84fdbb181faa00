"""Topics administered through any broker, in one process and without gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from broker.administration import stored_messages
from broker.administration.routed import RoutedAdministration
from magnetar.admin.topic_values import TopicSummary
from magnetar.enums import ConsumerType, InitialPosition
from magnetar.errors import (
    ConnectionFailed,
    InvalidArgument,
    InvalidTopicName,
    MessageNotFound,
    ResourceExists,
    ResourceInUse,
    ResourceNotFound,
    SubscriptionNotFound,
    TopicNotFound,
)
from magnetar.message_id import MessageId
from tests.broker.administered import Directly
from tests.broker.world import (
    TOPIC,
    Node,
    Publisher,
    Subscriber,
    World,
    position_of,
    until,
    world,
)

EARLIEST = InitialPosition.Earliest


@asynccontextmanager
async def one_broker() -> AsyncIterator[tuple[Node, RoutedAdministration]]:
    async with world() as made:
        node = await made.broker()
        yield node, Directly().add(node).topics


@asynccontextmanager
async def owner_and_other(
    made: World,
) -> AsyncIterator[tuple[Node, Node, RoutedAdministration, Directly]]:
    """TOPIC's owner, another broker, and the other's administration."""
    between = Directly()
    nodes = [await made.broker("b1"), await made.broker("b2")]
    administrations = [between.add(node) for node in nodes]
    await nodes[0].broker.open_producer(TOPIC, "p", 0, lambda _: None, lambda _: None)
    yield nodes[0], nodes[1], administrations[1].topics, between


async def test_a_topic_is_made_once_and_shown() -> None:
    async with one_broker() as (_, admin):
        made = await admin.topics.create(TOPIC, properties={"team": "shop"})

        assert await admin.topics.get(TOPIC) == made
        assert (made.name, made.properties) == (TOPIC, {"team": "shop"})
        with pytest.raises(ResourceExists):
            await admin.topics.create(TOPIC)
        with pytest.raises(ResourceNotFound, match="nowhere/at-all"):
            await admin.topics.create("nowhere/at-all/x")
        with pytest.raises(InvalidArgument, match="partition"):
            await admin.topics.create(f"{TOPIC}-partition-0")


async def test_nothing_but_create_makes_a_topic() -> None:
    async with one_broker() as (node, admin):
        for call in (
            admin.topics.get(TOPIC), admin.topics.stats(TOPIC), admin.subscriptions.list(TOPIC),
            admin.subscriptions.create(TOPIC, "s"), admin.messages.last_ids(TOPIC),
        ):
            with pytest.raises(TopicNotFound, match="orders"):
                await call

        assert await node.broker._topics.list("public", "default") == []


async def test_bad_names_are_refused() -> None:
    async with one_broker() as (_, admin):
        with pytest.raises(InvalidTopicName):
            await admin.topics.stats("a b")
        with pytest.raises(InvalidArgument, match="tenant/namespace"):
            await admin.topics.list("public")
        await admin.topics.create(TOPIC)
        with pytest.raises(InvalidArgument, match="name"):
            await admin.subscriptions.create(TOPIC, "")
        with pytest.raises(InvalidArgument, match="1 to"):
            await admin.subscriptions.peek(TOPIC, "s", 1_000_000)


async def test_a_list_is_sorted_filtered_and_paged() -> None:
    async with one_broker() as (_, admin):
        for name in ("b", "order-1", "a", "order-2"):
            await admin.topics.create(name)
        full = "persistent://public/default/{}".format

        first = await admin.topics.list("public/default", page_size=3)
        rest = await admin.topics.list("public/default", page_size=3, page=first.next_page)
        orders = await admin.topics.list("public/default", "order-?")

        assert [one.name for one in first.topics] == [full("a"), full("b"), full("order-1")]
        assert rest.topics == (TopicSummary(full("order-2")),) and rest.next_page == ""
        assert [one.name for one in orders.topics] == [full("order-1"), full("order-2")]
        with pytest.raises(ResourceNotFound):
            await admin.topics.list("public/nothing")


async def test_stats_tell_rates_producers_and_backlogs() -> None:
    async with one_broker() as (node, admin):
        publisher = await Publisher.open(node, "p")
        subscriber = await Subscriber.open(node, "s", shared=True, permits=3)
        topic = await node.topic()
        topic.sample_traffic(node.clock.monotonic_s())
        node.clock.ahead_s += 10
        for number in range(4):
            await publisher.publish(b"%d" % number)
        await subscriber.receive(3)
        await subscriber.acknowledge(position_of(subscriber.deliveries[0]))

        stats = await admin.topics.stats(TOPIC)

        assert (stats.topic, stats.owner, stats.messages, stats.entries) == (TOPIC, "b1", 4, 4)
        assert stats.incoming.messages == 4 and stats.storage_bytes > 0
        assert stats.incoming.messages_per_second == pytest.approx(0.4, rel=0.1)
        assert stats.outgoing.messages == 3
        (producer,) = stats.producers
        assert (producer.name, producer.last_sequence_id) == ("p", 3)
        (found,) = stats.subscriptions
        alone = await admin.subscriptions.stats(TOPIC, "s")
        assert replace(alone, outgoing=found.outgoing) == found
        assert (found.type, found.backlog_messages) == (ConsumerType.Shared, 3)
        assert found.unacknowledged_messages == 2
        assert found.consumers[0].unacknowledged_messages == 2
        assert stats.ledgers[-1].open


async def test_rates_are_those_of_the_last_minute() -> None:
    async with one_broker() as (node, admin):
        publisher = await Publisher.open(node, "p")
        topic = await node.topic()
        await publisher.publish(b"old")
        for _ in range(13):
            node.clock.ahead_s += 10
            topic.sample_traffic(node.clock.monotonic_s())

        stats = await admin.topics.stats(TOPIC)

        assert stats.incoming.messages == 1
        assert stats.incoming.messages_per_second == 0


@pytest.mark.parametrize("where", ["earliest", "latest", "id", "time"])
async def test_a_subscription_begins_where_it_is_told(where: str) -> None:
    async with one_broker() as (node, admin):
        publisher = await Publisher.open(node, "p")
        await publisher.publish(b"0")
        node.clock.wall_offset_ms += 10_000
        receipt = await publisher.publish(b"1")
        start = {
            "earliest": EARLIEST, "latest": InitialPosition.Latest,
            "id": MessageId(-1, receipt.ledger_id, receipt.entry_id, 0),
            "time": node.clock.wall_ms() - 5_000,
        }[where]

        await admin.subscriptions.create(TOPIC, "s", start)

        backlog = (await admin.subscriptions.stats(TOPIC, "s")).backlog_messages
        assert backlog == {"earliest": 2, "latest": 0, "id": 1, "time": 1}[where]
        assert await admin.subscriptions.list(TOPIC) == ("s",)
        with pytest.raises(ResourceExists):
            await admin.subscriptions.create(TOPIC, "s")


async def test_a_subscription_in_use_is_deleted_by_force_only() -> None:
    async with one_broker() as (node, admin):
        await Publisher.open(node, "p")
        subscriber = await Subscriber.open(node, "s")

        with pytest.raises(ResourceInUse, match="1 consumers"):
            await admin.subscriptions.delete(TOPIC, "s")
        await admin.subscriptions.delete(TOPIC, "s", force=True)

        assert isinstance(subscriber.ended[0], SubscriptionNotFound)
        assert await admin.subscriptions.list(TOPIC) == ()
        with pytest.raises(SubscriptionNotFound):
            await admin.subscriptions.delete(TOPIC, "s")


async def test_a_seek_moves_connected_consumers() -> None:
    async with one_broker() as (node, admin):
        publisher = await Publisher.open(node, "p")
        subscriber = await Subscriber.open(node, "s")
        receipts = [await publisher.publish(b"%d" % number) for number in range(3)]
        await subscriber.receive(3)

        await admin.subscriptions.seek(
            TOPIC, "s", MessageId(-1, receipts[1].ledger_id, receipts[1].entry_id, 0)
        )

        await until(lambda: len(subscriber.payloads) == 5)
        assert subscriber.payloads[3:] == [b"1", b"2"]


async def test_peeking_consumes_nothing_and_skips_what_is_acknowledged() -> None:
    async with one_broker() as (node, admin):
        publisher = await Publisher.open(node, "p")
        subscriber = await Subscriber.open(node, "s", shared=True)
        await publisher.publish(b"0", b"1", b"2")
        await publisher.publish(b"3")
        await subscriber.receive(4)
        await subscriber.acknowledge(position_of(subscriber.deliveries[0], 1))

        first = await admin.subscriptions.peek(TOPIC, "s", 2)
        again = await admin.subscriptions.peek(TOPIC, "s", 10)

        assert [message.data for message in first] == [b"0", b"2"]
        assert [message.data for message in again] == [b"0", b"2", b"3"]
        assert again[1].message_id.batch_index == 2 and again[1].producer_name == "p"
        assert (await admin.subscriptions.stats(TOPIC, "s")).backlog_messages == 3


async def test_peeking_shows_what_the_filter_wants() -> None:
    from broker.selector import parse_filter

    async with one_broker() as (node, admin):
        publisher = await Publisher.open(node, "p")
        await Subscriber.open(node, "s", permits=0, filter=parse_filter("red", ""))
        publisher.session.publish(publisher.batch(b"0", b"1", tags=["red", "blue"]))
        await until(lambda: bool(publisher.receipts))

        found = await admin.subscriptions.peek(TOPIC, "s", 10)

        assert [(message.data, message.tag) for message in found] == [(b"0", "red")]


async def test_peeking_tells_where_it_stopped_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_messages, "PEEK_ENTRIES", 5)
    async with one_broker() as (node, admin):
        publisher = await Publisher.open(node, "p")
        subscriber = await Subscriber.open(node, "s", shared=True)
        receipts = [await publisher.publish(b"%d" % number) for number in range(6)]
        await subscriber.receive(6)
        await subscriber.acknowledge(*map(position_of, subscriber.deliveries[1:5]))

        stopped = await admin.subscriptions.peek(TOPIC, "s", 2)
        enough = await admin.subscriptions.peek(TOPIC, "s", 1)
        monkeypatch.setattr(stored_messages, "PEEK_ENTRIES", 6)
        to_the_end = await admin.subscriptions.peek(TOPIC, "s", 3)

        assert [message.data for message in stopped] == [b"0"]
        assert stopped.stopped_at == (
            MessageId(-1, receipts[4].ledger_id, receipts[4].entry_id, 0),)
        assert [message.data for message in enough] == [b"0"] and enough.stopped_at == ()
        assert [message.data for message in to_the_end] == [b"0", b"5"]
        assert to_the_end.stopped_at == ()


async def test_peeking_tells_that_an_answer_took_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_messages, "PEEK_BYTES", 2)
    async with one_broker() as (node, admin):
        await Subscriber.open(node, "s", permits=0)
        await (await Publisher.open(node, "p")).publish(b"0", b"1", b"2")

        found = await admin.subscriptions.peek(TOPIC, "s", 3)

        assert [message.data for message in found] == [b"0", b"1"]
        assert found.stopped_at == (found[1].message_id,)


async def test_a_message_is_found_by_its_id() -> None:
    async with one_broker() as (node, admin):
        publisher = await Publisher.open(node, "p")
        receipt = await publisher.publish(b"0", b"1")
        ledger_id, entry_id = receipt.ledger_id, receipt.entry_id

        message = await admin.messages.get(TOPIC, MessageId(-1, ledger_id, entry_id, 1))

        assert (message.data, message.data_bytes, message.sequence_id) == (b"1", 1, 1)
        assert await admin.messages.last_ids(TOPIC) == (message.message_id,)
        for wrong in (MessageId(-1, ledger_id, entry_id + 1, 0),
                      MessageId(-1, ledger_id, entry_id, 2)):
            with pytest.raises(MessageNotFound):
                await admin.messages.get(TOPIC, wrong)


async def test_another_topics_ledger_is_refused() -> None:
    async with one_broker() as (node, admin):
        other = "persistent://public/default/other"
        await (await Publisher.open(node, "p")).publish(b"x")
        receipt = await (await Publisher.open(node, "p", topic=other)).publish(b"secret")
        foreign = MessageId(-1, receipt.ledger_id, receipt.entry_id, 0)
        await admin.subscriptions.create(TOPIC, "s", EARLIEST)

        for call in (
            admin.messages.get(TOPIC, foreign), admin.subscriptions.seek(TOPIC, "s", foreign),
            admin.subscriptions.create(TOPIC, "t", foreign),
            admin.messages.get(TOPIC, MessageId(3, receipt.ledger_id, 0, 0)),
        ):
            with pytest.raises(InvalidArgument):
                await call
        assert await admin.subscriptions.list(TOPIC) == ("s",)


async def test_a_broker_passes_calls_on_to_the_owner() -> None:
    async with world() as made, owner_and_other(made) as (owner, other, admin, between):
        await (await Publisher.open(owner, "q")).publish(b"x")

        await admin.subscriptions.create(TOPIC, "s", EARLIEST)
        stats = await admin.topics.stats(TOPIC)
        peeked = await admin.subscriptions.peek(TOPIC, "s")

        assert (stats.owner, stats.subscriptions[0].backlog_messages) == ("b1", 1)
        assert [message.data for message in peeked] == [b"x"]
        assert between.passed_on == 3 and len(other.broker.registry) == 0
        assert (await admin.topics.get(TOPIC)).owner == "b1"


async def test_a_topic_that_nobody_serves_is_taken() -> None:
    async with world() as made, owner_and_other(made) as (owner, other, admin, _):
        await (await Publisher.open(owner, "q")).publish(b"x")
        await made.kill(owner)
        await until(lambda: len(other.broker.directory.all()) == 1)

        stats = await admin.topics.stats(TOPIC)

        assert (stats.owner, stats.messages) == ("b2", 1)


async def test_a_call_that_changed_hands_is_looked_up_again() -> None:
    async with world() as made, owner_and_other(made) as (owner, _, admin, between):
        topic = await owner.topic()
        reached = between.known[str(owner.broker.address)].here.subscriptions
        create = reached.create

        async def moved_meanwhile(*given: object) -> None:
            topic.abandon()
            await owner.broker._release(TOPIC, topic.log.log.owner)
            reached.create = create  # type: ignore[method-assign]
            await create(*given)  # type: ignore[arg-type]

        reached.create = moved_meanwhile  # type: ignore[assignment]

        await admin.subscriptions.create(TOPIC, "s")

        assert await admin.subscriptions.list(TOPIC) == ("s",)


async def test_a_call_gives_up_when_no_owner_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from broker.administration.routing import OwnerUnreachable

    monkeypatch.setattr("broker.administration.routing.OWNER_ATTEMPTS", 3)
    async with world() as made, owner_and_other(made) as (_, other, admin, between):
        class Unreachable:
            @property
            def topics(self) -> object:
                raise OwnerUnreachable("refused")

        between.known[next(iter(between.known))] = type(
            "Gone", (), {"here": Unreachable()})()  # type: ignore[assignment]

        with pytest.raises(ConnectionFailed, match=r"no owner .* refused"):
            await admin.topics.stats(TOPIC)
        assert other.probe.asked


async def test_a_backlog_is_given_up_in_parts() -> None:
    async with one_broker() as (node, admin):
        publisher = await Publisher.open(node, "p")
        await admin.subscriptions.create(TOPIC, "s", EARLIEST)
        await publisher.publish(b"0", b"1", b"2")
        node.clock.wall_offset_ms += 60_000
        await publisher.publish(b"3", b"4")

        assert await admin.subscriptions.skip(TOPIC, "s", 1) == 1
        assert await admin.subscriptions.expire(TOPIC, "s", 30_000) == 2
        assert (await admin.subscriptions.peek(TOPIC, "s"))[0].data == b"3"
        assert await admin.subscriptions.clear_backlog(TOPIC, "s") == 2
        assert await admin.subscriptions.skip(TOPIC, "s", 9) == 0
        with pytest.raises(InvalidArgument):
            await admin.subscriptions.skip(TOPIC, "s", 0)


async def test_a_topic_is_terminated_truncated_and_deleted_at_its_owner() -> None:
    async with world() as made, owner_and_other(made) as (owner, _, admin, between):
        publisher = await Publisher.open(owner, "q")
        await publisher.publish(b"0", b"1")
        await admin.subscriptions.create(TOPIC, "s")

        last = await admin.topics.terminate(TOPIC)
        assert last == await admin.messages.last_ids(TOPIC)
        assert last[0].batch_index == 1 and (await admin.topics.get(TOPIC)).terminated
        assert await admin.topics.truncate(TOPIC) == 2
        with pytest.raises(ResourceInUse, match="producers"):
            await admin.topics.delete(TOPIC)
        await admin.topics.delete(TOPIC, force=True)

        assert isinstance(publisher.ended[0], TopicNotFound)
        with pytest.raises(TopicNotFound):
            await admin.topics.get(TOPIC)
        assert between.passed_on == 6
