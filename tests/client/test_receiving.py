"""How messages are received: many at once, by size, by policy, paused, and up to the end."""

from __future__ import annotations

import asyncio

import pytest

from magnetar import BatchReceivePolicy, Client, InitialPosition
from magnetar.errors import AlreadyClosed, EndOfTopic, InvalidArgument, OperationTimeout
from tests.client.memory_broker import MemoryCluster

EARLIEST = InitialPosition.Earliest


async def publish(client: Client, payloads: list[bytes], batching: bool = True) -> None:
    async with await client.create_producer("t", batching_enabled=batching) as producer:
        await producer.send_many(payloads)


async def test_as_many_as_fit_into_so_many_bytes(client: Client) -> None:
    await publish(client, [b"x" * 400, b"y" * 300, b"z" * 300, b"w" * 300, b"v" * 5000])
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)

    sizes = [
        [len(message.data) for message in await consumer.receive_many(100, 5000, 1000)]
        for _ in range(3)
    ]

    assert sizes == [[400, 300, 300], [300], [5000]]
    with pytest.raises(InvalidArgument):
        await consumer.receive_many(0)
    with pytest.raises(InvalidArgument):
        await consumer.receive_many(1, 1, 0)


async def test_a_batch_waits_until_it_is_complete(client: Client) -> None:
    consumer = await client.subscribe(
        "t", "s", initial_position=EARLIEST,
        batch_receive_policy=BatchReceivePolicy(30, 0, 0))
    waiting = asyncio.create_task(consumer.batch_receive())
    await publish(client, [b"%d" % number for number in range(20)])
    await consumer.last_message_id()
    assert not waiting.done()
    await publish(client, [b"%d" % number for number in range(20, 40)])

    assert [int(message.data) for message in await waiting] == list(range(30))
    rest = await consumer.batch_receive(BatchReceivePolicy(30, 0, 20))
    assert [int(message.data) for message in rest] == list(range(30, 40))
    assert await consumer.batch_receive(BatchReceivePolicy(30, 0, 20)) == []


async def test_a_batch_is_complete_with_so_many_bytes(client: Client) -> None:
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    policy = BatchReceivePolicy(0, 2500, 0)
    waiting = asyncio.create_task(consumer.batch_receive(policy))
    await publish(client, [b"x" * 1000] * 2)
    await consumer.last_message_id()
    assert not waiting.done()
    await publish(client, [b"x" * 1000] * 2)

    assert len(await waiting) == 2


async def test_a_batch_is_no_larger_than_the_receive_queue(client: Client) -> None:
    await publish(client, [b"x"] * 100)
    consumer = await client.subscribe(
        "t", "s", initial_position=EARLIEST, receiver_queue_size=20)

    found = await consumer.batch_receive(BatchReceivePolicy(1000, 0, 0))

    assert 15 <= len(found) <= 100


async def test_a_batch_that_is_not_taken_is_not_lost(client: Client) -> None:
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    waiting = asyncio.create_task(consumer.batch_receive(BatchReceivePolicy(10, 0, 0)))
    await publish(client, [b"x"] * 3)
    await consumer.last_message_id()
    waiting.cancel()

    assert len(await consumer.receive_many(10, 5000)) == 3


async def test_a_batch_has_a_limit() -> None:
    with pytest.raises(InvalidArgument):
        BatchReceivePolicy(0, 0, 0)
    with pytest.raises(InvalidArgument):
        BatchReceivePolicy(-1)


async def test_a_paused_consumer_is_sent_no_more(client: Client, cluster: MemoryCluster) -> None:
    consumer = await client.subscribe(
        "t", "s", initial_position=EARLIEST, receiver_queue_size=10)
    await publish(client, [b"%d" % number for number in range(8)], False)
    first = await consumer.receive(5000)
    consumer.pause()
    await publish(client, [b"%d" % number for number in range(8, 50)], False)
    received = [first, *await consumer.receive_many(100, 5000)]
    while True:
        try:
            received += await consumer.receive_many(100, 50)
        except OperationTimeout:
            break
    assert consumer.paused and len(received) < 50

    consumer.resume()
    while len(received) < 50:
        received += await consumer.receive_many(100, 5000)

    assert [int(message.data) for message in received] == list(range(50))


async def test_a_terminated_topic_ends(client: Client, cluster: MemoryCluster) -> None:
    await publish(client, [b"%d" % number for number in range(5)])
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    reader = await client.create_reader("t")
    waiting = asyncio.create_task(consumer.batch_receive(BatchReceivePolicy(10, 0, 0)))
    await consumer.last_message_id()
    cluster.topic("t").terminate()

    assert len(await waiting) == 5
    assert [message.data async for message in consumer] == []
    assert [int(message.data) async for message in reader] == list(range(5))
    with pytest.raises(EndOfTopic, match="terminated"):
        await consumer.receive()
    with pytest.raises(EndOfTopic):
        await consumer.receive_many()
    with pytest.raises(EndOfTopic):
        await reader.read_next()


async def test_what_failed_comes_before_the_end(client: Client, cluster: MemoryCluster) -> None:
    await publish(client, [b"%d" % number for number in range(5)])
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    cluster.topic("t").terminate()

    received = []
    async for message in consumer:
        if message.redelivery_count or message.data != b"4":
            await consumer.acknowledge(message)
        else:
            consumer.negative_acknowledge(message, 0.01)
        received.append((int(message.data), message.redelivery_count))

    assert received == [*((number, 0) for number in range(5)), (4, 1)]


async def test_the_end_is_told_on_a_new_link_too(client: Client, cluster: MemoryCluster) -> None:
    await publish(client, [b"x"])
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    cluster.topic("t").terminate()
    await consumer.receive(5000)
    cluster.drop_links()

    assert [message async for message in consumer] == []


async def test_iteration_raises_what_is_no_end_of_the_topic(client: Client) -> None:
    consumer = await client.subscribe("t", "s")
    await consumer.close()

    with pytest.raises(AlreadyClosed):
        async for _ in consumer:
            pass
