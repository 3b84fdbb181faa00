"""Row 73: a group takes many topics, and all its members want the same of them."""

from __future__ import annotations

import pytest

from magnetar import Client, Consumer, ConsumerType, InitialPosition
from magnetar.errors import ConsumerBusy
from tests.features.cluster import FeatureCluster, client_of


async def _join(client: Client, topics: list[str], filter_text: str) -> Consumer:
    return await client.subscribe(
        topics, "group", consumer_type=ConsumerType.Shared, filter=filter_text,
        initial_position=InitialPosition.Earliest)


async def test_members_of_a_group_give_one_filter_for_all_their_topics(
    cluster: FeatureCluster, topic: str
) -> None:
    names = [f"{topic}-{number}" for number in range(3)]
    async with client_of(cluster) as client, client_of(cluster) as other:
        first = await _join(client, names, "price > 100")

        with pytest.raises(ConsumerBusy) as refused:
            await _join(other, names, "price > 200")
        second = await _join(other, names, "price  >  100")

        for name in names:
            async with await client.create_producer(name) as producer:
                await producer.send(b"cheap", {"price": "5"})
                await producer.send(b"dear", {"price": "500"})
        received = []
        while len(received) < 3:
            for one in (first, second):
                for message in await one.batch_receive():
                    received.append((message.topic_name, message.data))
                    await one.acknowledge(message)

    assert sorted(received) == [(name, b"dear") for name in names]
    # Both filters and the topic are in the text.
    assert "price > 100" in str(refused.value)
    assert "price > 200" in str(refused.value)
    assert f"{topic}-" in str(refused.value)
