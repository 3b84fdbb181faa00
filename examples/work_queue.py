"""An asynchronous work queue: jobs are handed out among workers, retried, and set aside for good.

A worker that fails says so, and the job comes again a little later, to whoever is free. After
three deliveries it goes to the dead-letter topic, with the reason.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from magnetar import Client, Consumer, ConsumerType, DeadLetterPolicy, InitialPosition
from magnetar.errors import OperationTimeout

TOPIC = "image-jobs"
JOBS, WORKERS, DELIVERIES = 40, 3, 3
BROKEN = 13
"""The job that nobody can do."""


async def work(name: str, consumer: Consumer, done: Counter[str]) -> None:
    while True:
        try:
            job = await consumer.receive(timeout_millis=3_000)
        except OperationTimeout:
            return
        number = int(job.data)
        if number == BROKEN:
            consumer.negative_acknowledge(job, reason="the image cannot be read")
        else:
            done[name] += 1
            await consumer.acknowledge(job)


async def main() -> None:
    async with Client() as client:
        consumers = {
            f"worker-{number}": await client.subscribe(
                TOPIC, "resize", consumer_type=ConsumerType.Shared, receiver_queue_size=4,
                initial_position=InitialPosition.Earliest, redelivery_backoff=[0.1, 0.3],
                dead_letter_policy=DeadLetterPolicy(max_deliveries=DELIVERIES))
            for number in range(WORKERS)
        }
        producer = await client.create_producer(TOPIC, batching_enabled=False)
        await (await producer.send_many([b"%d" % number for number in range(JOBS)]))

        done: Counter[str] = Counter()
        await asyncio.gather(*(work(name, one, done) for name, one in consumers.items()))
        print(f"{done.total()} jobs done by {len(done)} workers")

        dead = await client.subscribe(
            f"{TOPIC}-resize-dead", "operator", initial_position=InitialPosition.Earliest)
        letter = await dead.receive(timeout_millis=10_000)
        print(
            f"job {letter.data.decode()} was given up after"
            f" {letter.properties['dead_letter.attempts']} deliveries:"
            f" {letter.properties['dead_letter.reason']}")


if __name__ == "__main__":
    asyncio.run(main())
