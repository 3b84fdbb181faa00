"""What the tests of schedules share: delayed batches, and the log as it lies there."""

from __future__ import annotations

from dataclasses import dataclass

from broker.conversation import Receipt
from ledger.position import BEFORE_FIRST
from magnetar.entry import EntryView, ScheduleMark, SchedulePlace, parse_prefix
from tests.broker.world import Node, Publisher, World, until

HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Stored:
    """A message of the topic's log."""

    payload: bytes
    producer: str
    sequence_id: int
    place: SchedulePlace | None
    mark: ScheduleMark | None
    append_time_ms: int


async def stored(node: Node) -> list[Stored]:
    """Everything in the topic's log, raw."""
    topic = await node.topic()
    found = []
    for entry in await topic.log.read(BEFORE_FIRST, 100_000, 1 << 30):
        prefix, batch = parse_prefix(entry.body)
        view = EntryView(batch)
        for index in range(view.count):
            origin = view.origin(index)
            found.append(Stored(
                view.payload(index), origin.producer_name, origin.sequence_id, origin.scheduled,
                prefix.mark, prefix.append_time_ms,
            ))
    return found


async def until_stored(node: Node, count: int) -> list[Stored]:
    topic = await node.topic()
    await until(lambda: topic.log.end_ordinal >= count)
    return await stored(node)


async def schedule(
    publisher: Publisher, *messages: tuple[bytes, int], first: int | None = None
) -> Receipt:
    """One batch of (payload, due time), durable."""
    expected = len(publisher.receipts) + publisher.session.outstanding + 1
    publisher.session.publish(delayed(publisher, *messages, first=first))
    await until(lambda: len(publisher.receipts) >= expected)
    return publisher.receipts[-1]


def delayed(
    publisher: Publisher, *messages: tuple[bytes, int], first: int | None = None
) -> bytes:
    return publisher.batch(
        *(payload for payload, _ in messages), first=first,
        deliver_at_ms=[due for _, due in messages],
    )


def place_of(receipt: Receipt, index: int = 0) -> SchedulePlace:
    assert receipt.error is None and receipt.scheduled, receipt
    return SchedulePlace(receipt.ledger_id, receipt.entry_id, index)


async def pass_time(node: Node, milliseconds: int) -> None:
    """Move the wall clock, and have the schedule look at it."""
    node.clock.wall_offset_ms += milliseconds
    (await node.topic()).schedule.fire()


async def takeover(made: World, node: Node, name: str) -> Node:
    """The owner dies; the next one's clock is as far."""
    offset_ms = node.clock.wall_offset_ms
    await made.kill(node)
    following = await made.broker(name)
    following.clock.wall_offset_ms = offset_ms
    await following.topic()
    return following
