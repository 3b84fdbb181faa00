"""Metrics roll-up: points of many series over several partitions, summed up a minute at a time.

A series is a key, so one partition has all of it; each consumer of the failover subscription
rolls up the partitions it has, and takes over those of one that leaves.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict

from magnetar import Client, ConsumerType, InitialPosition
from magnetar.errors import ResourceExists

RAW, ROLLED = "metrics", "metrics-1m"
PARTITIONS, SERIES, POINTS = 4, 12, 60
MINUTE_MS = 60_000
START_MS = 1_700_000_040_000
"""Where the points begin: at a full minute."""


async def publish(client: Client) -> None:
    producer = await client.create_producer(RAW)
    for number in range(POINTS):
        for series in range(SERIES):
            await producer.ready()
            producer.send(
                json.dumps({"value": number}).encode(), partition_key=f"cpu-{series}",
                event_timestamp=START_MS + number * 5_000)
    await producer.flush()


async def main() -> None:
    async with Client() as client:
        try:
            await client.admin.topics.create(RAW, PARTITIONS)
        except ResourceExists:
            print("the topic is there already")
        consumer = await client.subscribe(
            RAW, "roll-up", consumer_type=ConsumerType.Failover,
            initial_position=InitialPosition.Earliest)
        await publish(client)

        sums: dict[tuple[str, int], list[int]] = defaultdict(list)
        received = 0
        while received < SERIES * POINTS:
            for point in await consumer.receive_many(timeout_millis=10_000):
                assert point.partition_key is not None
                minute = point.event_timestamp // MINUTE_MS
                sums[point.partition_key, minute].append(json.loads(point.data)["value"])
                received += 1
                consumer.acknowledge(point)

        rolled = await client.create_producer(ROLLED)
        for (series, minute), values in sorted(sums.items()):
            rolled.send(
                json.dumps({"mean": sum(values) / len(values), "max": max(values)}).encode(),
                partition_key=series, event_timestamp=minute * MINUTE_MS)
        await rolled.flush()
        print(f"{received} points of {SERIES} series rolled up to {len(sums)}")


if __name__ == "__main__":
    asyncio.run(main())
