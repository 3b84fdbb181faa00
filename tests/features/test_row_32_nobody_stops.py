"""Row 32: when one of twenty consumers joins or leaves, the others go on.

That no eligible one is passed over is tested turn by turn in `tests/broker`; the gaps in time are
measured by `make bench`.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from magnetar import Consumer, ConsumerType, InitialPosition
from tests.features.cluster import FeatureCluster, client_of

GROUP, CHANGES, BETWEEN = 20, 5, 400
KEYS = 200


class Member:
    def __init__(self, consumer: Consumer, seen: Counter[int]) -> None:
        self.consumer = consumer
        self.received = 0
        self._seen = seen
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            message = await self.consumer.receive()
            self.received += 1
            self._seen[int(message.data)] += 1
            await self.consumer.acknowledge(message)

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.consumer.close()


@pytest.mark.parametrize("kind", [ConsumerType.Shared, ConsumerType.KeyShared])
async def test_nineteen_go_on_while_one_comes_and_goes(
    cluster: FeatureCluster, topic: str, kind: ConsumerType
) -> None:
    seen: Counter[int] = Counter()
    async with client_of(cluster) as client:
        async def join() -> Member:
            return Member(await client.subscribe(
                topic, "group", consumer_type=kind, receiver_queue_size=5,
                initial_position=InitialPosition.Earliest), seen)

        others = [await join() for _ in range(GROUP - 1)]
        producer = await client.create_producer(topic, batching_enabled=False)
        sent = 0

        async def send_and_settle() -> list[int]:
            """How many each of the others received of the next messages."""
            nonlocal sent
            before = [one.received for one in others]
            for _ in range(BETWEEN):
                await producer.ready()
                producer.send(b"%d" % sent, partition_key=f"key-{sent % KEYS}")
                sent += 1
            await producer.flush()
            async with asyncio.timeout(30):
                while len(seen) < sent:
                    await asyncio.sleep(0.005)
            return [one.received - old for one, old in zip(others, before, strict=True)]

        shares = []
        for _ in range(CHANGES):
            twentieth = await join()
            shares.append(await send_and_settle())
            await twentieth.leave()
            shares.append(await send_and_settle())
        for one in others:
            await one.leave()

    assert set(seen) == set(range(sent))
    assert all(min(share) > 0 for share in shares), shares
