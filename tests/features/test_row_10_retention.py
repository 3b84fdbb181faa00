"""Row 10: what is kept by policy is kept, and the space of the rest is really freed on bookies.

Within a minute of consumption the ledgers that live on the bookies are down to what policy asks
for plus one ledger, and the bookies' files to 1.3 times that plus one file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bookie.limits import BookieLimits
from bookie.settings import BookieSettings
from broker.settings import BrokerLimits
from magnetar import Client, InitialPosition
from magnetar.ids import BookieId
from magnetar.topic import TopicName
from tenants.administration import TenantAdministration
from tenants.policies import TopicPolicies
from tests.features.embedded_cluster import EmbeddedCluster, Options

KIB, MIB = 1 << 10, 1 << 20
FREED_WITHIN_S = 60
ACKNOWLEDGED_TOGETHER = 10_000
"""Well below what a consumer may have unacknowledged."""
FILES_RATIO = 1.3

STATE_BYTES = 128 * KIB
"""What a topic remembers beside its messages: subscriptions, producers."""

FILE_BYTES, LEDGER_BYTES = 512 * KIB, 256 * KIB
SMALL = Options(
    policies=TopicPolicies(
        max_ledger_bytes=LEDGER_BYTES, roll_consumed_bytes=128 * KIB, roll_consumed_idle_ms=100,
    ),
    limits=BrokerLimits(maintenance_interval_s=0.25),
    bookie=BookieSettings(
        BookieId("any"), gc_interval_s=0.5,
        limits=BookieLimits(file_bytes=FILE_BYTES, read_only_below_bytes=MIB, reserve_bytes=KIB),
    ),
)


async def holds_within(seconds: float, condition: Callable[[], bool]) -> float:
    """After how many seconds the condition held."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < seconds, "not in time"
        await asyncio.sleep(0.1)
    return time.monotonic() - started_s


def live_bytes(cluster: EmbeddedCluster) -> dict[str, int]:
    """Of ledgers that are not deleted, on each bookie, with what a record costs beside its body."""
    return {name: node.storage.files.usage.total_bytes for name, node in cluster.bookies.items()}


def within(cluster: EmbeddedCluster, kept_bytes: int, ledger_bytes: int, file_bytes: int) -> bool:
    """Live bytes are what is to be kept and one ledger; files 1.3 times that and one file."""
    live, files = live_bytes(cluster), cluster.bookie_bytes()
    allowed = (kept_bytes + ledger_bytes) * 1.05  # the headers of records
    return max(live.values()) <= allowed and all(
        files[name] <= FILES_RATIO * live[name] + file_bytes * 1.1 for name in files
    )


async def publish(client: Client, topic: str, size_bytes: int, message_bytes: int = KIB) -> None:
    producer = await client.create_producer(topic)
    left = size_bytes // message_bytes
    while left:
        count = min(left, 4_000)
        await (await producer.send_many([b"x" * message_bytes] * count))
        left -= count
    await producer.close()


async def consume_all(client: Client, topic: str, messages: int) -> None:
    consumer = await client.subscribe(topic, "s", initial_position=InitialPosition.Earliest)
    for number in range(1, messages + 1):
        message = await consumer.receive(30_000)
        if number == messages or number % ACKNOWLEDGED_TOGETHER == 0:
            await consumer.acknowledge_cumulative(message)
    await consumer.close()


async def test_a_consumed_topic_leaves_nothing_on_the_bookies(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, SMALL) as cluster, Client(cluster.service_url) as client:
        await publish(client, "orders", 6 * MIB)
        assert max(live_bytes(cluster).values()) > 6 * MIB
        await consume_all(client, "orders", 6 * KIB)

        await holds_within(FREED_WITHIN_S, lambda: within(cluster, 0, STATE_BYTES, FILE_BYTES))


async def test_retention_by_size_is_kept_to_one_ledger(tmp_path: Path) -> None:
    kept_bytes = MIB
    options = replace(SMALL, policies=SMALL.policies.overlay(
        {"retention_minutes": -1, "retention_bytes": kept_bytes}
    ))
    async with EmbeddedCluster(tmp_path, options) as cluster, Client(cluster.service_url) as client:
        await publish(client, "orders", 4 * MIB)
        await consume_all(client, "orders", 4 * KIB)

        await holds_within(
            FREED_WITHIN_S, lambda: within(cluster, kept_bytes, LEDGER_BYTES, FILE_BYTES)
        )
        assert min(live_bytes(cluster).values()) >= kept_bytes - 2 * LEDGER_BYTES


async def test_retention_by_time_keeps_messages_until_then(tmp_path: Path) -> None:
    options = replace(SMALL, policies=SMALL.policies.overlay({"retention_minutes": 10}))
    async with EmbeddedCluster(tmp_path, options) as cluster, Client(cluster.service_url) as client:
        await publish(client, "orders", 2 * MIB)
        await consume_all(client, "orders", 2 * KIB)
        rounds = {name: node.garbage.rounds for name, node in cluster.bookies.items()}
        await holds_within(FREED_WITHIN_S, lambda: all(
            node.garbage.rounds >= rounds[name] + 3 for name, node in cluster.bookies.items()
        ))
        assert max(live_bytes(cluster).values()) > 2 * MIB
        reader = await client.create_reader("orders")
        assert await reader.read_next(5_000)

        cluster.clock.wall_offset_ms = 11 * 60_000

        await holds_within(FREED_WITHIN_S, lambda: within(cluster, 0, STATE_BYTES, FILE_BYTES))


async def test_what_lives_beside_what_was_consumed_is_moved_together(tmp_path: Path) -> None:
    """Files in which a kept topic lies among a consumed one are compacted."""
    async with EmbeddedCluster(tmp_path, SMALL) as cluster, Client(cluster.service_url) as client:
        assert cluster.metadata is not None
        session = cluster.metadata.open_session()
        await TenantAdministration(session).change_topic_policies(
            TopicName.parse("kept"), {"retention_minutes": -1}
        )
        for _ in range(20):
            await publish(client, "kept", 64 * KIB)
            await publish(client, "consumed", 256 * KIB)
        await consume_all(client, "kept", 20 * 64)
        await consume_all(client, "consumed", 20 * 256)

        await holds_within(
            FREED_WITHIN_S, lambda: within(cluster, 20 * 64 * KIB, LEDGER_BYTES, FILE_BYTES)
        )

        reader = await client.create_reader("kept")
        found = [await reader.read_next(5_000) for _ in range(20 * 64)]
        assert len(found) == 20 * 64
        assert any(any((tmp_path / name / "log").glob("run-*")) for name in cluster.bookie_names)
        await session.close()


async def test_a_slow_consumer_frees_what_it_has_while_it_goes_on(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, SMALL) as cluster, Client(cluster.service_url) as client:
        await publish(client, "orders", 4 * MIB)
        consumer = await client.subscribe("orders", "s", initial_position=InitialPosition.Earliest)
        for _ in range(3 * KIB):
            message = await consumer.receive(30_000)
        await consumer.acknowledge_cumulative(message)

        await holds_within(
            FREED_WITHIN_S, lambda: within(cluster, MIB, LEDGER_BYTES, FILE_BYTES)
        )


async def test_a_deleted_topic_is_gone_from_the_bookies(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, SMALL) as cluster, Client(cluster.service_url) as client:
        await publish(client, "orders", 2 * MIB)
        await client.subscribe("orders", "s")
        owner = await cluster.owner_of("orders")
        broker = cluster.brokers[owner].broker
        assert broker is not None
        topic = broker.registry.get(TopicName.parse("orders").full)
        assert topic is not None
        ledgers = topic.log.log.record.every_ledger

        await broker.lifecycle.delete("orders", force=True)

        await holds_within(FREED_WITHIN_S, lambda: not any(
            set(ledgers) & set(node.storage.files.usage.ledgers())
            for node in cluster.bookies.values()
        ))
        for node in cluster.bookies.values():
            assert not set(await node.storage.ledger_ids()) & set(ledgers)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_same_at_full_size_with_the_settings_of_a_cluster(tmp_path: Path) -> None:
    options = Options(limits=BrokerLimits(), bookie=BookieSettings(BookieId("any")))
    file_bytes, messages = options.bookie.limits.file_bytes, 60_000
    async with EmbeddedCluster(tmp_path, options) as cluster, Client(cluster.service_url) as client:
        await publish(client, "orders", messages * 10 * KIB, 10 * KIB)
        assert max(live_bytes(cluster).values()) > messages * 10 * KIB
        await consume_all(client, "orders", messages)

        took_s = await holds_within(
            FREED_WITHIN_S, lambda: within(cluster, 0, STATE_BYTES, file_bytes)
        )

        print(f"freed {messages * 10 * KIB / MIB:.0f} MiB a bookie within {took_s:.0f} s")
