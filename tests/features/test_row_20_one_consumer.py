"""Row 20: a partition has one consumer of a group; what two believe to be does not count twice."""

from __future__ import annotations

import asyncio

import pytest

from magnetar import Client, Consumer, ConsumerType, InitialPosition
from magnetar.errors import ConsumerBusy
from magnetar.wire import broker_pb2 as pb
from tests.features.cluster import FeatureCluster, client_of, kill_owner
from tests.features.raw_consumer import raw_consumer

MESSAGES = 600
OVERLAPPING, ACKNOWLEDGED = 10, 4


async def _consume(consumer: Consumer, seen: list[int]) -> None:
    while True:
        message = await consumer.receive()
        await consumer.acknowledge(message)
        seen.append(int(message.data))


async def test_a_second_exclusive_consumer_is_refused(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        await client.subscribe(topic, "s")
        with pytest.raises(ConsumerBusy):
            await client.subscribe(topic, "s")


async def test_of_failover_consumers_one_is_active_and_the_next_goes_on_where_it_was(
    cluster: FeatureCluster, topic: str
) -> None:
    seen: dict[str, list[int]] = {"first": [], "second": []}
    async with client_of(cluster) as client:
        leaving = Client(cluster.service_url, operation_timeout_seconds=60)
        first = await leaving.subscribe(
            topic, "s", consumer_type=ConsumerType.Failover, consumer_name="first",
            initial_position=InitialPosition.Earliest)
        second = await client.subscribe(
            topic, "s", consumer_type=ConsumerType.Failover, consumer_name="second")
        tasks = [
            asyncio.create_task(_consume(first, seen["first"])),
            asyncio.create_task(_consume(second, seen["second"])),
        ]
        producer = await client.create_producer(topic, batching_max_allowed_size_in_bytes=500)
        await (await producer.send_many([b"%d" % n for n in range(MESSAGES // 2)]))
        async with asyncio.timeout(30):
            while len(seen["first"]) < MESSAGES // 2:
                await asyncio.sleep(0.01)
        standby = list(seen["second"])
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        await leaving.close()

        killed = await kill_owner(cluster, topic)
        await (await producer.send_many([b"%d" % n for n in range(MESSAGES // 2, MESSAGES)]))
        async with asyncio.timeout(60):
            while len(seen["second"]) < MESSAGES // 2:
                await asyncio.sleep(0.01)
        tasks[1].cancel()
        await asyncio.gather(tasks[1], return_exceptions=True)
        await cluster.restart(killed)

    assert standby == []
    assert seen["first"] == list(range(MESSAGES // 2))
    assert seen["second"] == list(range(MESSAGES // 2, MESSAGES))


@pytest.mark.parametrize(("wire_type", "consumer_type"), [
    (pb.EXCLUSIVE, ConsumerType.Exclusive), (pb.FAILOVER, ConsumerType.Failover),
], ids=["exclusive", "failover"])
async def test_of_two_that_both_believe_to_be_active_only_the_new_owners_counts(
    cluster: FeatureCluster, topic: str, wire_type: pb.SubscriptionType.ValueType,
    consumer_type: ConsumerType,
) -> None:
    contents = [b"%d" % number for number in range(OVERLAPPING)]
    async with client_of(cluster) as client, await client.create_producer(topic) as producer:
        for content in contents:
            await producer.send(content)
    old_owner = await cluster.owner_of(topic)
    other = next(name for name in cluster.broker_names if name != old_owner)
    async with (
        raw_consumer(cluster.address_of(old_owner), topic, wire_type) as first,
        Client(
            f"magnetar://{cluster.address_of(other)}", operation_timeout_seconds=60) as client,
    ):
        given_to_first = await first.receive(OVERLAPPING)
        await cluster.silence(old_owner)
        second = await client.subscribe(topic, "s", consumer_type=consumer_type)
        given_to_second = [await second.receive(60_000) for _ in contents]
        await first.acknowledge_all()
        await cluster.wake(old_owner)
        first_counts = await first.acknowledged()
        await second.acknowledge_many(given_to_second[:ACKNOWLEDGED])
        await second.close()
        third = await client.subscribe(topic, "s", consumer_type=consumer_type)
        left = [(await third.receive(60_000)).data for _ in contents[ACKNOWLEDGED:]]

    assert given_to_first == [message.data for message in given_to_second] == contents
    assert not first_counts
    assert left == contents[ACKNOWLEDGED:]
