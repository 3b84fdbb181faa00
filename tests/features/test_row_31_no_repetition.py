"""Row 31: after a crash of consumer and owner only what was not acknowledged comes again."""

from __future__ import annotations

from pathlib import Path

import pytest

from magnetar import ConsumerType, InitialPosition
from magnetar.errors import OperationTimeout
from tests.features.cluster import FeatureCluster, client_of, kill_owner
from tests.features.consumer_process import consumer_process

MESSAGES, SPARE = 2_000, 3
DURABLE_WITHIN_S = 1.0
QUIET_MS = 1_500


async def test_individual_acknowledgements_survive_consumer_and_owner(
    cluster: FeatureCluster, topic: str, tmp_path: Path
) -> None:
    async with client_of(cluster) as client:
        producer = await client.create_producer(topic)
        await (await producer.send_many([b"%d" % number for number in range(MESSAGES)]))
        with consumer_process(
            cluster, topic, tmp_path / "consumer.log", MESSAGES, SPARE
        ) as consumer:
            await consumer.until_taken(MESSAGES)
            await consumer.until_durable(DURABLE_WITHIN_S)

        killed = await kill_owner(cluster, topic)
        again = await client.subscribe(
            topic, "s", consumer_type=ConsumerType.Shared,
            initial_position=InitialPosition.Earliest)
        not_acknowledged = list(range(0, MESSAGES, SPARE))
        redelivered: list[int] = []
        while len(redelivered) < len(not_acknowledged):
            redelivered.append(int((await again.receive(30_000)).data))
        await cluster.restart(killed)
        with pytest.raises(OperationTimeout):
            await again.receive(QUIET_MS)

    assert consumer.taken() == list(range(MESSAGES))
    assert sorted(redelivered) == not_acknowledged
