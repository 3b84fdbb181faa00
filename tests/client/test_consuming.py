"""Consuming through the SDK: order, acknowledgement, redelivery, seek, and lost links."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from magnetar.client import Client
from magnetar.consuming import Consumer
from magnetar.enums import InitialPosition
from magnetar.errors import (
    AlreadyClosed,
    ConsumerBusy,
    InvalidArgument,
    InvalidFrame,
    InvalidTopicName,
    OperationTimeout,
)
from magnetar.message_id import MessageId
from magnetar.wire import broker_pb2 as pb
from tests.client.memory_broker import MemoryCluster

EARLIEST = InitialPosition.Earliest


def numbered(count: int) -> list[bytes]:
    return [b"%06d" % number for number in range(count)]


async def publish(client: Client, payloads: list[bytes], batch_bytes: int = 380) -> None:
    async with await client.create_producer(
        "t", batching_max_allowed_size_in_bytes=batch_bytes
    ) as producer:
        await producer.send_many(payloads)


async def receive(consumer: Consumer, count: int) -> list[bytes]:
    return [(await consumer.receive(5000)).data for _ in range(count)]


async def test_a_message_has_what_its_producer_gave(client: Client) -> None:
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    async with await client.create_producer("t", "p") as producer:
        sent = await producer.send(
            b"data", {"a": "b"}, partition_key="k", ordering_key="o", event_timestamp=5)

    message = await consumer.receive(5000)

    assert message.message_id == sent
    assert (message.data, message.properties) == (b"data", {"a": "b"})
    assert (message.partition_key, message.ordering_key) == ("k", "o")
    assert (message.event_timestamp, message.redelivery_count) == (5, 0)
    assert message.topic_name == "persistent://public/default/t"
    assert (message.producer_name, message.sequence_id) == ("p", 0)
    assert message.publish_timestamp > 1_500_000_000_000


async def test_everything_once_and_in_order(client: Client) -> None:
    payloads = numbered(3000)
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST, receiver_queue_size=7)
    await publish(client, payloads)

    assert await receive(consumer, 3000) == payloads
    with pytest.raises(OperationTimeout):
        await consumer.receive(20)


async def test_receive_many_and_async_for(client: Client) -> None:
    await publish(client, numbered(20))
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    first = await consumer.receive_many(5)
    rest = []
    async for message in consumer:
        rest.append(message.data)
        if len(first) + len(rest) == 20:
            break

    assert [message.data for message in first] + rest == numbered(20)


async def test_acknowledged_messages_do_not_come_again(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, numbered(30))
    async with await client.subscribe("t", "s", initial_position=EARLIEST) as consumer:
        messages = [await consumer.receive(5000) for _ in range(30)]
        for message in messages[::2]:
            claim = consumer.acknowledge(message)
        await claim
        assert cluster.acknowledge_requests <= 2
    async with await client.subscribe("t", "s") as consumer:
        assert await receive(consumer, 15) == numbered(30)[1::2]


async def test_many_are_acknowledged_in_any_order_up_to_what_is_none(
    client: Client, cluster: MemoryCluster
) -> None:
    async with await client.create_producer("t", batching_max_allowed_size_in_bytes=200) as one:
        await (await one.send_many([b"%06d" % number for number in range(40)]))
    async with await client.subscribe(
        "t", "s", initial_position=InitialPosition.Earliest
    ) as consumer:
        messages = [await consumer.receive(5000) for _ in range(40)]
        assert len({message.entry for message in messages}) > 3
        mixed: list[Any] = [*messages[9::-1], *messages[20:30:2], messages[39].message_id,
                            *messages[21:30:2]]
        await consumer.acknowledge_many(mixed)
        with pytest.raises(InvalidArgument):
            consumer.acknowledge_many([messages[10], messages[11], None, messages[12]])  # type: ignore[list-item]

    again = await client.subscribe("t", "s")
    left = [int((await again.receive(5000)).data) for _ in range(17)]
    assert left == [*range(12, 20), *range(30, 39)]


async def test_cumulative_and_by_id(client: Client) -> None:
    await publish(client, numbered(30))
    async with await client.subscribe("t", "s", initial_position=EARLIEST) as consumer:
        messages = [await consumer.receive(5000) for _ in range(30)]
        await consumer.acknowledge_cumulative(messages[13])
        kept = MessageId.deserialize(messages[20].message_id.serialize())
        await consumer.acknowledge(kept)
    async with await client.subscribe("t", "s") as consumer:
        assert await receive(consumer, 15) == numbered(30)[14:20] + numbered(30)[21:]


async def test_a_lost_link_brings_nothing_twice(client: Client, cluster: MemoryCluster) -> None:
    payloads = numbered(300)
    await publish(client, payloads)
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    received = []
    for number in range(300):
        message = await consumer.receive(5000)
        received.append(message.data)
        if number % 3 == 0:
            await consumer.acknowledge(message)
        if number % 50 == 17:
            cluster.drop_links()

    assert received == payloads
    assert cluster.brokers[0].streams_opened > 6


async def test_an_acknowledgement_whose_answer_was_lost_is_sent_again(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, numbered(3))
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    cluster.lose_acknowledge_replies = 2

    await consumer.acknowledge(await consumer.receive(5000))

    assert cluster.acknowledge_requests == 3
    assert await receive(consumer, 2) == numbered(3)[1:]


async def test_seek(client: Client) -> None:
    await publish(client, numbered(50))
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    messages = [await consumer.receive(5000) for _ in range(20)]

    await consumer.seek(messages[7].message_id)
    assert await receive(consumer, 2) == numbered(50)[7:9]
    await consumer.seek(EARLIEST)
    assert await receive(consumer, 50) == numbered(50)
    await consumer.seek(MessageId.latest)
    with pytest.raises(OperationTimeout):
        await consumer.receive(20)


async def test_a_seek_gives_up_when_no_broker_answers(cluster: MemoryCluster) -> None:
    async with Client(cluster.url, operation_timeout_seconds=0.1) as client:
        await publish(client, numbered(1))
        consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
        message = await consumer.receive(5000)
        await cluster.stop()
        consumer.acknowledge(message)

        async with asyncio.timeout(10):
            with pytest.raises(OperationTimeout):
                await consumer.seek(EARLIEST)
            with pytest.raises(OperationTimeout):
                await consumer.close()


async def test_a_planned_move_takes_consumers_along(cluster: MemoryCluster) -> None:
    other = await cluster.start_broker()
    async with Client(cluster.url) as client:
        await publish(client, numbered(10))
        consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
        readers = [await client.create_reader("t") for _ in range(3)]
        assert await receive(consumer, 10) == numbered(10)
        for reader in readers:
            assert [(await reader.read_next(5000)).data for _ in range(10)] == numbered(10)

        # Whoever notices first closes the channel they all share.
        client._connections.forget(cluster.owner)
        await cluster.brokers[0].kill()
        await publish(client, [b"new"])

        assert cluster.owner == other.address
        assert await receive(consumer, 1) == [b"new"]
        for reader in readers:
            assert (await reader.read_next(5000)).data == b"new"


async def test_a_lost_link_after_a_seek_brings_nothing_twice(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, numbered(30))
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    await receive(consumer, 5)
    await consumer.seek(EARLIEST)
    received = await receive(consumer, 12)
    cluster.drop_links()

    assert received + await receive(consumer, 18) == numbered(30)
    with pytest.raises(OperationTimeout):
        await consumer.receive(20)


async def test_damage_on_the_way_is_fetched_again(client: Client, cluster: MemoryCluster) -> None:
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    for session in cluster.topic("t").sessions:
        session.corrupt_deliveries = 1
    await publish(client, [b"x"])

    assert await receive(consumer, 1) == [b"x"]


async def test_damage_in_the_store_is_an_error(client: Client) -> None:
    async with await client.create_producer("damaged") as producer:
        await producer.send(b"x")
    consumer = await client.subscribe("damaged", "s", initial_position=EARLIEST)

    with pytest.raises(InvalidFrame, match="7:0"):
        await consumer.receive(5000)


async def test_exclusive_and_unsubscribe(client: Client, cluster: MemoryCluster) -> None:
    consumer = await client.subscribe("t", "s")
    with pytest.raises(ConsumerBusy):
        await client.subscribe("t", "s")
    await consumer.unsubscribe()

    assert not cluster.topic("t").subscriptions
    with pytest.raises(AlreadyClosed):
        await consumer.receive()


@pytest.mark.parametrize("end", ["close", "unsubscribe"])
async def test_a_consumer_that_the_broker_let_go_has_ended_whoever_still_waits_for_it(
    client: Client, cluster: MemoryCluster, end: str
) -> None:
    consumer = await client.subscribe("t", "s")
    (session,) = cluster.topic("t").sessions
    say, said = session.say, asyncio.Queue[pb.ConsumeReply]()
    session.say = said.put_nowait  # type: ignore[method-assign]
    receiving = asyncio.ensure_future(consumer.receive())
    ending = asyncio.ensure_future(getattr(consumer, end)())
    goodbye = await said.get()
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)

    say(goodbye)

    async with asyncio.timeout(10):
        with pytest.raises(AlreadyClosed):
            await receiving
        assert consumer.closed
        await consumer.close()


async def test_what_is_not_there(client: Client) -> None:
    with pytest.raises(InvalidTopicName):
        await client.create_producer("a/b")
    with pytest.raises(InvalidArgument):
        await client.subscribe("t", "")


NO_MESSAGES = [
    MessageId.earliest, MessageId.latest, MessageId(-1, 7, -1, 0), MessageId(-1, 1 << 64, 0, 0),
    MessageId(-1, 7, 0, 1 << 30), "7:0",
]


@pytest.mark.parametrize("no_message", NO_MESSAGES, ids=str)
@pytest.mark.parametrize("topics", ["t", ["t", "u"]], ids=["one", "several"])
async def test_what_is_no_messages_id_is_refused_and_disturbs_nothing(
    client: Client, topics: str | list[str], no_message: MessageId
) -> None:
    await publish(client, numbered(2))
    consumer = await client.subscribe(topics, "s", initial_position=EARLIEST)
    message = await consumer.receive(5000)
    claim = consumer.acknowledge(message)

    for settle in (
        consumer.acknowledge, consumer.acknowledge_cumulative, consumer.negative_acknowledge,
    ):
        with pytest.raises(InvalidArgument):
            settle(no_message)

    await claim
    assert await receive(consumer, 1) == numbered(2)[1:]


@pytest.mark.parametrize("no_message", NO_MESSAGES[2:], ids=str)
async def test_nothing_begins_at_what_is_no_messages_id(
    client: Client, no_message: MessageId
) -> None:
    consumer = await client.subscribe("t", "s")
    reader = await client.create_reader("t")
    for seek in (consumer.seek, reader.seek):
        with pytest.raises(InvalidArgument):
            await seek(no_message)
    with pytest.raises(InvalidArgument):
        await client.create_reader("t", no_message)

    await consumer.seek(EARLIEST)
    await reader.seek(EARLIEST)


@pytest.mark.parametrize("size", [0, -1, 1 << 31, 1.5])
async def test_a_receive_queue_has_a_size_that_a_broker_takes(client: Client, size: int) -> None:
    with pytest.raises(InvalidArgument, match="receiver_queue_size"):
        await client.subscribe("t", "s", receiver_queue_size=size)
    with pytest.raises(InvalidArgument, match="receiver_queue_size"):
        await client.create_reader("t", receiver_queue_size=size)


async def test_a_cancelled_receive_loses_nothing(client: Client) -> None:
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    waiting = asyncio.create_task(consumer.receive())
    await asyncio.sleep(0)
    waiting.cancel()
    await publish(client, [b"x"])

    assert (await consumer.receive(5000)).data == b"x"


async def test_a_reader_reads_and_resumes(client: Client, cluster: MemoryCluster) -> None:
    payloads = numbered(100)
    await publish(client, payloads)
    reader = await client.create_reader("t")
    read = []
    while await reader.has_message_available():
        read.append((await reader.read_next(5000)).data)
        if len(read) % 30 == 5:
            cluster.drop_links()

    assert read == payloads


async def test_the_rest_of_a_batch_is_available_after_a_lost_link(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, numbered(3), batch_bytes=100_000)
    reader = await client.create_reader("t")
    for number in range(2):
        assert (await reader.read_next(5000)).data == numbered(3)[number]
        cluster.drop_links()
        while reader._queue.count:
            await asyncio.sleep(0)
        reader._queue.paused = True  # the rest has not come again yet

        assert await reader.has_message_available()
        reader._queue.paused = False
        reader._wake()

    assert (await reader.read_next(5000)).data == numbered(3)[2]
    assert not await reader.has_message_available()


async def test_a_reader_from_a_message(client: Client) -> None:
    await publish(client, numbered(20))
    reader = await client.create_reader("t")
    message_id = [await reader.read_next(5000) for _ in range(8)][-1].message_id

    after = await client.create_reader("t", message_id)
    at = await client.create_reader("t", message_id, start_message_id_inclusive=True)

    assert (await after.read_next(5000)).data == b"000008"
    assert (await at.read_next(5000)).data == b"000007"
    await reader.seek(message_id)
    assert (await reader.read_next(5000)).data == b"000007"


async def test_a_reader_from_the_end_misses_nothing(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, numbered(3))
    reader = await client.create_reader("t", MessageId.latest)
    assert not await reader.has_message_available()
    cluster.drop_links()
    await publish(client, [b"new"])

    assert (await reader.read_next(5000)).data == b"new"


async def test_a_damaged_entry_costs_no_permits(client: Client) -> None:
    consumer = await client.subscribe(
        "damaged", "s", initial_position=EARLIEST, receiver_queue_size=1)
    async with await client.create_producer("damaged", batching_enabled=False) as producer:
        for _ in range(3):
            await producer.send(b"x")

    for entry in range(3):
        with pytest.raises(InvalidFrame, match=f"7:{entry}"):
            await consumer.receive(2000)
