"""Row 21: positions grow, are kept by the servers, and survive a restart."""

from __future__ import annotations

from magnetar import InitialPosition
from tests.features.cluster import FeatureCluster, client_of, kill_owner

MESSAGES = 300


async def test_ids_grow_across_owners_and_a_subscription_goes_on_where_it_was(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest)
        producer = await client.create_producer(topic, "p")
        ids = [await producer.send(b"%d" % number) for number in range(MESSAGES)]
        for number in range(MESSAGES // 2):
            message = await consumer.receive(30_000)
            assert int(message.data) == number
            await consumer.acknowledge(message)
        await consumer.close()

        killed = await kill_owner(cluster, topic)
        ids += [await producer.send(b"%d" % number) for number in range(MESSAGES, 2 * MESSAGES)]
        await cluster.restart(killed)
        again = await client.subscribe(topic, "s")
        rest = [int((await again.receive(30_000)).data) for _ in range(3 * MESSAGES // 2)]

    assert ids == sorted(set(ids))
    assert rest == list(range(MESSAGES // 2, 2 * MESSAGES))
