"""Row 18: a message's key picks its partition, and its messages stay in order."""

from __future__ import annotations

from collections import defaultdict

from magnetar import InitialPosition
from tests.features.cluster import FeatureCluster, client_of, kill_owner

PARTITIONS, KEYS, EACH = 5, 40, 50
# What the tests of Pulsar's clients hold equal, modulo 5.
PULSAR = {"k1": 2110152746, "k2": 1479966664, "key1": 462881061, "key01": 39696932}


async def test_a_key_has_one_partition_and_its_order_survives_the_owner(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        await client.admin.topics.create(topic, partitions=PARTITIONS)
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(topic, "p")
        for number in range(EACH):
            if number == EACH // 2:
                killed = await kill_owner(cluster, f"{topic}-partition-0")
            for key in range(KEYS):
                producer.send(b"%d" % number, partition_key=f"key-{key}")
        await producer.flush()

        partitions = defaultdict(set)
        numbers = defaultdict(list)
        for _ in range(KEYS * EACH):
            message = await consumer.receive(30_000)
            partitions[message.partition_key].add(message.message_id.partition)
            numbers[message.partition_key].append(int(message.data))
            consumer.acknowledge(message)
        await cluster.restart(killed)

    assert len(partitions) == KEYS
    assert all(len(found) == 1 for found in partitions.values())
    assert all(found == list(range(EACH)) for found in numbers.values())


async def test_the_partition_is_the_one_that_pulsar_picks(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        await client.admin.topics.create(topic, partitions=PARTITIONS)
        producer = await client.create_producer(topic)

        picked = {
            key: (await producer.send(b"", partition_key=key)).partition for key in PULSAR
        }

    assert picked == {key: value % PARTITIONS for key, value in PULSAR.items()}
