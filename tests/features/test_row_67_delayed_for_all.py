"""Row 67: delayed messages for every type of subscription; cancelled, moved, listed and counted."""

from __future__ import annotations

import time

import pytest

from magnetar import ConsumerType, InitialPosition
from magnetar.admin.schedule_values import ScheduleOutcome
from magnetar.errors import OperationTimeout
from tests.features.cluster import FeatureCluster, client_of

MESSAGES = 50


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.mark.parametrize("kind", list(ConsumerType))
async def test_every_type_of_subscription_gets_them_when_due(
    cluster: FeatureCluster, topic: str, kind: ConsumerType
) -> None:
    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            topic, "s", consumer_type=kind, consumer_name="one",
            initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(topic)
        start_ms = now_ms() + 400
        for number in range(MESSAGES):
            producer.send(
                b"%d" % (start_ms + number * 10), partition_key=f"{number % 3}",
                deliver_at=start_ms + number * 10)
        await producer.flush()

        received = []
        for _ in range(MESSAGES):
            message = await consumer.receive(30_000)
            received.append((int(message.data), now_ms()))
            await consumer.acknowledge(message)

    assert all(at_ms >= due_ms for due_ms, at_ms in received)
    assert sorted(due_ms for due_ms, _ in received) == [
        start_ms + number * 10 for number in range(MESSAGES)]


async def test_what_waits_is_listed_counted_cancelled_and_moved(
    cluster: FeatureCluster, topic: str
) -> None:
    hour_ms = 3_600_000
    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(topic)
        due_ms = now_ms() + hour_ms
        ids = [await producer.send(b"%d" % number, deliver_at=due_ms + number)
               for number in range(4)]

        counted = await client.admin.schedule.count(topic)
        page = await client.admin.schedule.list(topic)
        cancelled = await client.admin.schedule.cancel(topic, ids[0])
        again = await client.admin.schedule.cancel(topic, ids[0])
        moved = await client.admin.schedule.move(topic, ids[1], now_ms() + 200)
        early = await consumer.receive(30_000)
        too_late = await client.admin.schedule.cancel(topic, ids[1])
        left = await client.admin.schedule.count(topic)
        with pytest.raises(OperationTimeout):
            await consumer.receive(500)

    assert counted == 4 and left == 2
    assert [one.scheduled_id for one in page.messages] == ids
    assert (early.data, early.scheduled_id) == (b"1", ids[1])
    assert (cancelled, again, moved, too_late) == (
        ScheduleOutcome.CANCELLED, ScheduleOutcome.CANCELLED, ScheduleOutcome.MOVED,
        ScheduleOutcome.DELIVERED)
