"""Row 85: any delay, in milliseconds, up to years."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest

from magnetar import Client, InitialPosition
from magnetar.errors import OperationTimeout
from tests.features.cluster import FeatureCluster, client_of
from tests.features.embedded_cluster import EmbeddedCluster, Options

YEAR_MS = 365 * 24 * 3_600_000
QUIET_MS = 500


async def test_ten_years_ahead_and_not_a_second_sooner(
    tmp_path: Path, options: Options, topic: str
) -> None:
    async with (
        EmbeddedCluster(tmp_path, options) as cluster,
        Client(cluster.service_url, clock=cluster.clock) as client,
    ):
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(topic)
        due_ms = cluster.clock.wall_ms() + 10 * YEAR_MS
        scheduled_id = await producer.send(b"ten years", deliver_at=due_ms)

        cluster.clock.wall_offset_ms = 10 * YEAR_MS - 60_000
        await producer.send(b"wakes the schedule up", deliver_after=0.001)
        assert (await consumer.receive(30_000)).data == b"wakes the schedule up"
        with pytest.raises(OperationTimeout):
            await consumer.receive(QUIET_MS)
        cluster.clock.wall_offset_ms = 10 * YEAR_MS + 60_000
        await producer.send(b"and again", deliver_after=0.001)
        received = [await consumer.receive(30_000) for _ in range(2)]

    assert [message.data for message in received] == [b"ten years", b"and again"]
    assert received[0].scheduled_id == scheduled_id


@pytest.mark.parametrize("delay", [0.001, 0.037, timedelta(milliseconds=250), 1.5])
async def test_milliseconds_count(
    cluster: FeatureCluster, topic: str, delay: float | timedelta
) -> None:
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(topic)

        sent_s = time.time()
        await producer.send(b"later", deliver_after=delay)
        await consumer.receive(30_000)
        waited_s = time.time() - sent_s

    assert waited_s >= seconds - 0.001  # times are whole milliseconds
