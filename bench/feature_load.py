"""Clients for the measurements of features, each in a process of its own.

`python -m bench.feature_load ROLE URL TOPIC …` prints its figures as the last line, as JSON.
Messages begin with their number, so that what came can be held against what was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from typing import Final

import uvloop

from bench.percentiles import Figures
from magnetar import Client, CompressionType, ConsumerType, InitialPosition
from magnetar.errors import OperationTimeout

TOGETHER: Final = 10_000
SUBSCRIPTION: Final = "bench"
NUMBER_BYTES: Final = 8
QUIET_MS: Final = 3_000
COUNTED_TOGETHER: Final = 2_000


async def numbered(
    url: str, topic: str, count: int, size_bytes: int, codec: str, tag_each: int
) -> Figures:
    """Publish `count` numbered messages; every `tag_each`-th has the tag A, the others B."""
    filler = (b"magnetar measures what it says, " * (size_bytes // 32 + 1))[:size_bytes]
    filler = filler[NUMBER_BYTES:]
    compression = CompressionType[codec]
    async with (
        Client(url) as client,
        await client.create_producer(topic, compression_type=compression) as producer,
    ):
        began_s = time.perf_counter()
        for first in range(0, count, COUNTED_TOGETHER):
            numbers = range(first, min(first + COUNTED_TOGETHER, count))
            payloads = [one.to_bytes(NUMBER_BYTES, "little") + filler for one in numbers]
            if not tag_each:
                await producer.send_many(payloads)
                continue
            for number, payload in zip(numbers, payloads, strict=True):
                while not producer.pending_bytes < 8 << 20:
                    await asyncio.sleep(0.001)
                producer.send(payload, tag="B" if number % tag_each else "A")
        await producer.flush()
        elapsed_s = time.perf_counter() - began_s
    return {"messages_per_s": round(count / elapsed_s)}


async def acknowledge_odd(url: str, topic: str, count: int) -> Figures:
    """Receive everything, acknowledge every second message, wait until that is durable."""
    async with Client(url, operation_timeout_seconds=120) as client:
        consumer = await client.subscribe(
            topic, SUBSCRIPTION, consumer_type=ConsumerType.Shared,
            initial_position=InitialPosition.Earliest, receiver_queue_size=50_000)
        began_s = time.perf_counter()
        received = 0
        claim = None
        while received < count:
            messages = await consumer.receive_many(TOGETHER, timeout_millis=60_000)
            for message in messages:
                if message.data[0] & 1:
                    claim = consumer.acknowledge(message)
            received += len(messages)
        if claim is not None:
            await claim
        elapsed_s = time.perf_counter() - began_s
        print(json.dumps({"messages_per_s": round(count / elapsed_s)}), flush=True)
        await asyncio.sleep(3600)  # the owner is killed while the consumer is there
    return {}


async def verify_even(url: str, topic: str, count: int) -> Figures:
    """Receive what comes again, until nothing does: exactly the even numbers."""
    seen = bytearray(count)
    repeated = 0
    began_s = time.perf_counter()
    async with Client(url, operation_timeout_seconds=120) as client:
        consumer = await client.subscribe(
            topic, SUBSCRIPTION, consumer_type=ConsumerType.Shared, receiver_queue_size=50_000)
        first_s = 0.0
        while True:
            try:
                messages = await consumer.receive_many(
                    TOGETHER, timeout_millis=QUIET_MS if first_s else 120_000)
            except OperationTimeout:
                break
            first_s = first_s or time.perf_counter() - began_s
            last_s = time.perf_counter()
            for message in messages:
                number = int.from_bytes(message.data[:NUMBER_BYTES], "little")
                repeated += seen[number]
                seen[number] = 1
                consumer.acknowledge(message)
    even = seen[::2].count(1)
    return {
        "lost": (count + 1) // 2 - even, "acknowledged_again": seen[1::2].count(1),
        "repeated": repeated, "first_redelivery_s": round(first_s, 2),
        "messages_per_s": round(even / max(last_s - began_s - first_s, 1e-9)),
    }


async def drain(url: str, topic: str, count: int, subscription: str, tags: str) -> Figures:
    """Consume and acknowledge `count` messages of a backlog; the rate from the first one on."""
    taken = 0
    async with Client(url, operation_timeout_seconds=120) as client:
        consumer = await client.subscribe(
            topic, subscription, initial_position=InitialPosition.Earliest, tags=tags)
        began_s = time.perf_counter()
        while taken < count:
            messages = await consumer.receive_many(TOGETHER, timeout_millis=120_000)
            for message in messages:
                claim = consumer.acknowledge(message)
            taken += len(messages)
        await claim
        elapsed_s = time.perf_counter() - began_s
    return {"messages_per_s": round(count / elapsed_s), "seconds": round(elapsed_s, 2)}


async def _run(arguments: argparse.Namespace) -> Figures:
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    url, topic, count = arguments.url, arguments.topic, arguments.count
    match arguments.role:
        case "numbered":
            return await numbered(
                url, topic, count, arguments.size, arguments.codec, arguments.tag_each)
        case "acknowledge-odd":
            return await acknowledge_odd(url, topic, count)
        case "verify-even":
            return await verify_even(url, topic, count)
        case _:
            return await drain(url, topic, count, arguments.subscription, arguments.tags)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.feature_load", description=__doc__)
    parser.add_argument("role", choices=["numbered", "acknowledge-odd", "verify-even", "drain"])
    parser.add_argument("url")
    parser.add_argument("topic")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--codec", default="NONE", choices=[one.name for one in CompressionType])
    parser.add_argument("--tag-each", type=int, default=0)
    parser.add_argument("--subscription", default=SUBSCRIPTION)
    parser.add_argument("--tags", default="*")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_run(arguments))), flush=True)


if __name__ == "__main__":
    main()
