"""Row 10: what is consumed is kept as the policy of its topic or namespace says, and the space of
the rest is freed on the bookies, in their files too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from bookie.limits import BookieLimits
from bookie.settings import BookieSettings
from broker.settings import BrokerLimits
from magnetar import Client, InitialPosition
from magnetar.ids import BookieId
from tests.features.cluster import FeatureCluster, client_of
from tests.features.embedded_cluster import Options

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20
PAYLOAD_BYTES, RECEIVED_TOGETHER = 10_000, 1_000
FREED_WITHIN_S = 60.0
FILES_RATIO = 1.3
RECORDS_RATIO = 1.05
"""Of what a record takes to the size of its body."""
STATE_BYTES = 128 << 10
"""What a topic remembers beside its messages."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is published, in ledgers and to bookies with files of which size."""

    published_bytes: int
    ledger_bytes: int
    file_bytes: int

    @property
    def messages(self) -> int:
        return self.published_bytes // PAYLOAD_BYTES


SMALL = Size(12 * MIB, MIB, MIB)
FULL = Size(400 * MIB, 4 * MIB, BookieLimits().file_bytes)
"""Several files of bookies that run with the limits of a cluster."""


@pytest.fixture
def options() -> Options:
    return Options(
        limits=BrokerLimits(maintenance_interval_s=0.5),
        bookie=BookieSettings(
            BookieId("any"), gc_interval_s=1.0, limits=BookieLimits(file_bytes=SMALL.file_bytes)),
    )


async def _topic_with(
    client: Client, topic: str, level: str, policies: Mapping[str, int]
) -> str:
    """A topic that has the policies of its namespace, or its own in one that keeps everything."""
    namespace = f"public/kept-{topic.rpartition('/')[2]}"
    name = f"persistent://{namespace}/t"
    await client.admin.namespaces.create(
        namespace, policies if level == "namespace" else {"retention_minutes": -1})
    await client.admin.topics.create(name)
    if level == "topic":
        await client.admin.policies.set(policies, topic=name)
    return name


async def _publish(client: Client, topic: str, messages: int) -> None:
    producer = await client.create_producer(topic)
    await (await producer.send_many([b"x" * PAYLOAD_BYTES] * messages))


async def _consume(client: Client, topic: str, messages: int) -> None:
    consumer = await client.subscribe(topic, "s", initial_position=InitialPosition.Earliest)
    while messages:
        received = await consumer.receive_many(RECEIVED_TOGETHER, timeout_millis=30_000)
        await consumer.acknowledge_cumulative(received[-1])
        messages -= len(received)


async def _topic_bytes(client: Client, topic: str) -> int:
    return sum(one.size_bytes for one in (await client.admin.topics.stats(topic)).ledgers)


async def _freed(client: Client, topic: str, most_bytes: int) -> None:
    """Wait until the topic has no more; raises TimeoutError."""
    async with asyncio.timeout(FREED_WITHIN_S):
        while await _topic_bytes(client, topic) > most_bytes:
            await asyncio.sleep(0.2)


async def _freed_on_bookies(
    cluster: FeatureCluster, before: Mapping[str, int], kept_bytes: int, file_bytes: int
) -> None:
    """Wait until each bookie holds what it held before and what is kept, in files not much
    longer than what it holds; raises TimeoutError."""
    more_bytes = RECORDS_RATIO * kept_bytes + STATE_BYTES
    async with asyncio.timeout(FREED_WITHIN_S):
        while True:
            live, files = await cluster.live_bytes(), cluster.bookie_bytes()
            if all(
                live[name] <= before[name] + more_bytes
                and files[name] <= FILES_RATIO * live[name] + 1.1 * file_bytes
                for name in cluster.bookie_names
            ):
                return
            await asyncio.sleep(0.2)


@pytest.mark.parametrize(("level", "kept_ledgers"), [("topic", 0), ("topic", 3), ("namespace", 3)])
async def test_space_falls_to_the_policy_plus_one_ledger(
    cluster: FeatureCluster, topic: str, level: str, kept_ledgers: int
) -> None:
    size = SMALL if cluster.in_process else FULL
    retention_bytes = kept_ledgers * size.ledger_bytes
    most_bytes = retention_bytes + size.ledger_bytes
    before = await cluster.live_bytes()
    async with client_of(cluster) as client:
        name = await _topic_with(client, topic, level, {
            "max_ledger_bytes": size.ledger_bytes, "retention_bytes": retention_bytes,
            "retention_minutes": -1 if kept_ledgers else 0,
        })
        await client.admin.subscriptions.create(name, "s")
        await _publish(client, name, size.messages)
        published_bytes = await _topic_bytes(client, name)

        await _consume(client, name, size.messages)

        await _freed(client, name, most_bytes)
        await _freed_on_bookies(cluster, before, most_bytes, size.file_bytes)
        left_bytes = await _topic_bytes(client, name)

    assert published_bytes >= size.published_bytes * 0.9
    assert left_bytes >= retention_bytes - size.ledger_bytes


async def test_what_is_not_consumed_stays(cluster: FeatureCluster, topic: str) -> None:
    policies = {"max_ledger_bytes": SMALL.ledger_bytes, "retention_minutes": 0}
    beside = f"{topic}-beside"
    async with client_of(cluster) as client:
        for name in (topic, beside):
            await client.admin.topics.create(name)
            await client.admin.policies.set(policies, topic=name)
            await client.admin.subscriptions.create(name, "s")
            await _publish(client, name, SMALL.messages)

        await _consume(client, beside, SMALL.messages)

        await _freed(client, beside, SMALL.ledger_bytes)
        kept_bytes = await _topic_bytes(client, topic)

    assert kept_bytes >= SMALL.published_bytes * 0.9
