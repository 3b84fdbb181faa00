"""Row 6: several topics into one consumer, one topic to many, and new topics within 2 s."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from magnetar import Consumer, InitialPosition
from tests.features.cluster import FeatureCluster, client_of, eventually, kill_owner

EARLIEST = InitialPosition.Earliest
PICKED_UP_S = 2.0


async def _take(consumer: Consumer, count: int) -> dict[str, list[bytes]]:
    """So many messages, by topic."""
    found: dict[str, list[bytes]] = defaultdict(list)
    while sum(map(len, found.values())) < count:
        messages = await consumer.receive_many(timeout_millis=30_000)
        for message in messages:
            found[message.topic_name].append(message.data)
        await consumer.acknowledge_many(messages)
    return found


async def test_a_list_and_a_pattern_into_one_consumer_and_one_topic_to_many(
    cluster: FeatureCluster, topic: str
) -> None:
    contents = [b"%d" % number for number in range(500)]
    names = [f"{topic}-{end}" for end in ("a", "b", "c")]
    async with client_of(cluster) as client:
        listed = await client.subscribe(names[:2], "listed", initial_position=EARLIEST)
        matching = await client.subscribe(
            subscription_name="matching", pattern=f"{topic}-[abc]", initial_position=EARLIEST)
        many = [
            await client.subscribe(names[0], f"s{number}", initial_position=EARLIEST)
            for number in range(5)
        ]
        for name in names:
            async with await client.create_producer(name) as producer:
                await (await producer.send_many(contents))

        assert await _take(listed, 1_000) == {name: contents for name in names[:2]}
        assert await _take(matching, 1_500) == {name: contents for name in names}
        for one in many:
            assert await _take(one, 500) == {names[0]: contents}


async def test_a_new_topic_that_matches_is_consumed_within_two_seconds(
    cluster: FeatureCluster, topic: str
) -> None:
    loop = asyncio.get_running_loop()
    async with client_of(cluster) as client, client_of(cluster) as elsewhere:
        consumer = await client.subscribe(
            subscription_name="s", pattern=f"{topic}-.*")
        waits = []
        for number in range(5):
            begun_s = loop.time()  # the topic is there as soon as its producer is
            async with await elsewhere.create_producer(f"{topic}-{number}") as producer:
                await producer.send(b"%d" % number)
                message = await consumer.receive(30_000)
                waits.append(loop.time() - begun_s)
                assert message.data == b"%d" % number

    assert max(waits) < PICKED_UP_S


async def test_deleted_topics_are_let_go_and_do_not_come_back_by_themselves(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        topics = client.admin.topics
        await topics.create(f"{topic}-plain")
        await topics.create(f"{topic}-many", partitions=3)
        consumer = await client.subscribe(
            subscription_name="s", pattern=f"{topic}-.*", initial_position=EARLIEST)
        assert len(consumer.topics) == 4

        await topics.delete(f"{topic}-plain", force=True)
        await topics.delete(f"{topic}-many", force=True)
        await eventually(lambda: consumer.topics == [])
        async with await client.create_producer(f"{topic}-new") as producer:
            for number in range(50):  # time enough to come back, if anything would
                await producer.send(b"%d" % number)
                assert (await consumer.receive(30_000)).data == b"%d" % number
        glob = f"{topic.rpartition('/')[2]}-*"
        left = [one.name for one in (await topics.list("public/default", glob)).topics]
        assert left == [f"{topic}-new"]


async def test_a_pattern_outlives_the_brokers_that_serve_it(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            subscription_name="s", pattern=f"{topic}-.*", initial_position=EARLIEST)
        for number in range(4):
            async with await client.create_producer(f"{topic}-{number}") as producer:
                await producer.send(b"before")
        assert sum(map(len, (await _take(consumer, 4)).values())) == 4

        killed = await kill_owner(cluster, f"{topic}-0")
        for number in range(8):
            async with await client.create_producer(f"{topic}-{number}") as producer:
                await producer.send(b"after")

        found = await _take(consumer, 8)
        assert found == {f"{topic}-{number}": [b"after"] for number in range(8)}
        await cluster.restart(killed)
