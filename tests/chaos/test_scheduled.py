"""Owner and a bookie are killed while scheduled messages fire: none early, none lost, none twice.

MAGNETAR_SCHEDULED_MESSAGES says how many; the log is read raw, past the brokers.
"""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from demo.cluster import ProcessCluster
from magnetar import Client, InitialPosition
from magnetar.errors import ProducerQueueFull
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.tcp import TcpNetwork
from metadata.open import open_store
from tests.features.raw_log import raw_log

MESSAGES = int(os.environ.get("MAGNETAR_SCHEDULED_MESSAGES", "50000"))
PER_S = 5_000
SPAN_MS = max(8_000, MESSAGES * 1000 // PER_S)
FILL_PER_S = 20_000
LAST = b"the last one, at once"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240 + MESSAGES // 1_000)]


async def _fill(client: Client, topic: str, start_ms: int) -> None:
    producer = await client.create_producer(topic, "filler", send_timeout_millis=120_000)
    for number in range(MESSAGES):
        due_ms = start_ms + number * 7_919 % MESSAGES * SPAN_MS // MESSAGES
        payload = b"%d %d" % (number, due_ms)
        try:
            producer.send(payload, deliver_at=due_ms)
        except ProducerQueueFull:
            await producer.ready()
            producer.send(payload, deliver_at=due_ms)
    await producer.flush()


async def _until(at_ms: int) -> None:
    await asyncio.sleep(max(0.0, at_ms / 1000 - time.time()))


async def test_each_scheduled_message_is_in_the_log_once_and_not_early(
    cluster: ProcessCluster,
) -> None:
    topic = "persistent://public/default/scheduled-under-fire"
    start_ms = int(time.time() * 1000) + 3_000 + MESSAGES * 1000 // FILL_PER_S
    received: set[int] = set()
    async with Client(cluster.service_url, operation_timeout_seconds=120) as client:
        await client.admin.topics.create(topic)
        await client.admin.policies.set({"retention_minutes": -1}, topic=topic)
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        await _fill(client, topic, start_ms)

        await _until(start_ms + SPAN_MS // 4)
        owner = await cluster.owner_of(topic)
        cluster.kill(owner)
        await _until(start_ms + SPAN_MS // 2)
        cluster.kill(cluster.bookie_names[0])
        cluster.restart(owner)
        await _until(start_ms + SPAN_MS * 3 // 4)
        cluster.restart(cluster.bookie_names[0])
        async with asyncio.timeout(120 + SPAN_MS / 1000):
            while len(received) < MESSAGES:
                for message in await consumer.receive_many(10_000):
                    received.add(int(message.data.split()[0]))
                    consumer.acknowledge(message)
        await (await client.create_producer(topic)).send(LAST)

    store = await open_store(
        cluster.metadata_url, network=TcpNetwork(), clock=SystemClock(), session_timeout_s=10)
    times_in_log = [0] * MESSAGES
    early = out_of_order = 0
    latest_due_ms = 0
    try:
        async for append_ms, payload in raw_log(store, topic):
            if payload == LAST:
                continue
            number, due_ms = map(int, payload.split())
            times_in_log[number] += 1
            early += append_ms < due_ms
            out_of_order += due_ms < latest_due_ms
            latest_due_ms = max(latest_due_ms, due_ms)
    finally:
        await store.close()

    assert times_in_log.count(1) == MESSAGES
    assert not early
    assert not out_of_order
