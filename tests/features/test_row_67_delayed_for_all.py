"""Row 67: delayed messages for every type of subscription; cancelled, moved, listed and counted."""

from __future__ import annotations

import time

import pytest

from magnetar import ConsumerType, InitialPosition, ScheduledId, ScheduleOutcome
from magnetar.errors import OperationTimeout
from tests.features.cluster import FeatureCluster, client_of, kill_owner

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


@pytest.mark.parametrize("partitions", [0, 2])
async def test_a_producer_cancels_and_moves_its_own_across_a_loss_of_the_owner(
    cluster: FeatureCluster, topic: str, partitions: int
) -> None:
    async with client_of(cluster) as client:
        await client.admin.topics.create(topic, partitions)
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(topic, "p")
        ids = [await producer.send(b"%d" % number, partition_key="k", deliver_after=3600)
               for number in range(3)]
        assert all(isinstance(one, ScheduledId) for one in ids)

        cancelled = await producer.cancel(ids[0])
        owned = f"{topic}-partition-{ids[0].partition}" if partitions else topic
        killed = await kill_owner(cluster, owned)
        again = await producer.cancel(ids[0])
        moved = await producer.reschedule(ids[1], deliver_after=0.2)
        early = await consumer.receive(30_000)
        too_late = await producer.cancel(ids[1])
        left = await client.admin.schedule.list(topic)
        await cluster.restart(killed)

    assert (cancelled, again, moved, too_late) == (
        ScheduleOutcome.CANCELLED, ScheduleOutcome.CANCELLED, ScheduleOutcome.MOVED,
        ScheduleOutcome.DELIVERED)
    assert (early.data, early.scheduled_id) == (b"1", ids[1])
    assert [one.scheduled_id for one in left.messages] == [ids[2]]
