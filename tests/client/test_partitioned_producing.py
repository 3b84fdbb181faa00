"""Producing to partitioned topics, with real brokers on loopback."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from magnetar import (
    Client,
    HashingScheme,
    MessageId,
    PartitionedProducer,
    PartitionsRoutingMode,
    Producer,
    ProducerAccessMode,
)
from magnetar.entry import Columns, encode_batch
from magnetar.errors import (
    AlreadyClosed,
    ConnectionFailed,
    InvalidArgument,
    MessageTooLarge,
    ProducerBusy,
    ProducerQueueFull,
    TopicNotFound,
)
from magnetar.murmur3 import java_string_hash, murmur3_32
from magnetar.producer_core import ProducerLimits
from magnetar.topic import TopicName
from tests.broker.test_service import Served, served
from tests.broker.world import until, world

ORDERS = TopicName.parse("orders")


@pytest.fixture
async def broker() -> AsyncIterator[Served]:
    async with world() as made, served(made) as one:
        await one.node.broker.catalog.create_topic(ORDERS, 8)
        yield one


@pytest.fixture
async def client(broker: Served) -> AsyncIterator[Client]:
    async with Client(broker.url) as client:
        yield client


async def partitioned(client: Client, **settings: object) -> PartitionedProducer:
    producer = await client.create_producer("orders", **settings)  # type: ignore[arg-type]
    assert isinstance(producer, PartitionedProducer)
    return producer


async def contents(client: Client, partition: int) -> list[bytes]:
    """What the partition has, in order."""
    name = ORDERS.with_partition(partition).full
    async with await client.create_reader(name) as reader:
        found: list[bytes] = []
        while await reader.has_message_available():
            found += [message.data for message in await reader.read_many()]
    return found


async def test_it_offers_what_a_producer_of_one_topic_offers() -> None:
    offered = {name for name in vars(Producer) if not name.startswith("_")} - {"on_settled"}

    for name in offered:
        theirs, ours = getattr(Producer, name), getattr(PartitionedProducer, name, None)
        assert ours is not None, f"PartitionedProducer has no {name}"
        if inspect.isfunction(theirs):
            assert inspect.signature(theirs) == inspect.signature(ours), name


async def test_the_same_key_goes_to_the_partition_that_its_hash_names(client: Client) -> None:
    producer = await partitioned(client)

    keys = [f"key-{number % 20}" for number in range(200)]
    ids = [await ticket for ticket in [
        producer.send(key.encode(), partition_key=key) for key in keys
    ]]

    assert [one.partition for one in ids] == [murmur3_32(key) % 8 for key in keys]
    for partition in range(8):
        mine = [key.encode() for key in keys if murmur3_32(key) % 8 == partition]
        assert await contents(client, partition) == mine
    assert producer.acknowledged_messages == 200


async def test_the_hash_can_be_that_of_java(client: Client) -> None:
    producer = await partitioned(client, hashing_scheme=HashingScheme.JavaStringHash)

    message_id = await producer.send(b"", partition_key="key-7")

    assert message_id.partition == java_string_hash("key-7") % 8


@pytest.mark.parametrize("many", [False, True])
async def test_messages_without_a_key_fill_all_partitions_alike(
    client: Client, many: bool
) -> None:
    producer = await partitioned(client)
    if many:
        ids = await (await producer.send_many([b"%d" % number for number in range(80_000)]))
    else:
        tickets = []
        for number in range(80_000):
            try:
                tickets.append(producer.send(b"%d" % number))
            except ProducerQueueFull:
                await producer.ready()
                tickets.append(producer.send(b"%d" % number))
        await producer.flush()
        ids = [await ticket for ticket in tickets]

    counts = Counter(one.partition for one in ids)

    assert set(counts) == set(range(8))
    assert all(9_500 <= count <= 10_500 for count in counts.values()), counts
    # Batches form all the same.
    entries = {(one.ledger_id, one.entry_id) for one in ids}
    assert len(entries) < 2_000


async def test_answers_come_in_the_order_of_the_messages(client: Client) -> None:
    producer = await partitioned(client)

    tickets = await producer.send_many([b"%d" % number for number in range(1_000)])
    ids = await tickets

    assert len(tickets) == len(ids) == 1_000
    assert [await ticket for ticket in tickets] == ids
    assert tickets.done()
    for partition in range(8):
        mine = [number for number, one in enumerate(ids) if one.partition == partition]
        assert await contents(client, partition) == [b"%d" % number for number in mine]
        assert [ids[number] for number in mine] == sorted(ids[number] for number in mine)
    assert await (await producer.send_many([])) == []


async def test_slow_messages_go_round_one_by_one(client: Client) -> None:
    producer = await partitioned(client)

    ids = [await producer.send(b"x") for _ in range(16)]

    first = ids[0].partition
    assert [one.partition for one in ids] == [(first + number) % 8 for number in range(16)]


async def test_all_go_to_one_partition_where_that_is_asked_for(client: Client) -> None:
    producer = await partitioned(
        client, producer_name="p", message_routing_mode=PartitionsRoutingMode.UseSinglePartition)

    ids = [await producer.send(b"x") for _ in range(20)]
    ids += await (await producer.send_many([b"x"] * 500))

    assert {one.partition for one in ids} == {murmur3_32("p") % 8}
    keyed = await producer.send(b"x", partition_key="k1")
    assert keyed.partition == murmur3_32("k1") % 8


async def test_a_router_decides_of_everything(client: Client) -> None:
    producer = await partitioned(
        client, message_router=lambda message, count: len(message.content) % count)

    ids = [await producer.send(b"x" * size, partition_key="k") for size in range(10)]
    ids += await (await producer.send_many([b"y" * size for size in range(20)]))

    assert [one.partition for one in ids] == [size % 8 for size in [*range(10), *range(20)]]
    wrong = await partitioned(client, message_router=lambda _message, _count: 8)
    with pytest.raises(InvalidArgument, match="chose 8"):
        wrong.send(b"x")


async def test_a_named_run_repeated_is_stored_once(client: Client, broker: Served) -> None:
    messages = [b"%d" % number for number in range(3_000)]
    for _ in range(2):
        producer = await partitioned(client, producer_name="run", initial_sequence_id=-1)
        for start in range(0, 3_000, 500):
            await producer.send_many(messages[start:start + 500])
        await producer.close()

    for partition in range(8):
        stored = await contents(client, partition)
        assert len(stored) == len(set(stored)) > 0


async def test_sequence_ids_decide_where_there_is_no_key(client: Client) -> None:
    for _ in range(2):
        producer = await partitioned(client, producer_name="p", initial_sequence_id=-1)
        ids = [
            await ticket for ticket in [
                producer.send(b"%d" % number, sequence_id=number) for number in range(100)
            ]
        ]
        assert [one.partition for one in ids] == [number % 8 for number in range(100)]
        assert producer.last_sequence_id == 99
        await producer.close()

    assert [len(await contents(client, partition)) for partition in range(8)] == [13] * 4 + [12] * 4


async def test_new_partitions_are_used_once_they_are_seen(client: Client, broker: Served) -> None:
    producer = await partitioned(client)
    keys = [f"key-{number}" for number in range(100)]
    before = [(await producer.send(b"", partition_key=key)).partition for key in keys]

    await broker.node.broker.catalog.grow_topic(ORDERS, 12)
    await until(lambda: producer.partitions == 12)

    after = [(await producer.send(b"", partition_key=key)).partition for key in keys]
    assert before == [murmur3_32(key) % 8 for key in keys]
    assert after == [murmur3_32(key) % 12 for key in keys]
    assert {one.partition for one in await (await producer.send_many([b"x"] * 12_000))} == set(
        range(12))


async def test_the_limit_in_bytes_holds_for_all_partitions_together(client: Client) -> None:
    producer = await partitioned(client, max_pending_bytes=100_000)

    tickets = []
    with pytest.raises(ProducerQueueFull, match="ready"):
        for number in range(1_000):
            tickets.append(producer.send(b"x" * 1_000, partition_key=f"k{number}"))
    assert 100_000 <= producer.pending_bytes <= 102_000

    await producer.ready()
    assert producer.pending_bytes <= 50_000
    tickets.append(producer.send(b"x" * 1_000))
    for ticket in tickets:
        assert isinstance(await ticket, MessageId)
    many = await producer.send_many([b"x" * 1_000] * 1_000)
    assert len(await many) == 1_000
    assert producer.pending_bytes == 0


async def test_bad_messages_are_refused_one_by_one(client: Client) -> None:
    producer = await partitioned(client)

    with pytest.raises(MessageTooLarge):
        producer.send(b"x" * (6 << 20))
    with pytest.raises(InvalidArgument, match="encode it first"):
        producer.send("text")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="encode it first"):
        await producer.send_many(["text"])  # type: ignore[list-item]
    assert isinstance(await producer.send(bytearray(b"fine")), MessageId)  # type: ignore[arg-type]


async def test_closing_flushes_and_ends_everything(client: Client, broker: Served) -> None:
    producer = await partitioned(client)
    for number in range(1_000):
        producer.send(b"%d" % number)

    await producer.close()
    await producer.close()

    assert producer.closed
    assert producer.acknowledged_messages == 1_000
    for use in (lambda: producer.send(b"x"), lambda: producer.send_batch(b"x")):
        with pytest.raises(AlreadyClosed):
            use()
    with pytest.raises(AlreadyClosed):
        await producer.send_many([b"x"])
    with pytest.raises(AlreadyClosed):
        await producer.ready()
    await until(lambda: broker.node.broker.topic_watches.watchers == 0)


async def test_a_partition_alone_is_a_topic_like_any_other(client: Client) -> None:
    producer = await client.create_producer("orders-partition-5")

    assert isinstance(producer, Producer)
    assert (await producer.send(b"x")).partition == 5
    with pytest.raises(TopicNotFound, match="no 8"):
        await client.create_producer("orders-partition-8")


async def test_one_producer_can_have_all_partitions_for_itself(client: Client) -> None:
    first = await partitioned(client, access_mode=ProducerAccessMode.Exclusive)
    assert first.topic_epoch > 0
    with pytest.raises(ProducerBusy):
        await partitioned(client)

    waiting = asyncio.create_task(
        partitioned(client, access_mode=ProducerAccessMode.WaitForExclusive))
    also = asyncio.create_task(
        partitioned(client, access_mode=ProducerAccessMode.WaitForExclusive))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.shield(waiting)
    await first.close()
    second = await waiting
    await second.send(b"x")
    await second.close()
    await (await also).close()


async def test_a_topic_that_cannot_be_opened_leaves_nothing_open(
    client: Client, broker: Served
) -> None:
    held = await client.create_producer(
        "orders-partition-3", access_mode=ProducerAccessMode.Exclusive)

    with pytest.raises(ProducerBusy):
        await partitioned(client)

    topics = broker.node.broker.registry.all()
    await until(lambda: sum(len(one.publishing.producers) for one in topics) == 1)
    assert not held.closed
    async with Client("magnetar://127.0.0.1:1", operation_timeout_seconds=0.2) as lost:
        with pytest.raises(ConnectionFailed):
            await lost.create_producer("orders")


async def test_watches_of_many_producers_share_one_stream(client: Client, broker: Served) -> None:
    for number in range(5):
        await broker.node.broker.catalog.create_topic(TopicName.parse(f"t{number}"), 2)
    producers = [await client.create_producer(f"t{number}") for number in range(5)]
    watches = broker.node.broker.topic_watches
    await until(lambda: any(
        len(one.names) == 5 for watch in watches._namespaces.values() for one in watch.watchers))

    assert watches.watchers == 1
    await broker.node.broker.catalog.grow_topic(TopicName.parse("t4"), 3)
    await until(lambda: producers[4].partitions == 3)
    assert producers[0].partitions == 2


async def test_a_batch_that_was_encoded_goes_where_its_key_names(client: Client) -> None:
    producer = await partitioned(client, producer_name="copy")
    batch = encode_batch(
        "copy", 7, [b"a", b"b"], publish_time_ms=1, columns=Columns(partition_keys=["k1", "k1"]))

    ids = await producer.send_batch(batch)

    assert {one.partition for one in ids} == {murmur3_32("k1") % 8}
    assert await contents(client, murmur3_32("k1") % 8) == [b"a", b"b"]
    assert producer.last_sequence_id == 8
    assert ProducerLimits().batch_bytes < producer.max_message_size_bytes
