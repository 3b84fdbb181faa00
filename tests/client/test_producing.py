"""Publishing through the SDK: nothing lost, doubled or reordered, whatever the link does."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from magnetar.client import Client
from magnetar.entry import EntryView
from magnetar.enums import CompressionType
from magnetar.errors import (
    AlreadyClosed,
    BacklogQuotaExceeded,
    ConnectionFailed,
    InvalidArgument,
    MessageTooLarge,
    NotSupported,
    OperationTimeout,
    ProducerFenced,
    ProducerQueueFull,
    TopicTerminated,
)
from magnetar.message_id import MessageId
from tests.client.memory_broker import MemoryCluster


def numbered(count: int) -> list[bytes]:
    return [b"%06d" % number for number in range(count)]


async def test_a_ticket_gives_the_message_id(client: Client, cluster: MemoryCluster) -> None:
    async with await client.create_producer("t") as producer:
        first = await producer.send(b"one")
        second = await producer.send(b"two")

    assert first == MessageId(-1, 7, 0, 0)
    assert first < second
    assert cluster.topic("t").payloads() == [b"one", b"two"]


async def test_sends_of_one_turn_of_the_loop_share_a_batch(
    client: Client, cluster: MemoryCluster
) -> None:
    async with await client.create_producer("t") as producer:
        ids = await asyncio.gather(*(producer.send(payload) for payload in numbered(50)))

    assert [found.batch_index for found in ids] == list(range(50))
    assert len(cluster.topic("t").entries) == 1


async def test_options_are_stored_with_the_message(
    client: Client, cluster: MemoryCluster
) -> None:
    async with await client.create_producer("t") as producer:
        producer.send(b"plain")
        producer.send(
            b"full", {"a": "1"}, partition_key="pk", ordering_key="ok", event_timestamp=99)
        producer.send(b"later", sequence_id=40)
        await producer.flush()
        assert producer.last_sequence_id == 40
        assert producer.acknowledged_messages == 3

    view = EntryView(cluster.topic("t").entries[0])
    assert [view.properties(index) for index in range(3)] == [{}, {"a": "1"}, {}]
    assert [view.partition_key(index) for index in range(3)] == [None, "pk", None]
    assert (view.ordering_key(1), view.event_time_ms(1), view.event_time_ms(0)) == ("ok", 99, 0)
    assert [view.sequence_id(index) for index in range(3)] == [0, 1, 40]


async def test_a_time_to_live_is_stored_with_the_message(
    client: Client, cluster: MemoryCluster
) -> None:
    async with await client.create_producer("t") as producer:
        producer.send(b"for ever")
        producer.send(b"a while", time_to_live=1.5)
        producer.send(b"a day", time_to_live=timedelta(days=1))
        await producer.flush()
        await (await producer.send_many([b"x", b"y"], time_to_live=0.001))
        for none in (0, -1, float("nan"), timedelta(0), 0.0001):
            with pytest.raises(InvalidArgument):
                producer.send(b"", time_to_live=none)

    stored, many = map(EntryView, cluster.topic("t").entries)
    assert [stored.expires_after_ms(index) for index in range(3)] == [0, 1_500, 86_400_000]
    assert [many.expires_after_ms(index) for index in range(2)] == [1, 1]


async def test_many_get_the_same_options(client: Client, cluster: MemoryCluster) -> None:
    async with await client.create_producer("t") as producer:
        await (await producer.send_many(
            [b"x", b"y"], {"a": "1"}, "tag", 9, partition_key="k", ordering_key="o",
            event_timestamp=99))

    [view] = map(EntryView, cluster.topic("t").entries)
    for index in range(2):
        assert view.properties(index) == {"a": "1"}
        assert (view.tag(index), view.partition_key(index)) == ("tag", "k")
        assert (view.ordering_key(index), view.event_time_ms(index)) == ("o", 99)
        assert view.expires_after_ms(index) == 9_000


@pytest.mark.parametrize("given", [
    {"deliver_at": 1.7e12}, {"deliver_at": "1"}, {"deliver_at": -1}, {"event_timestamp": 0.5},
    {"partition_key": 0}, {"ordering_key": b"k"}, {"sequence_id": 0.5}, {"deliver_after": "1"},
    {"deliver_at": 1, "deliver_after": 1},
])
async def test_a_bad_option_is_refused_and_does_no_harm(
    client: Client, cluster: MemoryCluster, given: dict[str, Any]
) -> None:
    async with await client.create_producer("t") as producer:
        with pytest.raises(InvalidArgument):
            producer.send(b"bad", **given)
        await producer.send(b"good")

    assert cluster.topic("t").payloads() == [b"good"]


@pytest.mark.parametrize("fault", ["lose", "refuse", "twice", "skip", "unavailable"])
async def test_no_loss_no_duplicate_no_reorder(
    client: Client, cluster: MemoryCluster, fault: str
) -> None:
    cluster.receipts.extend(["ok", fault, "ok", "ok", fault, fault])
    payloads = numbered(400)
    async with await client.create_producer(
        "t", batching_max_allowed_size_in_bytes=500
    ) as producer:
        tickets = await producer.send_many(payloads)
        ids = await tickets

    topic = cluster.topic("t")
    assert topic.payloads() == payloads
    assert ids == sorted(set(ids))
    assert [EntryView(topic.entries[found.entry_id]).payload(found.batch_index)
            for found in ids] == payloads


async def test_links_dropped_all_the_time(client: Client, cluster: MemoryCluster) -> None:
    payloads = numbered(600)
    async with await client.create_producer("t") as producer:
        tickets = []
        for number, payload in enumerate(payloads):
            tickets.append(producer.send(payload))
            if number % 60 == 0:
                await tickets[-1]
                cluster.drop_links()
        for ticket in tickets:
            await ticket

    assert cluster.topic("t").payloads() == payloads
    assert cluster.brokers[0].streams_opened > 5


async def test_another_broker_takes_over(cluster: MemoryCluster) -> None:
    other = await cluster.start_broker()
    async with Client(cluster.url) as client:
        producer = await client.create_producer("t")
        await producer.send(b"one")
        await cluster.brokers[0].kill()
        await producer.send(b"two")

        assert cluster.owner == other.address
        assert cluster.unreachable_told == [cluster.brokers[0].address]
        assert cluster.topic("t").payloads() == [b"one", b"two"]


async def test_a_relay_is_used_when_the_owner_cannot_be_reached(cluster: MemoryCluster) -> None:
    cluster.owner, cluster.relay_only = "127.0.0.1:1", True
    async with Client(cluster.url) as client:
        producer = await client.create_producer("t")
        await producer.send(b"one")
        consumer = await client.create_reader("t")

        assert (await consumer.read_next(5000)).data == b"one"
        assert cluster.brokers[0].opened_with_relay == 2


async def test_an_overlap_is_split(client: Client, cluster: MemoryCluster) -> None:
    async with await client.create_producer("t", "p") as producer:
        await (await producer.send_many(numbered(10)))
    async with await client.create_producer("t", "p", initial_sequence_id=-1) as producer:
        ids = await (await producer.send_many(numbered(25)))
        assert producer.acknowledged_messages == 25

    assert cluster.topic("t").payloads() == numbered(25)
    assert [found.batch_index for found in ids[10:]] == list(range(15))


async def test_a_second_session_goes_on_from_the_last_sequence_id(
    client: Client, cluster: MemoryCluster
) -> None:
    for _ in range(2):
        async with await client.create_producer("t", "p") as producer:
            await (await producer.send_many(numbered(5)))

    assert producer.last_sequence_id == 9
    assert cluster.topic("t").payloads() == numbered(5) * 2


async def test_a_full_queue_refuses_and_ready_waits(
    client: Client, cluster: MemoryCluster
) -> None:
    cluster.hold_receipts = asyncio.Event()
    producer = await client.create_producer("t", max_pending_bytes=1000)
    with pytest.raises(ProducerQueueFull):
        for _ in range(20):
            producer.send(bytes(100))
    waiting = asyncio.create_task(producer.ready())
    await asyncio.sleep(0)
    assert not waiting.done()

    cluster.hold_receipts.set()
    await waiting
    await producer.send(bytes(100))


async def test_send_many_waits_for_room(client: Client, cluster: MemoryCluster) -> None:
    payloads = numbered(2000)
    async with await client.create_producer("t", max_pending_bytes=4000) as producer:
        await producer.send_many(payloads)
        assert producer.pending_bytes <= 4000
        await producer.flush()

    assert cluster.topic("t").payloads() == payloads


async def test_what_can_never_be_sent_is_refused_at_once(
    client: Client, cluster: MemoryCluster
) -> None:
    cluster.max_message_bytes = 10
    producer = await client.create_producer("t")
    with pytest.raises(MessageTooLarge):
        producer.send(bytes(11))
    with pytest.raises(MessageTooLarge):
        await producer.send_many([b"", bytes(11)])
    with pytest.raises(InvalidArgument):
        producer.send("text")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        producer.send(b"", {"a": 1})  # type: ignore[dict-item]
    producer.send(b"", sequence_id=5)
    with pytest.raises(InvalidArgument):
        producer.send(b"", sequence_id=5)


async def test_a_refused_message_fails_alone(client: Client, cluster: MemoryCluster) -> None:
    producer = await client.create_producer("t", batching_enabled=False)
    refused = producer.send(b"later", deliver_after=60)
    stored = producer.send(b"now")

    with pytest.raises(NotSupported):
        await refused
    assert (await stored).entry_id == 0


async def test_a_message_above_the_quota_fails_alone_and_may_be_sent_again(
    client: Client, cluster: MemoryCluster
) -> None:
    cluster.receipts.extend(["ok", "BACKLOG_QUOTA_EXCEEDED", "ok", "BACKLOG_QUOTA_EXCEEDED"])
    producer = await client.create_producer("t", batching_enabled=False)
    tickets = [producer.send(b"%d" % number) for number in range(4)]

    for number in (1, 3):
        with pytest.raises(BacklogQuotaExceeded):
            await tickets[number]
    with pytest.raises(BacklogQuotaExceeded):
        await producer.flush()
    await producer.send(b"1")
    await producer.send(b"3", sequence_id=9)

    assert cluster.topic("t").payloads() == [b"0", b"2", b"1", b"3"]
    # The number of what was refused last is free again, that of what others came after is not.
    assert [EntryView(entry).sequence_id(0) for entry in cluster.topic("t").entries] == [
        0, 2, 3, 9]


@pytest.mark.parametrize(("code", "kind"), [
    ("TOPIC_TERMINATED", TopicTerminated), ("PRODUCER_FENCED", ProducerFenced),
])
async def test_a_refusal_for_ever_ends_the_producer(
    client: Client, cluster: MemoryCluster, code: str, kind: type[Exception]
) -> None:
    cluster.receipts.extend(["ok", code])
    producer = await client.create_producer("t", batching_enabled=False)
    tickets = [producer.send(b"%d" % number) for number in range(3)]

    await tickets[0]
    for ticket in tickets[1:]:
        with pytest.raises(kind):
            await ticket
    with pytest.raises(kind):
        producer.send(b"after")
    assert cluster.brokers[0].streams_opened == 1


async def test_closing_without_a_send_timeout_does_not_wait_for_ever(
    cluster: MemoryCluster
) -> None:
    cluster.hold_receipts = asyncio.Event()
    async with Client(cluster.url, operation_timeout_seconds=0.2) as client:
        producer = await client.create_producer("t", send_timeout_millis=0)
        ticket = producer.send(b"x")

        with pytest.raises(OperationTimeout, match=r"within 0\.2 s; they may or may not"):
            await producer.close()

        with pytest.raises(OperationTimeout):
            await ticket
        with pytest.raises(AlreadyClosed):
            producer.send(b"y")
    cluster.hold_receipts.set()


async def test_flush_tells_of_an_error_nobody_saw(client: Client) -> None:
    producer = await client.create_producer("t")
    producer.send(b"later", deliver_at=2**40)

    with pytest.raises(NotSupported):
        await producer.flush()
    await producer.flush()


async def test_a_message_expires_with_all_behind_it(
    client: Client, cluster: MemoryCluster
) -> None:
    cluster.hold_receipts = asyncio.Event()
    producer = await client.create_producer("t", send_timeout_millis=500)
    tickets = [producer.send(b"a"), producer.send(b"b")]

    for ticket in tickets:
        with pytest.raises(OperationTimeout):
            await ticket
    cluster.hold_receipts.set()
    await producer.send(b"c")


async def test_a_closed_producer_says_so(client: Client) -> None:
    producer = await client.create_producer("t")
    await producer.close()
    await producer.close()

    with pytest.raises(AlreadyClosed):
        producer.send(b"")


async def test_a_link_lost_in_the_goodbye_ends_it(
    client: Client, cluster: MemoryCluster
) -> None:
    cluster.lose_goodbyes = True
    producer = await client.create_producer("t")

    async with asyncio.timeout(2):
        await producer.close()

    assert producer.closed
    assert sum(broker.streams_opened for broker in cluster.brokers) == 1


async def test_nobody_there_is_a_connection_failure() -> None:
    async with Client("magnetar://127.0.0.1:1", operation_timeout_seconds=0.3) as client:
        with pytest.raises(ConnectionFailed):
            await client.create_producer("t")


@pytest.mark.parametrize("codec", list(CompressionType))
async def test_compressed_batches(
    client: Client, cluster: MemoryCluster, codec: CompressionType
) -> None:
    async with await client.create_producer("t", compression_type=codec) as producer:
        await producer.send_many([b"abc" * 100] * 100)

    assert EntryView(cluster.topic("t").entries[0]).header.codec.value == codec.value
    assert cluster.topic("t").payloads() == [b"abc" * 100] * 100


async def test_ready_waits_until_what_was_refused_fits(
    client: Client, cluster: MemoryCluster
) -> None:
    cluster.hold_receipts = asyncio.Event()
    producer = await client.create_producer("t", max_pending_bytes=1000)
    producer.send(bytes(400))
    with pytest.raises(ProducerQueueFull):
        producer.send(bytes(700))
    waiting = asyncio.create_task(producer.ready())
    await asyncio.sleep(0)
    assert not waiting.done()

    cluster.hold_receipts.set()
    await waiting
    await producer.send(bytes(700))


async def test_whoever_gives_up_waiting_for_room_is_forgotten(
    client: Client, cluster: MemoryCluster
) -> None:
    cluster.receipts.extend(["lose"])
    producer = await client.create_producer("t", max_pending_bytes=100)
    producer.send(b"x" * 100)
    with pytest.raises(ProducerQueueFull):
        producer.send(b"y")

    waiting = [asyncio.ensure_future(producer.ready()) for _ in range(3)]
    await asyncio.sleep(0)
    for one in waiting[:2]:
        one.cancel()
    await asyncio.gather(*waiting[:2], return_exceptions=True)

    assert len(producer._for_room) == 1
    await waiting[2]
    await producer.close()
