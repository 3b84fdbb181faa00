"""Messages that a user received and never settled count as failed."""

from __future__ import annotations

from typing import Any

import pytest

from magnetar import Client, InitialPosition
from magnetar.acknowledgement_timeouts import SLOTS, AcknowledgementTimeouts
from magnetar.errors import InvalidArgument, OperationTimeout
from tests.client.memory_broker import MemoryCluster

EARLIEST = InitialPosition.Earliest


class Entry:
    """As much of a received entry as is looked at."""

    def __init__(self, entry_id: int) -> None:
        self.position = (1, entry_id)


def handed(timeouts: AcknowledgementTimeouts, entry: Any, bits: int, now_s: float) -> None:
    timeouts.handed_out(entry, bits, now_s)


def test_each_is_overdue_once_and_not_before_its_time() -> None:
    timeouts, first, second = AcknowledgementTimeouts(16), Entry(0), Entry(1)
    handed(timeouts, first, 0b11, 100)
    handed(timeouts, second, 0b1, 108)

    assert timeouts.overdue(115.9) == []
    assert timeouts.overdue(100 + 16 + 16 / SLOTS) == [(first, 0b11)]
    assert timeouts.overdue(130) == [(second, 0b1)]
    assert timeouts.overdue(1000) == [] and timeouts.next_due_s is None and len(timeouts) == 0


def test_what_was_settled_is_not_overdue() -> None:
    timeouts, entry = AcknowledgementTimeouts(16), Entry(0)
    handed(timeouts, entry, 0b1111, 0)
    timeouts.settled((1, 0), 0b0101)

    assert timeouts.overdue(20) == [(entry, 0b1010)]


def test_a_message_received_again_has_its_time_anew() -> None:
    timeouts, once, again = AcknowledgementTimeouts(16), Entry(0), Entry(0)
    handed(timeouts, once, 0b1, 0)
    timeouts.settled((1, 0), 0b1)
    handed(timeouts, again, 0b1, 10)

    assert timeouts.overdue(20) == []
    assert timeouts.overdue(30) == [(again, 0b1)]


def test_everything_up_to_a_message_is_settled() -> None:
    timeouts, entries = AcknowledgementTimeouts(16), [Entry(number) for number in range(3)]
    for entry in entries:
        handed(timeouts, entry, 0b111, 0)
    timeouts.settled_up_to((1, 1), 0)

    assert timeouts.overdue(20) == [(entries[1], 0b110), (entries[2], 0b111)]


def test_an_entry_is_let_go_of_when_all_is_settled() -> None:
    timeouts = AcknowledgementTimeouts(16)
    for number in range(10_000):
        handed(timeouts, Entry(number), 0b1, number / 1000)
        timeouts.settled((1, number), None)

    assert len(timeouts) == 0
    assert len(timeouts._slots) <= SLOTS + 2
    assert all(timed.entry is None for _, slot in timeouts._slots for timed in slot)


async def test_a_forgotten_message_comes_again(client: Client, cluster: MemoryCluster) -> None:
    async with await client.create_producer("t") as producer:
        await producer.send_many([b"%d" % number for number in range(10)])
    consumer = await client.subscribe(
        "t", "s", initial_position=EARLIEST, unacked_messages_timeout_ms=80,
        redelivery_backoff=[0.01])
    messages = await consumer.receive_many(9, 5000) + [await consumer.receive(5000)]
    await consumer.acknowledge_many(messages[:6])
    consumer.negative_acknowledge(messages[6], 60)
    await consumer.acknowledge(messages[7].message_id)

    again = [await consumer.receive(5000) for _ in range(2)]

    assert sorted(message.data for message in again) == [b"8", b"9"]
    assert [message.redelivery_count for message in again] == [1, 1]
    reasons = {asked.reason for asked in cluster.topic("t").subscriptions["s"].negatives}
    assert reasons == {"", "acknowledgement timeout"}
    await consumer.acknowledge_cumulative(again[-1])
    with pytest.raises(OperationTimeout):
        await consumer.receive(200)


async def test_a_timeout_is_no_negative_number(client: Client) -> None:
    with pytest.raises(InvalidArgument):
        await client.subscribe("t", "s", unacked_messages_timeout_ms=-1)
