"""Consumers of every type over gRPC: the SDK and the broker together."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from magnetar import (
    Client,
    Consumer,
    ConsumerType,
    DeadLetterPolicy,
    InitialPosition,
    Message,
)
from magnetar.errors import ConsumerBusy, OperationTimeout
from tests.broker.test_service import served
from tests.broker.world import TOPIC, until, world

EARLIEST = InitialPosition.Earliest
KEYS = "abcdefgh"


async def publish(client: Client, names: list[str], *, batching: bool = True) -> None:
    """The first letter is the key."""
    async with await client.create_producer("orders", batching_enabled=batching) as producer:
        for name in names:
            producer.send(name.encode(), ordering_key=name[0])


def names(letters: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(count) for letter in letters]


async def drain(consumer: Consumer, seen: list[str], wait_ms: int = 300) -> list[str]:
    """Everything that comes, acknowledged; returns it, and adds it to `seen` as it comes."""
    mine = []
    with suppress(OperationTimeout):
        while True:
            message = await consumer.receive(wait_ms)
            seen.append(message.data.decode())
            mine.append(message.data.decode())
            await consumer.acknowledge(message)
    return mine


async def subscribe(client: Client, kind: ConsumerType, **options: Any) -> Consumer:
    return await client.subscribe(
        "orders", "s", consumer_type=kind, initial_position=EARLIEST, **options)


async def test_failover_hands_over_when_the_active_one_closes() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        told: list[tuple[str, bool]] = []

        def changed(consumer: Consumer, active: bool) -> None:
            told.append((consumer.consumer_name, active))

        await publish(client, names("a", 20))
        first = await subscribe(
            client, ConsumerType.Failover, consumer_name="1", on_active_changed=changed)
        second = await subscribe(
            client, ConsumerType.Failover, consumer_name="2", on_active_changed=changed)
        await until(lambda: ("1", True) in told)
        for _ in range(5):
            await first.acknowledge(await first.receive(5000))
        assert (first.is_active, second.is_active) == (True, False)
        with pytest.raises(OperationTimeout):
            await second.receive(50)

        await first.close()
        rest = await drain(second, [])

        assert rest == names("a", 20)[5:]
        assert told == [("1", True), ("1", False), ("2", True)]


async def test_keys_stay_in_order_while_consumers_join_and_leave() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        seen: list[str] = []
        one = await subscribe(client, ConsumerType.KeyShared)
        working = [asyncio.create_task(drain(one, seen, 1000))]
        await publish(client, names(KEYS, 50), batching=False)
        others = [await subscribe(client, ConsumerType.KeyShared) for _ in range(2)]
        working += [asyncio.create_task(drain(other, seen, 1000)) for other in others]
        await publish(client, [f"{key}{50 + number}" for number in range(50) for key in KEYS])
        await asyncio.gather(*working)

        for key in KEYS:
            assert [name for name in seen if name[0] == key] == names(key, 100)


@pytest.mark.parametrize("batching", [True, False])
@pytest.mark.parametrize("kind", [ConsumerType.KeyShared, ConsumerType.Exclusive])
async def test_a_failed_message_holds_its_key_and_no_other(
    kind: ConsumerType, batching: bool
) -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await publish(client, names("abc", 30), batching=batching)
        consumer = await subscribe(
            client, kind, hold_failed_keys=True, redelivery_backoff=[0.02, 0.2])
        handed: list[tuple[str, int]] = []
        with suppress(OperationTimeout):
            while True:
                message = await consumer.receive(600)
                handed.append((message.data.decode(), message.redelivery_count))
                if message.data == b"b3" and message.redelivery_count < 2:
                    consumer.negative_acknowledge(message, reason="not yet")
                else:
                    await consumer.acknowledge(message)

        for key in "abc":
            mine = [name for name, _ in handed if name[0] == key]
            expected = names(key, 30)
            if key == "b":
                expected = [*expected[:4], "b3", "b3", *expected[4:]]
            assert mine == expected
        assert [name for name in handed if name[1]] == [("b3", 1), ("b3", 2)]


async def test_what_was_not_tried_counts_no_delivery() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await publish(client, names("a", 10))
        consumer = await subscribe(client, ConsumerType.Shared)
        messages = [await consumer.receive(5000) for _ in range(4)]
        consumer.give_back(messages[2:])
        again = [await consumer.receive(5000) for _ in range(2)]
        await consumer.close()

        next_one = await subscribe(client, ConsumerType.Shared)
        rest = [await next_one.receive(5000) for _ in range(10)]

        assert {message.redelivery_count for message in again} == {0}
        counts = {message.data.decode(): message.redelivery_count for message in rest}
        assert {name for name, count in counts.items() if count} == {
            message.data.decode() for message in (*messages[:2], *again)}


async def test_what_fails_too_often_is_moved_with_its_reason() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await publish(client, names("a", 3))
        consumer = await subscribe(
            client, ConsumerType.Shared, redelivery_backoff=[0],
            dead_letter_policy=DeadLetterPolicy(3, "orders-dead"))
        deliveries: list[str] = []
        dead = await client.subscribe("orders-dead", "s", initial_position=EARLIEST)
        for _ in range(5):
            message = await consumer.receive(5000)
            deliveries.append(message.data.decode())
            if message.data == b"a1":
                consumer.negative_acknowledge(message, reason="never works")
            else:
                await consumer.acknowledge(message)
        letter = await dead.receive(5000)

        assert sorted(deliveries) == ["a0", "a1", "a1", "a1", "a2"]
        assert letter.data == b"a1"
        assert "never works" in letter.properties.values()


@pytest.mark.parametrize("kind", [ConsumerType.Exclusive, ConsumerType.Shared])
async def test_a_terminated_topic_ends_behind_what_failed(kind: ConsumerType) -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await publish(client, names("a", 5))
        await (await broker.node.topic()).terminate()
        consumer = await subscribe(
            client, kind, dead_letter_policy=DeadLetterPolicy(2), redelivery_backoff=[0.02])
        received: list[tuple[str, int]] = []
        async with asyncio.timeout(20):
            async for message in consumer:
                received.append((message.data.decode(), message.redelivery_count))
                if message.data == b"a1" or (
                    message.data == b"a4" and not message.redelivery_count
                ):
                    consumer.negative_acknowledge(message)
                else:
                    await consumer.acknowledge(message)

        assert sorted(received) == [
            ("a0", 0), ("a1", 0), ("a1", 1), ("a2", 0), ("a3", 0), ("a4", 0), ("a4", 1)]


async def test_broadcast_members_keep_positions_of_their_own() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await publish(client, names("a", 10))
        one = await subscribe(client, ConsumerType.Broadcast, consumer_name="1")
        two = await subscribe(client, ConsumerType.Broadcast, consumer_name="2")
        assert await drain(one, []) == names("a", 10)
        messages = await two.receive_many(4, 5000)
        await two.acknowledge_cumulative(messages[-1])
        await two.close()
        with pytest.raises(ConsumerBusy):
            await subscribe(client, ConsumerType.Broadcast, consumer_name="1")

        again = await subscribe(client, ConsumerType.Broadcast, consumer_name="2")

        assert await drain(again, []) == names("a", 10)[len(messages):]


async def test_an_acknowledgement_timeout_gives_the_message_to_another() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await publish(client, ["a0"])
        sleepy = await subscribe(
            client, ConsumerType.Shared, unacked_messages_timeout_ms=50, redelivery_backoff=[0])
        forgotten = await sleepy.receive(5000)
        other = await subscribe(client, ConsumerType.Shared)
        sleepy.pause()

        message: Message | None = None
        while message is None:
            with suppress(OperationTimeout):
                message = await other.receive(100)
            with suppress(OperationTimeout):
                again = await sleepy.receive(0)  # it may come here once more
                sleepy.give_back([again])
        await other.acknowledge(message)

        assert (forgotten.data, message.data) == (b"a0", b"a0")
        assert message.redelivery_count >= 1


async def test_handlers_go_on_after_a_restart_without_loss() -> None:
    async with world() as made, served(made) as broker:
        handled: list[str] = []
        async with Client(broker.url) as client:
            await publish(client, names(KEYS, 30))
        for enough in (60, 240):
            async with Client(broker.url) as client:
                @client.on(
                    "orders", "s", initial_position=EARLIEST, concurrency=4,
                    consumer_type=ConsumerType.KeyShared, redelivery_backoff=[0])
                async def handle(message: Message) -> None:
                    await asyncio.sleep(0)
                    name = message.data.decode()
                    if name[1:] == "7" and not message.redelivery_count:
                        raise ValueError("once")
                    handled.append(name)

                await client.start_listeners()
                await until(lambda enough=enough: len(handled) >= enough)  # type: ignore[misc]

        assert sorted(handled) == sorted(names(KEYS, 30))
        for key in KEYS:
            assert [name for name in handled if name[0] == key] == names(key, 30)
        topic = await broker.node.topic(TOPIC)
        assert topic.state.subscriptions["s"].backlog_messages == 0


async def test_requests_are_answered_over_a_topic_in_memory() -> None:
    async with (
        world() as made, served(made) as broker, Client(broker.url) as client,
        Client(broker.url) as server,
    ):
        @server.reply("prices", concurrency=20)
        async def price(request: Message) -> bytes:
            return request.data.upper()

        await server.start_listeners()
        replies = await asyncio.gather(*(
            client.request("prices", b"x%d" % number) for number in range(100)))

        assert [reply.data for reply in replies] == [b"X%d" % number for number in range(100)]
        assert all(reply.topic_name.startswith("non-persistent://") for reply in replies)
        with pytest.raises(OperationTimeout):
            await client.request("nobody", b"", 0.05)
