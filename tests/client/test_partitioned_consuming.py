"""Consuming and reading all partitions of a topic, with a real broker."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from itertools import chain

import pytest

from magnetar import ConsumerType, InitialPosition, MessageId
from magnetar.batch_receive_policy import BatchReceivePolicy
from magnetar.errors import (
    AlreadyClosed,
    ConsumerBusy,
    EndOfTopic,
    InvalidArgument,
    NotSupported,
    OperationTimeout,
)
from magnetar.multi_topic_consumer import MultiTopicConsumer
from magnetar.multi_topic_reader import MultiTopicReader
from magnetar.murmur3 import murmur3_32
from magnetar.reader import Reader
from magnetar.topic import TopicName
from tests.broker.world import settle, until
from tests.client.partitioned import PATIENCE_MS, Place, data, place, received

ORDERS = TopicName.parse("orders")
EARLIEST = InitialPosition.Earliest


@pytest.fixture
async def here() -> AsyncIterator[Place]:
    async with place() as made:
        await made.create("orders", 4)
        yield made


async def publish(here: Place, count: int, first: int = 0) -> list[MessageId]:
    async with await here.client.create_producer("orders") as producer:
        tickets = [
            producer.send(b"%d" % number, partition_key=f"key-{number % 40}")
            for number in range(first, first + count)
        ]
        return [await ticket for ticket in tickets]


def partition(number: int) -> str:
    return ORDERS.with_partition(number).full


async def test_all_partitions_come_as_one_in_order_of_each_key(here: Place) -> None:
    consumer = await here.client.subscribe("orders", "s", initial_position=EARLIEST)
    assert isinstance(consumer, MultiTopicConsumer)
    await publish(here, 1_000)

    messages = await received(consumer, 1_000)

    by_key = defaultdict(list)
    for message in messages:
        by_key[message.partition_key].append(int(message.data))
        number = murmur3_32(message.partition_key or "") % 4
        assert (message.message_id.partition, message.topic_name) == (number, partition(number))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert sorted(chain(*by_key.values())) == list(range(1_000))
    assert consumer.topics == [partition(number) for number in range(4)]
    assert consumer.topic == ORDERS.full
    with pytest.raises(OperationTimeout):
        await consumer.receive(10)


async def test_what_is_acknowledged_does_not_come_again(here: Place) -> None:
    consumer = await here.client.subscribe("orders", "s", initial_position=EARLIEST)
    ids = await publish(here, 100)
    messages = await received(consumer, 100)

    await consumer.acknowledge(messages[0])
    await consumer.acknowledge(messages[1].message_id)
    await consumer.acknowledge_many(messages[2:50])
    await consumer.close()

    again = await here.client.subscribe("orders", "s")
    left = await received(again, 50)
    assert sorted(data(left)) == sorted(data(messages[50:]))
    last = {one.partition: one for one in sorted(ids)}
    with pytest.raises(OperationTimeout):
        await again.receive(10)
    # Cumulative: of its own partition only.
    await again.acknowledge_cumulative(last[1])
    await again.close()
    third = await here.client.subscribe("orders", "s")
    rest = [one for one in left if one.message_id.partition != 1]
    assert sorted(data(await received(third, len(rest)))) == sorted(data(rest))


async def test_ids_of_partitions_that_are_not_there_are_refused(here: Place) -> None:
    consumer = await here.client.subscribe("orders", "s")

    for wrong in (MessageId(7, 1, 1, 0), MessageId(-1, 1, 1, 0)):
        with pytest.raises(InvalidArgument, match="no partition"):
            consumer.acknowledge(wrong)
        with pytest.raises(InvalidArgument, match="no partition"):
            await consumer.seek(wrong)
    with pytest.raises(InvalidArgument):
        consumer.acknowledge("x")  # type: ignore[arg-type]


async def test_negative_acknowledgements_come_again(here: Place) -> None:
    consumer = await here.client.subscribe(
        "orders", "s", initial_position=EARLIEST, consumer_type=ConsumerType.Shared,
        negative_ack_redelivery_delay_ms=1)
    await publish(here, 40)
    messages = await received(consumer, 40)

    for message in messages[::2]:
        consumer.negative_acknowledge(message)
    await consumer.acknowledge_many(messages[1::2])

    again = await received(consumer, 20)
    assert sorted(data(again)) == sorted(data(messages[::2]))
    assert {one.redelivery_count for one in again} == {1}
    consumer.give_back(again[:5])
    assert sorted(data(await received(consumer, 5))) == sorted(data(again[:5]))
    consumer.redeliver_unacknowledged_messages()
    assert sorted(data(await received(consumer, 20))) == sorted(data(again))


async def test_a_quiet_partition_is_not_starved(here: Place) -> None:
    consumer = await here.client.subscribe("orders", "s", initial_position=EARLIEST)
    async with await here.client.create_producer(partition(0)) as busy:
        await busy.send_many([b"busy"] * 20_000)
    await until(lambda: consumer._members.links[partition(0)].ready_messages > 500)  # type: ignore[attr-defined]
    async with await here.client.create_producer(partition(3)) as quiet:
        await quiet.send(b"quiet")
    await until(lambda: consumer._members.links[partition(3)].ready_messages > 0)  # type: ignore[attr-defined]

    places = data(await received(consumer, 100)).index(b"quiet")

    assert places <= 64


async def test_seek_moves_every_partition_or_the_one_of_a_message(here: Place) -> None:
    consumer = await here.client.subscribe("orders", "s", initial_position=EARLIEST)
    ids = await publish(here, 100)
    messages = await received(consumer, 100)

    await consumer.seek(EARLIEST)
    assert sorted(data(await received(consumer, 100))) == sorted(data(messages))
    await consumer.seek(InitialPosition.Latest)
    with pytest.raises(OperationTimeout):
        await consumer.receive(10)
    await consumer.seek(1)
    assert len(await received(consumer, 100)) == 100
    mine = sorted(one for one in ids if one.partition == 2)
    await consumer.seek(mine[-3])
    assert [one.message_id for one in await received(consumer, 3)] == mine[-3:]
    with pytest.raises(OperationTimeout):
        await consumer.receive(10)

    last = await consumer.last_message_ids()
    assert last == {
        partition(number): max((one for one in ids if one.partition == number), default=None)
        for number in range(4)
    }
    with pytest.raises(InvalidArgument, match="last_message_ids"):
        await consumer.last_message_id()


async def test_new_partitions_are_consumed_from_their_first_message(here: Place) -> None:
    consumer = await here.client.subscribe("orders", "s")
    producer = await here.client.create_producer("orders")
    await here.catalog.grow_topic(ORDERS, 6)
    async with await here.client.create_producer(partition(5)) as early:
        await early.send(b"before anybody knew")
    await until(lambda: producer.partitions == 6)
    await producer.send_many([b"x"] * 6_000)

    messages = await received(consumer, 6_001)

    assert b"before anybody knew" in data(messages)
    assert {one.message_id.partition for one in messages} == set(range(6))


async def test_members_share_the_partitions(here: Place) -> None:
    shared = [
        await here.client.subscribe("orders", "s", consumer_type=ConsumerType.Shared,
                                    initial_position=EARLIEST)
        for _ in range(2)
    ]
    await publish(here, 2_000)
    found: list[bytes] = []

    async def consume(consumer: object) -> None:
        while len(found) < 2_000:
            messages = await consumer.receive_many(100, PATIENCE_MS)  # type: ignore[attr-defined]
            found.extend(data(messages))
            consumer.acknowledge_many(messages)  # type: ignore[attr-defined]

    tasks = [asyncio.create_task(consume(one)) for one in shared]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert sorted(map(int, found)) == list(range(2_000))


async def test_an_exclusive_subscription_has_one_consumer_and_leaves_nothing_open(
    here: Place,
) -> None:
    await here.client.subscribe(partition(2), "s")

    with pytest.raises(ConsumerBusy, match="orders-partition-2"):
        await here.client.subscribe("orders", "s")

    topics = here.broker.node.broker.registry.all()
    await until(lambda: sum(
        len(one.consumers) for topic in topics for one in topic.subscriptions()) == 1)
    assert here.broker.node.broker.topic_watches.watchers == 0


async def test_members_with_another_filter_are_refused(here: Place) -> None:
    await here.client.subscribe(
        "orders", "s", consumer_type=ConsumerType.Shared, filter="price > 100")

    with pytest.raises(ConsumerBusy, match="price > 100"):
        await here.client.subscribe(
            "orders", "s", consumer_type=ConsumerType.Shared, filter="price > 200")
    with pytest.raises(InvalidArgument, match="filter"):
        await here.client.subscribe("orders", "other", filter="price >")


@pytest.mark.parametrize("size", [None, 8])
async def test_one_budget_is_fetched_ahead(here: Place, size: int | None) -> None:
    async with await here.client.create_producer("orders") as producer:
        await producer.send_many([b"x" * 10] * 4_000)
        await producer.flush()
    consumer = await here.client.subscribe(
        "orders", "s", initial_position=EARLIEST, consumer_type=ConsumerType.Shared,
        receiver_queue_size=size)
    alone = await here.client.subscribe(
        partition(0), "alone", initial_position=EARLIEST, consumer_type=ConsumerType.Shared,
        receiver_queue_size=size)
    await until(lambda: alone._queue.count > 0)  # type: ignore[attr-defined]
    await settle(1_000)

    links = consumer._members.links.values()  # type: ignore[attr-defined]
    windows = [link._queue._window for link in links]

    assert sum(windows) == (size or 1_000)
    assert len(await received(consumer, 4_000)) == 4_000


async def test_a_batch_is_collected_over_partitions(here: Place) -> None:
    consumer = await here.client.subscribe(
        "orders", "s", initial_position=EARLIEST,
        batch_receive_policy=BatchReceivePolicy(50, 0, PATIENCE_MS))
    collecting = asyncio.create_task(consumer.batch_receive())
    await publish(here, 49)
    await settle()
    assert not collecting.done()

    await publish(here, 1, first=49)

    assert len(await collecting) == 50
    assert await consumer.batch_receive(BatchReceivePolicy(10, 0, 1)) == []
    await publish(here, 20)
    some = await consumer.batch_receive(BatchReceivePolicy(0, 30, PATIENCE_MS))
    sizes = [message.entry.view.message_bytes(message.index) for message in some]
    assert len(sizes) > 1 and sum(sizes) <= 30


async def test_pausing_holds_for_all_and_for_what_comes_later(here: Place) -> None:
    consumer = await here.client.subscribe(
        "orders", "s", initial_position=EARLIEST, receiver_queue_size=4)
    consumer.pause()
    await here.catalog.grow_topic(ORDERS, 5)
    await until(lambda: len(consumer.topics) == 5)
    async with await here.client.create_producer(partition(4)) as producer:
        await producer.send(b"late")

    with pytest.raises(OperationTimeout):
        await consumer.receive(20)
    assert consumer.paused

    consumer.resume()
    assert (await consumer.receive(PATIENCE_MS)).data == b"late"


async def test_closing_ends_everything(here: Place) -> None:
    consumer = await here.client.subscribe("orders", "s", initial_position=EARLIEST)
    waiting = asyncio.create_task(consumer.receive())
    await settle()

    await consumer.close()
    await consumer.close()

    with pytest.raises(AlreadyClosed):
        await waiting
    assert consumer.closed
    message_id = MessageId(0, 1, 1, 0)
    for use in (
        lambda: consumer.acknowledge(message_id),
        lambda: consumer.negative_acknowledge(message_id),
        consumer.redeliver_unacknowledged_messages,
    ):
        with pytest.raises(AlreadyClosed):
            use()
    for ask in (consumer.unsubscribe, consumer.last_message_ids, consumer.receive):
        with pytest.raises(AlreadyClosed):
            await ask()  # type: ignore[operator]
    await until(lambda: here.broker.node.broker.topic_watches.watchers == 0)


async def test_unsubscribing_deletes_the_subscription_everywhere(here: Place) -> None:
    consumer = await here.client.subscribe("orders", "s")
    topics = here.broker.node.broker.registry.all()
    assert sum(len(topic.subscriptions()) for topic in topics) == 4

    await consumer.unsubscribe()

    assert sum(len(topic.subscriptions()) for topic in topics) == 0
    assert consumer.closed


async def test_the_end_comes_when_all_partitions_are_terminated(here: Place) -> None:
    consumer = await here.client.subscribe("orders", "s", initial_position=EARLIEST)
    await publish(here, 40)
    for number in range(4):
        topic = await here.broker.node.topic(partition(number))
        await topic.terminate()

    async with asyncio.timeout(20):
        assert len([message async for message in consumer]) == 40
    with pytest.raises(EndOfTopic):
        await consumer.receive(PATIENCE_MS)
    await consumer.seek(EARLIEST)
    assert len(await received(consumer, 40)) == 40


async def test_failover_spreads_the_partitions_and_hands_them_over(here: Place) -> None:
    told: list[tuple[str, bool]] = []
    members = {
        name: await here.client.subscribe(
            "orders", "s", consumer_type=ConsumerType.Failover, initial_position=EARLIEST,
            consumer_name=name,
            on_active_changed=lambda consumer, active: told.append(
                (consumer.consumer_name, active)))
        for name in ("a", "b")
    }

    def active(name: str) -> list[int]:
        links = members[name]._members.links.items()  # type: ignore[attr-defined]
        return [TopicName.parse(topic).partition for topic, link in links if link.is_active]

    await until(lambda: (sorted(active("a")), sorted(active("b"))) == ([0, 2], [1, 3]))
    await publish(here, 200)
    found = {name: [] for name in members}  # type: ignore[var-annotated]
    while sum(map(len, found.values())) < 200:
        for name, member in members.items():
            found[name] += await member.batch_receive(BatchReceivePolicy(100, 0, 20))
    for name, messages in found.items():
        assert {one.message_id.partition for one in messages} <= set(active(name))
        await members[name].acknowledge_many(messages)

    await members["a"].close()
    await until(lambda: sorted(active("b")) == [0, 1, 2, 3])
    await publish(here, 100, first=200)
    assert len(await received(members["b"], 100)) == 100
    assert ("a", True) in told and ("a", False) in told and ("b", True) in told


# Readers.


async def test_a_reader_reads_all_partitions(here: Place) -> None:
    ids = await publish(here, 200)
    reader = await here.client.create_reader("orders")
    assert isinstance(reader, MultiTopicReader)

    found = []
    while await reader.has_message_available():
        found += await reader.read_many(50, PATIENCE_MS)

    assert sorted(one.message_id for one in found) == sorted(ids)
    assert set(await reader.last_message_ids()) == {partition(number) for number in range(4)}
    await reader.seek(1)
    assert (await reader.read_next(PATIENCE_MS)).data in data(found)
    await reader.seek(InitialPosition.Latest)
    assert not await reader.has_message_available()
    await publish(here, 1, first=1_000)
    assert (await reader.read_next(PATIENCE_MS)).data == b"1000"
    with pytest.raises(InvalidArgument, match="last_message_ids"):
        await reader.last_message_id()
    await reader.close()
    with pytest.raises(AlreadyClosed):
        await reader.read_next()


async def test_a_reader_goes_on_after_one_message_of_each_partition(here: Place) -> None:
    ids = await publish(here, 200)
    begun = {one.partition: one for one in sorted(ids)[:120] if one.partition != 3}

    reader = await here.client.create_reader("orders", list(begun.values()))

    expected = [
        one for one in ids if one.partition not in begun or one > begun[one.partition]
    ]
    found = []
    while len(found) < len(expected):
        found += await reader.read_many(1_000, PATIENCE_MS)
    assert sorted(one.message_id for one in found) == sorted(expected)
    await reader.seek(ids[0])
    again = await reader.read_next(PATIENCE_MS)
    assert again.message_id == ids[0]


async def test_a_reader_of_one_partition_and_refusals(here: Place) -> None:
    ids = await publish(here, 20)
    reader = await here.client.create_reader(partition(ids[0].partition))
    assert isinstance(reader, Reader)
    assert (await reader.read_next(PATIENCE_MS)).message_id == ids[0]
    assert await reader.last_message_ids() == {
        partition(ids[0].partition): max(one for one in ids if one.partition == ids[0].partition)
    }

    with pytest.raises(InvalidArgument, match="give a list"):
        await here.client.create_reader("orders", ids[0])
    with pytest.raises(InvalidArgument, match="at most one message of each"):
        await here.client.create_reader("orders", [ids[0], ids[0]])
    with pytest.raises(InvalidArgument, match="without partitions"):
        await here.client.create_reader(partition(0), ids[:2])
    filtered = await here.client.create_reader("orders", tags="a")
    with pytest.raises(NotSupported):
        await filtered.has_message_available()
    with pytest.raises(InvalidArgument, match="no partition"):
        await filtered.seek(MessageId(9, 1, 1, 0))


async def test_a_reader_follows_growth(here: Place) -> None:
    reader = await here.client.create_reader("orders", InitialPosition.Latest)
    await here.catalog.grow_topic(ORDERS, 5)
    async with await here.client.create_producer(partition(4)) as producer:
        await producer.send(b"first")

    assert (await reader.read_next(PATIENCE_MS)).data == b"first"
