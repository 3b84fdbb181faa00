"""A key whose message failed waits for it, also with what had been fetched ahead."""

from __future__ import annotations

from typing import Any

import pytest

from magnetar import Client, Consumer, ConsumerType, InitialPosition
from magnetar.entry import Columns, encode_batch
from magnetar.errors import OperationTimeout
from magnetar.failed_keys import FailedKeys
from tests.client.memory_broker import MemoryCluster

EARLIEST = InitialPosition.Earliest
KEYS = "abc"


async def publish(client: Client, count: int, batching: bool) -> None:
    """Message n has the key of its letter."""
    async with await client.create_producer("t", batching_enabled=batching) as producer:
        for number in range(count):
            key = KEYS[number % len(KEYS)]
            producer.send(f"{key}{number // len(KEYS)}".encode(), ordering_key=key)


async def subscribe(client: Client, name: str = "s", **options: Any) -> Consumer:
    return await client.subscribe(
        "t", name, initial_position=EARLIEST, redelivery_backoff=[60],
        **{"consumer_type": ConsumerType.KeyShared, **options})


async def drain(consumer: Consumer) -> list[str]:
    """What can be received without waiting long, acknowledged."""
    received = []
    try:
        while True:
            message = await consumer.receive(250)
            await consumer.acknowledge(message)
            received.append(message.data.decode())
    except OperationTimeout:
        return received


def of(key: str, numbers: range) -> list[str]:
    return [f"{key}{number}" for number in numbers]


@pytest.mark.parametrize("batching", [True, False])
async def test_the_key_waits_and_the_others_do_not(
    client: Client, cluster: MemoryCluster, batching: bool
) -> None:
    await publish(client, 30, batching)
    consumer = await subscribe(client)
    failed = await consumer.receive(5000)
    consumer.negative_acknowledge(failed)

    others = await drain(consumer)
    cluster.topic("t").subscriptions["s"].release()
    rest = await drain(consumer)

    assert failed.data == b"a0"
    assert [name for name in others if name[0] == "b"] == of("b", range(10))
    assert [name for name in others if name[0] == "c"] == of("c", range(10))
    assert len(others) == 20
    assert rest == of("a", range(10))


async def test_what_was_given_back_for_its_key_counts_no_delivery(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, 30, True)
    consumer = await subscribe(client)
    consumer.negative_acknowledge(await consumer.receive(5000))
    await drain(consumer)
    cluster.topic("t").subscriptions["s"].release()

    again = [await consumer.receive(5000)]
    await consumer.acknowledge(again[0])
    again += [await consumer.receive(5000) for _ in range(9)]

    assert [message.redelivery_count for message in again] == [1] + [0] * 9


async def test_it_fails_again_and_the_key_waits_again(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, 30, True)
    consumer = await subscribe(client)
    for count in range(4):
        message = await consumer.receive(5000)
        assert (message.data, message.redelivery_count) == (b"a0", count)
        consumer.negative_acknowledge(message)
        assert [name for name in await drain(consumer) if name[0] == "a"] == []
        cluster.topic("t").subscriptions["s"].release()

    assert await drain(consumer) == of("a", range(10))


async def test_two_failures_of_a_key_come_back_in_order(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, 30, True)
    consumer = await subscribe(client)
    messages = [await consumer.receive(5000) for _ in range(4)]  # a0 b0 c0 a1
    consumer.negative_acknowledge(messages[3])
    consumer.negative_acknowledge(messages[0])
    await consumer.acknowledge_many(messages[1:3])
    assert [name for name in await drain(consumer) if name[0] == "a"] == []
    cluster.topic("t").subscriptions["s"].release()

    assert await drain(consumer) == of("a", range(10))


async def test_what_was_under_way_when_it_failed_comes_behind_it(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, 1, True)
    consumer = await subscribe(client)
    failed = await consumer.receive(5000)
    # The broker sends these before it hears of the failure.
    cluster.topic("t").append(encode_batch(
        "p", 0, [b"b0", b"a1", b"a2"], publish_time_ms=1,
        columns=Columns(ordering_keys=["b", "a", "a"])))
    consumer.negative_acknowledge(failed)

    others = await drain(consumer)
    cluster.topic("t").subscriptions["s"].release()

    assert others == ["b0"]
    assert await drain(consumer) == ["a0", "a1", "a2"]


async def test_by_choice_without_or_with_another_type(client: Client) -> None:
    await publish(client, 30, True)
    passing = await subscribe(client, hold_failed_keys=False)
    holding = await subscribe(
        client, "other", consumer_type=ConsumerType.Exclusive, hold_failed_keys=True)

    passing.negative_acknowledge(await passing.receive(5000))
    holding.negative_acknowledge(await holding.receive(5000))

    assert len(await drain(passing)) == 29
    assert len(await drain(holding)) == 20


async def test_a_lost_link_and_a_seek_forget_what_was_held(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, 30, True)
    consumer = await subscribe(client)
    consumer.negative_acknowledge(await consumer.receive(5000))
    await consumer.seek(EARLIEST)
    assert len(await drain(consumer)) == 30

    await consumer.seek(EARLIEST)
    for _ in range(3):
        message = await consumer.receive(5000)
        consumer.negative_acknowledge(message, 0)
        cluster.drop_links()
    assert len(await drain(consumer)) == 30


def test_a_message_under_way_is_refused_until_the_broker_knew() -> None:
    keys = FailedKeys()
    keys.add("a", (1, 0, 0))
    keys.told(5)

    assert keys.refuses("a", (1, 0, 3))
    assert not keys.refuses("b", (1, 0, 4))
    assert not keys.refuses(None, (1, 0, 5))
    keys.answered(4)
    assert keys.refuses("a", (1, 0, 3))
    keys.answered(5)
    assert not keys.refuses("a", (1, 0, 3))
    assert not keys


def test_the_failed_one_ends_the_waiting_when_it_comes_but_not_that_of_another() -> None:
    keys = FailedKeys()
    keys.add("a", (1, 0, 0))
    keys.told(5)
    keys.add("a", (1, 0, 3))

    assert not keys.refuses("a", (1, 0, 0))
    assert keys.refuses("a", (1, 0, 6))
    keys.told(6)
    keys.answered(6)
    assert not keys
