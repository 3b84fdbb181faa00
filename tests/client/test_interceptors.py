"""Interceptors: what they see and change, and that their failures do no harm."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from magnetar import (
    Client,
    Consumer,
    ConsumerInterceptor,
    InitialPosition,
    Message,
    MessageId,
    OutgoingMessage,
    ProducerInterceptor,
)
from magnetar.consumer import TopicConsumer
from magnetar.errors import InvalidArgument, MessageTooLarge, OperationTimeout
from magnetar.intercepted_consumer import InterceptedConsumer
from magnetar.intercepted_producer import InterceptedProducer
from magnetar.producer import Producer
from tests.client.memory_broker import MemoryCluster

EARLIEST = InitialPosition.Earliest


class Stamp(ProducerInterceptor, ConsumerInterceptor):
    """Adds its name to a property, and keeps what it was told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[Any] = []

    def before_send(self, topic: str, message: OutgoingMessage) -> OutgoingMessage:
        by = (message.properties or {}).get("by", "")
        return message._replace(properties={"by": by + self.name})

    def on_acknowledged(
        self, topic: str, message: OutgoingMessage, message_id: Any, error: Exception | None
    ) -> None:
        self.told.append((topic, message.content, message.properties, message_id, error))

    def before_receive(self, consumer: Consumer, message: Message) -> Message:
        self.told.append(("receive", message.data))
        return message

    def on_acknowledge(
        self, consumer: Consumer, message: Message | MessageId, cumulative: bool
    ) -> None:
        self.told.append(("acknowledge", data_of(message), cumulative))

    def on_negative_acknowledge(
        self, consumer: Consumer, message: Message | MessageId, reason: str
    ) -> None:
        self.told.append(("negative", data_of(message), reason))


class Broken(ProducerInterceptor, ConsumerInterceptor):
    """Raises wherever it can."""

    def _fail(self, *_: object) -> Any:
        raise RuntimeError("of the user")

    before_send = on_acknowledged = before_receive = _fail
    on_acknowledge = on_negative_acknowledge = _fail


class Forgetful(ProducerInterceptor, ConsumerInterceptor):
    """Gives nothing back."""

    def before_send(self, topic: str, message: OutgoingMessage) -> Any:
        return None

    def before_receive(self, consumer: Consumer, message: Message) -> Any:
        return None


class Shouting(Message):
    """A message that a user made something of."""

    __slots__ = ()

    @property
    def data(self) -> bytes:
        return super().data.upper()


class Shout(ConsumerInterceptor):
    def before_receive(self, consumer: Consumer, message: Message) -> Message:
        return Shouting(message.entry, message.index)


def data_of(message: Message | MessageId) -> bytes:
    return message.data if isinstance(message, Message) else b"id"


async def test_producers_tell_of_each_message_and_of_its_end(cluster: MemoryCluster) -> None:
    first, second = Stamp("a"), Stamp("b")
    async with Client(cluster.url, interceptors=[first]) as client:
        async with await client.create_producer("t", interceptors=[second]) as producer:
            one = await producer.send(b"one", {"by": "me:"}, tag="kept")
            await producer.send_many(
                [b"two", b"three"], ordering_key="k", event_timestamp=99)
        reader = await client.create_reader("t")
        messages = [await reader.read_next(5000) for _ in range(3)]

    assert [message.properties["by"] for message in messages] == ["me:ab", "ab", "ab"]
    assert messages[0].tag == "kept"
    assert {(one.ordering_key, one.event_timestamp) for one in messages[1:]} == {("k", 99)}
    assert [content for _, content, _, _, _ in first.told] == [b"one", b"two", b"three"]
    assert first.told[0] == (
        "persistent://public/default/t", b"one", {"by": "me:ab"}, one, None)
    assert first.told == second.told


async def test_a_message_that_failed_is_told_and_flush_still_raises(
    client: Client, cluster: MemoryCluster
) -> None:
    stamp = Stamp("a")
    producer = await client.create_producer(
        "t", interceptors=[stamp], send_timeout_millis=30)
    cluster.hold_receipts = asyncio.Event()
    producer.send(b"x")
    with pytest.raises(OperationTimeout):
        await producer.flush()
    cluster.hold_receipts.set()

    [(_, content, _, message_id, error)] = stamp.told
    assert (content, message_id) == (b"x", None)
    assert isinstance(error, OperationTimeout)


async def test_what_cannot_be_sent_is_told_to_the_caller_alone(
    client: Client, cluster: MemoryCluster
) -> None:
    cluster.max_message_bytes = 100
    stamp = Stamp("a")
    producer = await client.create_producer("t", interceptors=[stamp])

    with pytest.raises(MessageTooLarge):
        producer.send(b"x" * 1000)

    assert stamp.told == []


async def test_consumers_tell_what_becomes_of_messages(client: Client) -> None:
    stamp = Stamp("a")
    async with await client.create_producer("t") as producer:
        await producer.send_many([b"%d" % number for number in range(8)])
    consumer = await client.subscribe(
        "t", "s", initial_position=EARLIEST, interceptors=[stamp],
        unacked_messages_timeout_ms=60, negative_ack_redelivery_delay_ms=60_000)
    assert isinstance(consumer, InterceptedConsumer)

    one = await consumer.receive(5000)
    several = await consumer.receive_many(3, 5000)
    rest = consumer.take(10)
    await consumer.acknowledge(one)
    await consumer.acknowledge_many(several[:2])
    await consumer.acknowledge_cumulative(several[2].message_id)
    consumer.negative_acknowledge(rest[0], reason="why")
    await consumer.acknowledge_many(rest[2:])
    async with asyncio.timeout(5):
        while stamp.told[-1][0] != "negative" or stamp.told[-1][1] != b"5":
            await asyncio.sleep(0.005)

    assert stamp.told[:8] == [("receive", b"%d" % number) for number in range(8)]
    assert stamp.told[8:] == [
        ("acknowledge", b"0", False), ("acknowledge", b"1", False), ("acknowledge", b"2", False),
        ("acknowledge", b"id", True), ("negative", b"4", "why"), ("acknowledge", b"6", False),
        ("acknowledge", b"7", False), ("negative", b"5", "acknowledgement timeout")]


async def test_a_message_may_be_replaced_and_is_acknowledged_all_the_same(
    client: Client, cluster: MemoryCluster
) -> None:
    async with await client.create_producer("t") as producer:
        await producer.send(b"quiet")
    consumer = await client.subscribe(
        "t", "s", initial_position=EARLIEST, interceptors=[Shout()])

    [message] = await consumer.batch_receive()
    await consumer.acknowledge(message)

    assert message.data == b"QUIET"
    assert cluster.topic("t").subscriptions["s"].acknowledged == {0: 1}


@pytest.mark.parametrize("other", [Broken(), Forgetful()])
async def test_one_that_fails_is_passed_over_and_logged(
    cluster: MemoryCluster, other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stamp = Stamp("a")
    async with Client(cluster.url, interceptors=[other, stamp]) as client:
        async with await client.create_producer("t") as producer:
            await producer.send(b"one")
        consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
        message = await consumer.receive(5000)
        await consumer.acknowledge(message)
        consumer.negative_acknowledge(message)

    assert message.properties == {"by": "a"}
    assert [told[0] for told in stamp.told] == [
        "persistent://public/default/t", "receive", "acknowledge", "negative"]
    assert type(other).__name__ in caplog.text


async def test_without_any_nothing_stands_between(client: Client) -> None:
    producer = await client.create_producer("t", interceptors=[Shout()])
    consumer = await client.subscribe("t", "s", interceptors=[ProducerInterceptor()])

    assert type(producer) is Producer and type(consumer) is TopicConsumer
    assert type(await client.create_producer("t", interceptors=[Stamp("a")])) is (
        InterceptedProducer)
    for wrong in ("x", Stamp):
        with pytest.raises(InvalidArgument, match="interceptor"):
            await client.create_producer("t", interceptors=[wrong])
        with pytest.raises(InvalidArgument, match="interceptor"):
            Client(interceptors=[wrong])
