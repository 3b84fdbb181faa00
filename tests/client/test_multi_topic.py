"""Consumers of several topics and of patterns, with a real broker."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from magnetar import Client, ConsumerType, InitialPosition, Message, MessageId
from magnetar.consumer import TopicConsumer
from magnetar.errors import (
    AlreadyClosed,
    ConsumerBusy,
    InvalidArgument,
    InvalidTopicName,
    OperationTimeout,
    SubscriptionNotFound,
    TopicNotFound,
)
from magnetar.multi_topic_consumer import MultiTopicConsumer
from magnetar.topic import TopicName
from magnetar.topic_choice import TopicPattern
from metadata.tenants import NamespaceRecord, NamespaceRepository
from tests.broker.test_service import served
from tests.broker.world import settle, until
from tests.client.partitioned import PATIENCE_MS, Place, data, place, received

EARLIEST = InitialPosition.Earliest
ORDERS = "persistent://public/default/orders-.*"


@pytest.fixture
async def here() -> AsyncIterator[Place]:
    async with place() as made:
        yield made


async def publish(here: Place, topic: str, *contents: bytes) -> list[MessageId]:
    async with await here.client.create_producer(topic) as producer:
        return await (await producer.send_many(contents))


def full(name: str) -> str:
    return TopicName.parse(name).full


async def end_sessions(here: Place, topic: str) -> None:
    """As the broker does when an administrator deletes a subscription."""
    loaded = await here.broker.node.topic(full(topic))
    for subscription in loaded.subscriptions():
        for session in list(subscription.consumers):
            session.end(SubscriptionNotFound("an administrator deleted it"))


async def test_a_list_of_topics_plain_and_partitioned(here: Place) -> None:
    await here.create("many", 3)
    consumer = await here.client.subscribe(
        ["one", "many", "one"], "s", initial_position=EARLIEST)
    assert isinstance(consumer, MultiTopicConsumer)
    await publish(here, "one", b"1", b"2")
    await publish(here, "many", *(b"m%d" % number for number in range(300)))

    messages = await received(consumer, 302)

    assert {one.topic_name for one in messages} == {
        full("one"), *(full(f"many-partition-{number}") for number in range(3))
    }
    assert [one.data for one in messages if one.topic_name == full("one")] == [b"1", b"2"]
    assert consumer.topic == f"{full('one')}, {full('many')}"
    await consumer.acknowledge_many(messages)
    await consumer.close()
    again = await here.client.subscribe(["one", "many"], "s")
    with pytest.raises(OperationTimeout):
        await again.receive(20)


async def test_ids_are_acknowledged_in_their_own_topic(here: Place) -> None:
    consumer = await here.client.subscribe(["a", "b"], "s", initial_position=EARLIEST)
    await publish(here, "a", b"a1", b"a2")
    ids = await publish(here, "b", b"b1", b"b2")
    messages = await received(consumer, 4)

    await consumer.acknowledge_many([one.message_id for one in messages if one.data != b"b2"])
    await consumer.seek(next(one.message_id for one in messages if one.data == b"b2"))

    assert data(await received(consumer, 1)) == [b"b2"]
    assert (await consumer.last_message_ids())[full("b")] == ids[-1]
    with pytest.raises(InvalidArgument, match="may be of any topic"):
        consumer.acknowledge(MessageId(-1, 999_999, 0, 0))
    with pytest.raises(InvalidArgument, match="may be of any topic"):
        await consumer.seek(MessageId(-1, 999_999, 0, 0))


async def test_a_pattern_takes_what_is_there_and_what_comes(here: Place) -> None:
    await publish(here, "orders-eu", b"old")
    await here.create("orders-us", 2)
    await publish(here, "zebras", b"no")
    consumer = await here.client.subscribe(
        subscription_name="s", pattern=ORDERS, initial_position=EARLIEST)
    assert consumer.topics == [
        full("orders-eu"), full("orders-us-partition-0"), full("orders-us-partition-1")
    ]
    assert data(await received(consumer, 1)) == [b"old"]

    await publish(here, "orders-new", b"new")
    assert data(await received(consumer, 1)) == [b"new"]
    await here.catalog.grow_topic(TopicName.parse("orders-us"), 3)
    await publish(here, "orders-us-partition-2", b"grown")
    assert data(await received(consumer, 1)) == [b"grown"]
    assert consumer.topic == ORDERS


async def test_a_topic_that_comes_later_is_consumed_from_its_first_message(here: Place) -> None:
    consumer = await here.client.subscribe(re.compile("ORDERS-.*", re.IGNORECASE), "s")
    with pytest.raises(OperationTimeout):
        await consumer.receive(1)

    await publish(here, "orders-new", *(b"%d" % number for number in range(100)))

    assert data(await received(consumer, 100)) == [b"%d" % number for number in range(100)]


async def test_a_topic_that_is_deleted_is_let_go_without_an_error(here: Place) -> None:
    await publish(here, "orders-eu", b"eu")
    await here.create("orders-us", 2)
    consumer = await here.client.subscribe(
        subscription_name="s", pattern=ORDERS, initial_position=EARLIEST)
    message = await consumer.receive(PATIENCE_MS)

    await here.catalog.close_partitions(TopicName.parse("orders-us"))
    await until(lambda: consumer.topics == [full("orders-eu")])
    await consumer.acknowledge(message)
    await publish(here, "orders-eu", b"more")

    assert data(await received(consumer, 1)) == [b"more"]
    assert consumer.is_connected


async def test_a_topic_that_is_deleted_and_made_again_is_consumed_from_its_first_message(
    here: Place,
) -> None:
    await publish(here, "orders-eu", b"old")
    consumer = await here.client.subscribe(
        subscription_name="s", pattern=ORDERS, initial_position=EARLIEST)
    assert data(await received(consumer, 1)) == [b"old"]

    for number in range(3):
        await here.broker.node.broker.lifecycle.delete(full("orders-eu"), force=True)
        await publish(here, "orders-eu", b"new %d" % number)

        assert data(await received(consumer, 1)) == [b"new %d" % number]
    await here.broker.node.broker.lifecycle.delete(full("orders-eu"), force=True)
    with pytest.raises(OperationTimeout):
        await consumer.receive(20)


@pytest.mark.parametrize(
    ("asked", "told"), [("is_connected", True), ("is_active", False), ("consumer_name", "c")])
async def test_it_tells_of_itself_while_topics_come(
    here: Place, monkeypatch: pytest.MonkeyPatch, asked: str, told: object
) -> None:
    """The blocking SDK asks from other threads, so anything may change in between."""
    consumer = await here.client.subscribe(["a", "b"], "s")
    assert isinstance(consumer, MultiTopicConsumer)
    links = consumer._members.links

    def tell(one: TopicConsumer) -> object:
        links["one more"] = one
        return told

    with monkeypatch.context() as patched:
        patched.setattr(TopicConsumer, asked, property(tell))
        answer = getattr(consumer, asked)

    assert answer == told
    del links["one more"]


async def test_a_topic_is_not_made_again_by_those_who_follow_it(here: Place) -> None:
    await publish(here, "orders-eu", b"eu")
    consumer = await here.client.subscribe(
        subscription_name="s", pattern=ORDERS, initial_position=EARLIEST)
    await received(consumer, 1)
    (link,) = consumer._members.links.values()  # type: ignore[attr-defined]

    link._stream.close()  # so that it opens another one just then
    await here.broker.node.broker.lifecycle.delete(full("orders-eu"), force=True)
    await until(lambda: link.closed)

    await until(lambda: consumer.topics == [])
    assert await here.catalog.list_topics("public", "default") == []


async def test_a_message_of_a_topic_that_is_gone_is_settled_by_that(here: Place) -> None:
    await here.create("orders-us", 1)
    await publish(here, "orders-us", b"us")
    consumer = await here.client.subscribe(
        subscription_name="s", pattern=ORDERS, initial_position=EARLIEST)
    message = await consumer.receive(PATIENCE_MS)
    await here.catalog.close_partitions(TopicName.parse("orders-us"))
    await until(lambda: consumer.topics == [])

    await consumer.acknowledge(message)
    await consumer.acknowledge_many([message])
    await consumer.acknowledge_cumulative(message)
    consumer.negative_acknowledge(message)
    consumer.give_back([message])

    with pytest.raises(OperationTimeout):
        await consumer.receive(1)


async def test_one_topic_in_trouble_is_told_once_and_does_not_keep_the_others(
    here: Place,
) -> None:
    consumer = await here.client.subscribe(
        subscription_name="s", pattern=ORDERS, initial_position=EARLIEST)
    async with Client(here.broker.url) as other:
        await other.create_producer("orders-a")
        # It has the subscription of the new topic before we do, or after.
        while True:
            try:
                taken = await other.subscribe("orders-b", "s", initial_position=EARLIEST)
                break
            except ConsumerBusy:
                topic = await here.broker.node.topic(full("orders-b"))
                for session in list(topic.subscriptions()[0].consumers):
                    session.end(ConsumerBusy("moved"))
        await publish(here, "orders-a", b"a")
        await publish(here, "orders-b", b"b")
        found, errors = [], []
        while not (found and errors):
            try:
                found.append((await consumer.receive(PATIENCE_MS)).data)
            except ConsumerBusy as error:
                errors.append(str(error))
        assert found == [b"a"]
        assert "orders-b" in errors[0]
        await taken.close()

    assert data(await received(consumer, 1)) == [b"b"]


async def test_a_member_that_ends_is_told_and_the_others_go_on(here: Place) -> None:
    consumer = await here.client.subscribe(["a", "b"], "s", initial_position=EARLIEST)

    await end_sessions(here, "a")

    with pytest.raises(SubscriptionNotFound, match="default/a: an administrator deleted it"):
        await consumer.receive(PATIENCE_MS)
    await publish(here, "b", b"b")
    assert data(await received(consumer, 1)) == [b"b"]
    assert consumer.topics == [full("b")]


async def test_what_a_member_that_ended_gave_is_not_said_to_be_acknowledged(
    here: Place,
) -> None:
    consumer = await here.client.subscribe(["a", "b"], "s", initial_position=EARLIEST)
    await publish(here, "a", b"a")
    (message,) = await received(consumer, 1)

    await end_sessions(here, "a")
    with pytest.raises(SubscriptionNotFound):
        await consumer.receive(PATIENCE_MS)

    for what in (message, message.message_id):
        for acknowledge in (consumer.acknowledge, consumer.acknowledge_cumulative):
            with pytest.raises(SubscriptionNotFound):
                acknowledge(what)
        consumer.negative_acknowledge(what)
    consumer.give_back([message])


async def test_no_subscription_is_left_on_a_topic_that_comes_during_the_unsubscription(
    here: Place,
) -> None:
    await here.create("orders-a")
    consumer = await here.client.subscribe(subscription_name="s", pattern=ORDERS)
    bookies = [here.world.ground.bookies[name] for name in ("k1", "k2", "k3")]
    for bookie in bookies:
        bookie.held = True
    unsubscribing = asyncio.create_task(consumer.unsubscribe())
    await until(lambda: any(bookie.waiting for bookie in bookies))
    held = sum(len(bookie.waiting) for bookie in bookies)
    await here.create("orders-b")
    await until(lambda: sum(len(bookie.waiting) for bookie in bookies) > held)

    for bookie in bookies:
        bookie.release()
    await unsubscribing

    for name in ("orders-a", "orders-b"):
        assert not (await here.broker.node.topic(full(name))).subscriptions()


@pytest.mark.parametrize("first", ["pause", "resume"])
async def test_a_topic_that_opens_meanwhile_is_paused_and_resumed_with_the_others(
    here: Place, first: str
) -> None:
    consumer = await here.client.subscribe(
        subscription_name="s", pattern=ORDERS, initial_position=EARLIEST)
    if first == "resume":
        consumer.pause()
    bookies = [here.world.ground.bookies[name] for name in ("k1", "k2", "k3")]
    for bookie in bookies:
        bookie.held = True
    await here.create("orders-eu")
    await until(lambda: any(bookie.waiting for bookie in bookies))

    getattr(consumer, first)()
    for bookie in bookies:
        bookie.release()
    await until(lambda: bool(consumer.topics))
    await publish(here, "orders-eu", b"eu")

    if first == "pause":
        with pytest.raises(OperationTimeout):
            await consumer.receive(20)
        consumer.resume()
    assert data(await received(consumer, 1)) == [b"eu"]


async def test_the_end_of_the_last_topic_ends_the_consumer(here: Place) -> None:
    await here.create("many", 2)
    consumer = await here.client.subscribe("many", "s", initial_position=EARLIEST)
    await publish(here, "many-partition-1", b"last")

    await end_sessions(here, "many-partition-0")
    messages, errors = [], []
    while not (messages and errors):
        try:
            messages.append((await consumer.receive(PATIENCE_MS)).data)
        except SubscriptionNotFound as error:
            errors.append(str(error))
    assert (messages, "many-partition-0" in errors[0]) == ([b"last"], True)
    assert not consumer.closed

    await end_sessions(here, "many-partition-1")
    for _ in range(2):
        with pytest.raises(SubscriptionNotFound, match="many-partition-1"):
            await consumer.receive(PATIENCE_MS)
    assert consumer.closed
    await until(lambda: here.broker.node.broker.topic_watches.watchers == 0)
    await consumer.close()


async def test_a_handler_goes_on_when_one_of_its_topics_fails(here: Place) -> None:
    handled = asyncio.Queue[bytes]()

    @here.client.on(["a", "b"], "s", initial_position=EARLIEST)
    async def handler(message: Message) -> None:
        handled.put_nowait(message.data)

    await here.client.start_listeners()
    (listener,) = here.client._all_listeners()._bound
    await end_sessions(here, "a")
    await until(lambda: listener.consumer.topics == [full("b")])  # type: ignore[union-attr]
    await publish(here, "b", b"b")

    async with asyncio.timeout(5):
        assert await handled.get() == b"b"


async def test_many_topics_wait_for_nothing_of_each_other(here: Place) -> None:
    names = [f"orders-{number}" for number in range(60)]
    for name in names:
        await publish(here, name, name.encode())

    consumer = await here.client.subscribe(
        subscription_name="s", pattern=ORDERS, initial_position=EARLIEST,
        consumer_type=ConsumerType.Shared)

    assert sorted(data(await received(consumer, 60))) == sorted(name.encode() for name in names)


async def test_following_goes_on_at_another_broker(here: Place) -> None:
    async with served(here.world, "b2") as second:
        urls = f"{here.broker.url},{second.address}"
        async with Client(urls) as client:
            consumer = await client.subscribe(
                subscription_name="s", pattern=ORDERS, initial_position=EARLIEST)
            brokers = (here.broker, second)
            await until(lambda: sum(
                one.node.broker.topic_watches.watchers for one in brokers) == 1)
            watched, other = sorted(
                brokers, key=lambda one: -one.node.broker.topic_watches.watchers)
            # It sends its watchers away, and goes on serving topics.
            watched.node.broker.topic_watches.stop()
            await until(lambda: other.node.broker.topic_watches.watchers == 1)

            await other.node.broker.catalog.create_topic(TopicName.parse("orders-x"))
            async with await client.create_producer("orders-x") as producer:
                await producer.send(b"x")

            assert (await consumer.receive(PATIENCE_MS)).data == b"x"


async def test_what_cannot_be_subscribed_to_is_refused(here: Place) -> None:
    subscribe = here.client.subscribe
    for topic, pattern, error in (
        (None, None, InvalidArgument), ("a", ORDERS, InvalidArgument), ([], None, InvalidArgument),
        (7, None, InvalidArgument), (["a b"], None, InvalidTopicName),
        (None, "(", InvalidArgument), (None, "persistent://public/orders-.*", InvalidArgument),
        (None, "non-persistent://a/b/c", InvalidArgument), (None, "a/.*/c", InvalidTopicName),
        (None, "public/none/x", TopicNotFound),
        (re.compile("a", re.VERBOSE), None, InvalidArgument),
        (re.compile(b"a"), None, InvalidArgument),
        (["orders-partition-7"], None, TopicNotFound),
    ):
        with pytest.raises(error):
            await subscribe(topic, "s", pattern=pattern)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="name"):
        await subscribe("a")
    with pytest.raises(InvalidArgument, match="look-around"):
        await subscribe(subscription_name="s", pattern="(?=a)a")
    await here.client.close()
    with pytest.raises(AlreadyClosed):
        await subscribe(["a", "b"], "s")
    assert here.broker.node.broker.topic_watches.watchers == 0


async def test_a_list_opens_wholly_or_not_at_all(here: Place) -> None:
    await NamespaceRepository(here.world.ground.session).create(
        NamespaceRecord("public", "strict", {"auto_create_topics": False}))

    with pytest.raises(TopicNotFound, match="public/strict/x"):
        await here.client.subscribe(["a", "public/strict/x", "b"], "s")

    topics = here.broker.node.broker.registry.all()
    await until(lambda: not any(
        one.consumers for topic in topics for one in topic.subscriptions()))


async def test_closing_while_a_topic_opens_leaves_no_task(here: Place) -> None:
    before = len(asyncio.all_tasks())
    for _ in range(5):
        consumer = await here.client.subscribe(subscription_name="s", pattern=ORDERS)
        creating = asyncio.create_task(here.catalog.create_topic(
            TopicName.parse(f"orders-{len(here.broker.node.broker.registry)}")))
        await settle(20)
        await consumer.close()
        await asyncio.gather(creating, return_exceptions=True)

    await until(lambda: len(asyncio.all_tasks()) <= before + 1)


@pytest.mark.parametrize(
    ("given", "namespace", "expression"),
    [
        ("a.*", "public/default", r"persistent://public/default/(?:a.*)"),
        ("t/n/a|b", "t/n", r"persistent://t/n/(?:a|b)"),
        ("persistent://t-1/n.2/.*", "t-1/n.2", r"persistent://t\-1/n\.2/(?:.*)"),
        (re.compile("t/n/x", re.I), "t/n", r"(?i)persistent://t/n/(?:x)"),
    ],
)
def test_patterns_are_of_one_namespace(
    given: str | re.Pattern[str], namespace: str, expression: str
) -> None:
    pattern = TopicPattern.parse(given)

    assert (pattern.namespace, pattern.expression) == (namespace, expression)
