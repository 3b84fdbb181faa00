"""Row 70: tags as `A || B`, and SQL92 conditions over properties, decided at the server."""

from __future__ import annotations

import pytest

from magnetar import InitialPosition
from magnetar.errors import InvalidArgument
from tests.features.cluster import FeatureCluster, client_of

ORDERS = [
    {"region": "eu", "price": "120", "kind": "book"},
    {"region": "us", "price": "80", "kind": "film"},
    {"region": "eu", "price": "50"},
    {"region": "asia", "price": "300", "kind": "book"},
    {"region": "eu", "price": "110", "kind": "fable"},
]
TAGS = ["TagA", "TagB", "TagC", "TagA", "TagA"]
END = b"end"


@pytest.mark.parametrize(("tags", "condition", "expected"), [
    ("TagA || TagB", "", [0, 1, 3, 4]),
    ("TagC", "", [2]),
    ("*", "price > 100 AND region IN ('eu', 'us')", [0, 4]),
    ("*", "price BETWEEN 80 AND 120", [0, 1, 4]),
    ("*", "kind IS NULL OR kind LIKE 'f%'", [1, 2, 4]),
    ("*", "NOT (region = 'eu')", [1, 3]),
    ("TagA", "price >= 300", [3]),
])
async def test_only_what_matches_is_received(
    cluster: FeatureCluster, topic: str, tags: str, condition: str, expected: list[int]
) -> None:
    async with client_of(cluster) as client:
        producer = await client.create_producer(topic)
        for number, (properties, tag) in enumerate(zip(ORDERS, TAGS, strict=True)):
            await producer.send(b"%d" % number, properties, tag=tag)
        consumer = await client.subscribe(
            topic, "s", initial_position=InitialPosition.Earliest, tags=tags, filter=condition)

        wanted = expected[0]
        await producer.send(END, ORDERS[wanted], tag=TAGS[wanted])
        received = []
        while (message := await consumer.receive(30_000)).data != END:
            received.append(int(message.data))

    assert received == expected


async def test_a_condition_that_does_not_read_is_refused_with_its_place(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        with pytest.raises(InvalidArgument, match="price >"):
            await client.subscribe(topic, "s", filter="region = 'eu' AND price > > 3")
