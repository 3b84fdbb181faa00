"""Peak shaving: a burst is taken at once; the database behind gets no more than it can take.

The consumer asks for few messages ahead and takes so many a second, whatever waits.
"""

from __future__ import annotations

import asyncio
import time

from magnetar import Client, InitialPosition

TOPIC = "checkouts"
BURST, RATE = 2_000, 1_000


async def main() -> None:
    async with Client() as client:
        consumer = await client.subscribe(
            TOPIC, "database", initial_position=InitialPosition.Earliest,
            receiver_queue_size=100)
        producer = await client.create_producer(TOPIC)
        began_s = time.monotonic()
        await (await producer.send_many([b"checkout %d" % number for number in range(BURST)]))
        print(f"a burst of {BURST} is durable after {time.monotonic() - began_s:.1f} s")

        began_s = time.monotonic()
        for number in range(BURST):
            if (early_s := number / RATE - (time.monotonic() - began_s)) > 0:
                await asyncio.sleep(early_s)
            message = await consumer.receive(timeout_millis=10_000)
            consumer.acknowledge(message)
        print(f"written to the database within {time.monotonic() - began_s:.0f} s or so")


if __name__ == "__main__":
    asyncio.run(main())
