"""Activity tracking: what each visitor does, in order, by several trackers at once.

The visitor is the key. A key is at one consumer at a time, so each visitor's clicks are seen in
order, while visitors are spread over the trackers.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict

from magnetar import Client, Consumer, ConsumerType, InitialPosition
from magnetar.errors import OperationTimeout

TOPIC = "clicks"
VISITORS, PAGES = 30, ("home", "search", "product", "cart", "paid")


async def track(consumer: Consumer, paths: dict[str, list[str]]) -> int:
    seen = 0
    while True:
        try:
            click = await consumer.receive(timeout_millis=2_000)
        except OperationTimeout:
            return seen
        assert click.partition_key is not None
        paths[click.partition_key].append(json.loads(click.data)["page"])
        seen += 1
        await consumer.acknowledge(click)


async def main() -> None:
    async with Client() as client:
        trackers = [
            await client.subscribe(
                TOPIC, "funnel", consumer_type=ConsumerType.KeyShared,
                initial_position=InitialPosition.Earliest)
            for _ in range(3)
        ]
        site = await client.create_producer(TOPIC)
        for page in PAGES:
            for visitor in range(VISITORS):
                site.send(json.dumps({"page": page}).encode(), partition_key=f"v{visitor}")
        await site.flush()

        paths: dict[str, list[str]] = defaultdict(list)
        seen = await asyncio.gather(*(track(tracker, paths) for tracker in trackers))
        in_order = sum(path == [*PAGES] for path in paths.values())
        print(f"{sum(seen)} clicks by {sum(map(bool, seen))} trackers")
        print(f"{in_order} of {VISITORS} visitors from {PAGES[0]} to {PAGES[-1]}, in order")


if __name__ == "__main__":
    asyncio.run(main())
