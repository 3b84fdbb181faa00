"""Messages that failed: when they come again, and what the broker is told."""

from __future__ import annotations

from datetime import timedelta

import pytest

from magnetar import Client, Consumer, InitialPosition, Message, RedeliveryBackoff
from magnetar.consumer import TopicConsumer
from magnetar.dead_letter import short_reason
from magnetar.errors import AlreadyClosed, InvalidArgument, OperationTimeout
from magnetar.message_id import MessageId
from magnetar.negative_acknowledgements import KEPT_ENTRIES, NegativeAcknowledger, Terms
from magnetar.redelivery_backoff import LONGEST_DELAY_MS, backoff_of
from tests.client.memory_broker import MemoryCluster
from tests.client.memory_subscription import MemorySubscription

EARLIEST = InitialPosition.Earliest


async def publish(client: Client, count: int) -> None:
    async with await client.create_producer("t") as producer:
        await producer.send_many([b"%d" % number for number in range(count)])


async def receive(consumer: Consumer, count: int) -> list[Message]:
    return [await consumer.receive(5000) for _ in range(count)]


def numbers(messages: list[Message]) -> list[int]:
    return [int(message.data) for message in messages]


def subscription(cluster: MemoryCluster) -> MemorySubscription:
    return cluster.topic("t").subscriptions["s"]


async def told(consumer: Consumer) -> None:
    """What was sent before is with the broker."""
    await consumer.last_message_id()


async def test_it_comes_again_after_the_default_delay_and_counts(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, 5)
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    messages = await receive(consumer, 5)
    consumer.negative_acknowledge(messages[3], reason="no stock")
    consumer.negative_acknowledge(messages[1].message_id)
    await told(consumer)
    with pytest.raises(OperationTimeout):
        await consumer.receive(20)

    subscription(cluster).release()
    again = await receive(consumer, 2)

    assert numbers(again) == [1, 3]
    assert [message.redelivery_count for message in again] == [1, 1]
    assert {(asked.delay_ms, asked.reason) for asked in subscription(cluster).negatives} == {
        (1000, "no stock"), (1000, "")}


@pytest.mark.parametrize("backoff, delays", [
    ([1, 5, timedelta(seconds=30)], [1000, 5000, 30_000, 30_000]),
    (RedeliveryBackoff(0.5, 3), [500, 1000, 2000, 3000]),
    (None, [70, 70, 70, 70]),
])
async def test_the_delay_grows_with_the_failures(
    client: Client, cluster: MemoryCluster, backoff: object, delays: list[int]
) -> None:
    await publish(client, 1)
    consumer = await client.subscribe(
        "t", "s", initial_position=EARLIEST, redelivery_backoff=backoff,
        negative_ack_redelivery_delay_ms=70)
    for _ in delays:
        [message] = await receive(consumer, 1)
        consumer.negative_acknowledge(message)
        await told(consumer)
        subscription(cluster).release()

    assert [asked.delay_ms for asked in subscription(cluster).negatives] == delays


async def test_a_delay_given_with_the_message_counts_more(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, 2)
    consumer = await client.subscribe(
        "t", "s", initial_position=EARLIEST, redelivery_backoff=[9])
    messages = await receive(consumer, 2)

    consumer.negative_acknowledge(messages[0], 0)
    consumer.reconsume_later(messages[1], timedelta(milliseconds=250))
    await told(consumer)

    assert [asked.delay_ms for asked in subscription(cluster).negatives] == [0, 250]
    assert numbers(await receive(consumer, 1)) == [0]


async def test_what_was_not_tried_comes_again_uncounted(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, 4)
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    messages = await receive(consumer, 4)

    consumer.give_back(messages[1:3])
    again = await receive(consumer, 2)

    assert numbers(again) == [1, 2]
    assert [message.redelivery_count for message in again] == [0, 0]


async def test_a_consumer_that_leaves_gives_back_what_it_did_not_receive(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, 10)
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    await receive(consumer, 3)
    await consumer.close()

    next_one = await client.subscribe("t", "s")
    messages = await receive(next_one, 10)

    assert [message.redelivery_count for message in messages] == [1] * 3 + [0] * 7


async def test_a_failure_without_a_link_keeps_its_delay(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, 3)
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    messages = await receive(consumer, 3)
    assert isinstance(consumer, TopicConsumer)
    cluster.drop_links()
    await consumer._parted.wait()

    consumer.negative_acknowledge(messages[1], 60, "no link")
    await told(consumer)
    with pytest.raises(OperationTimeout):
        await consumer.receive(50)
    subscription(cluster).release()

    assert numbers(await receive(consumer, 1)) == [1]
    assert [
        (asked.delay_ms, asked.reason) for asked in subscription(cluster).negatives
    ] == [(60_000, "no link")]


async def test_everything_unacknowledged_comes_again(client: Client) -> None:
    await publish(client, 6)
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    messages = await receive(consumer, 4)
    await consumer.acknowledge(messages[1])

    consumer.redeliver_unacknowledged_messages()
    again = await receive(consumer, 5)

    assert numbers(again) == [0, 2, 3, 4, 5]
    assert [message.redelivery_count for message in again] == [1, 1, 1, 0, 0]


async def test_a_late_acknowledgement_still_counts(
    client: Client, cluster: MemoryCluster
) -> None:
    await publish(client, 1)
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    [message] = await receive(consumer, 1)
    consumer.negative_acknowledge(message)
    await consumer.acknowledge(message)

    subscription(cluster).release()

    with pytest.raises(OperationTimeout):
        await consumer.receive(20)


async def test_many_reasons_all_arrive(client: Client, cluster: MemoryCluster) -> None:
    await publish(client, 2500)
    consumer = await client.subscribe("t", "s", initial_position=EARLIEST)
    for message in await receive(consumer, 2500):
        consumer.negative_acknowledge(message, 0, f"reason {int(message.data)}")

    assert sorted(numbers(await receive(consumer, 2500))) == list(range(2500))
    assert {asked.reason for asked in subscription(cluster).negatives} == {
        f"reason {number}" for number in range(2500)}


async def test_what_cannot_be(client: Client) -> None:
    for backoff in ([], "1, 2", [-1], [True], [LONGEST_DELAY_MS]):
        with pytest.raises(InvalidArgument):
            await client.subscribe("t", "s", redelivery_backoff=backoff)
    with pytest.raises(InvalidArgument):
        RedeliveryBackoff(2, 1)
    with pytest.raises(InvalidArgument):
        RedeliveryBackoff(multiplier=0.5)
    consumer = await client.subscribe("t", "s")
    with pytest.raises(InvalidArgument):
        consumer.negative_acknowledge(MessageId.earliest, -1)
    with pytest.raises(InvalidArgument):
        consumer.negative_acknowledge("7:0")
    await consumer.close()
    with pytest.raises(AlreadyClosed):
        consumer.negative_acknowledge(MessageId.earliest)
    with pytest.raises(AlreadyClosed):
        consumer.give_back([])


def test_a_long_reason_is_cut_between_characters() -> None:
    cut = short_reason("é" * 2000)

    assert cut.endswith("é…") and len(cut.encode()) <= 1024
    assert short_reason("short") == "short"


def test_a_steady_backoff_needs_no_count() -> None:
    assert RedeliveryBackoff(1, 60, 1).delay_ms(10**9) == 1000
    assert backoff_of([1], 0).delay_ms(10**9) == 1000
    assert RedeliveryBackoff().delay_ms(10**9) == 60_000


def test_what_is_given_back_without_a_link_is_kept_up_to_a_bound_and_told_beyond(
    caplog: pytest.LogCaptureFixture
) -> None:
    terms, negatives = Terms(60_000, "no stock"), NegativeAcknowledger("orders")
    for entry in range(KEPT_ENTRIES):
        negatives.add((1, entry), None, terms)
    negatives.link_lost()
    assert caplog.messages == []

    for entry in range(3):
        negatives.add((2, entry), None, terms)
    negatives.link_lost()

    assert caplog.messages == [
        "a consumer of orders gave back messages of more than 10000 entries while it had no link:"
        " those of the first 3 come again at once, without their delay and reason"
    ]
    assert not list(negatives.take_kept((1, 2), 0b1))
    assert list(negatives.take_kept((1, 3), 0b1)) == [(terms, 0b1)]
    assert list(negatives.take_kept((2, 2), 0b1)) == [(terms, 0b1)]
