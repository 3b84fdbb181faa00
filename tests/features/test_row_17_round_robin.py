"""Row 17: without a key, messages go round over the partitions."""

from __future__ import annotations

from collections import Counter

import pytest

from magnetar.errors import ProducerQueueFull
from tests.features.cluster import FeatureCluster, client_of

PARTITIONS, MESSAGES, TOLERANCE = 8, 80_000, 0.05


@pytest.mark.parametrize("call", ["send", "send_many"])
async def test_eighty_thousand_messages_are_ten_thousand_a_partition(
    cluster: FeatureCluster, topic: str, call: str
) -> None:
    contents = [b"%d" % number for number in range(MESSAGES)]
    async with client_of(cluster) as client:
        await client.admin.topics.create(topic, partitions=PARTITIONS)
        producer = await client.create_producer(topic)
        if call == "send_many":
            ids = await (await producer.send_many(contents))
        else:
            tickets = []
            for content in contents:
                try:
                    tickets.append(producer.send(content))
                except ProducerQueueFull:
                    await producer.ready()
                    tickets.append(producer.send(content))
            ids = [await ticket for ticket in tickets]

    counts = Counter(message_id.partition for message_id in ids)
    even = MESSAGES / PARTITIONS
    assert sorted(counts) == list(range(PARTITIONS))
    assert all(abs(count - even) <= even * TOLERANCE for count in counts.values()), counts
