"""Row 10: what is consumed is kept as the policy says, and its space on the bookies is freed."""

from __future__ import annotations

import asyncio

import pytest

from bookie.limits import BookieLimits
from bookie.settings import BookieSettings
from broker.settings import BrokerLimits
from magnetar import InitialPosition, Producer
from magnetar.ids import BookieId
from tests.features.cluster import FeatureCluster, client_of, eventually
from tests.features.embedded_cluster import EmbeddedCluster, Options

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20
LEDGER_BYTES, FILE_BYTES = MIB, MIB
PUBLISHED_BYTES, PAYLOAD_BYTES = 12 * MIB, 10_000
FREED_WITHIN_S = 60.0
OVERHEAD = 1.3


@pytest.fixture
def options() -> Options:
    return Options(
        limits=BrokerLimits(maintenance_interval_s=0.5),
        bookie=BookieSettings(
            BookieId("any"), gc_interval_s=1.0, limits=BookieLimits(file_bytes=FILE_BYTES)),
    )


async def _publish(producer: Producer) -> None:
    payload = b"x" * PAYLOAD_BYTES
    await (await producer.send_many([payload] * (PUBLISHED_BYTES // PAYLOAD_BYTES)))


async def _live_bytes(cluster: FeatureCluster, topic: str) -> int:
    async with client_of(cluster) as client:
        return sum(one.size_bytes for one in (await client.admin.topics.stats(topic)).ledgers)


@pytest.mark.parametrize("retention_bytes", [0, 3 * MIB])
async def test_space_falls_to_the_policy_plus_one_ledger(
    cluster: FeatureCluster, topic: str, retention_bytes: int
) -> None:
    before = cluster.bookie_bytes()
    async with client_of(cluster) as client:
        await client.admin.topics.create(topic)
        await client.admin.policies.set({
            "max_ledger_bytes": LEDGER_BYTES, "retention_bytes": retention_bytes,
            "retention_minutes": -1 if retention_bytes else 0,
        }, topic=topic)
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        await _publish(await client.create_producer(topic))
        kept_bytes = await _live_bytes(cluster, topic)

        for _ in range(PUBLISHED_BYTES // PAYLOAD_BYTES):
            await consumer.acknowledge(await consumer.receive(30_000))

        async with asyncio.timeout(FREED_WITHIN_S):
            while await _live_bytes(cluster, topic) > retention_bytes + LEDGER_BYTES:
                await asyncio.sleep(0.2)

        def on_disk(name: str) -> int:
            return cluster.bookie_bytes()[name] - before[name]

        if isinstance(cluster, EmbeddedCluster):  # whose bookies have small files
            await eventually(
                lambda: max(map(on_disk, cluster.bookie_names))
                <= OVERHEAD * (retention_bytes + LEDGER_BYTES) + FILE_BYTES,
                FREED_WITHIN_S)

    assert kept_bytes >= PUBLISHED_BYTES * 0.9


async def test_what_is_not_consumed_stays(cluster: FeatureCluster, topic: str) -> None:
    async with client_of(cluster) as client:
        await client.admin.topics.create(topic)
        await client.admin.policies.set(
            {"max_ledger_bytes": LEDGER_BYTES, "retention_minutes": 0}, topic=topic)
        await client.admin.subscriptions.create(topic, "slow")
        await _publish(await client.create_producer(topic))

        await asyncio.sleep(2)  # several rounds of maintenance
        kept_bytes = await _live_bytes(cluster, topic)

    assert kept_bytes >= PUBLISHED_BYTES * 0.9
