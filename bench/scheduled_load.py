"""Clients for the measurements of delayed messages, each in a process of its own.

Each message begins with its number and its due time, so that whoever receives it knows how late
it is.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import struct
import time
from typing import Final

import uvloop

from bench.percentiles import Figures
from magnetar import Client, InitialPosition
from magnetar.errors import ProducerQueueFull

HEAD: Final = struct.Struct("<QQ")
SUBSCRIPTION: Final = "bench"
TOGETHER: Final = 10_000
SENDS_A_TURN: Final = 64


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def fill(
    url: str, topic: str, count: int, size_bytes: int, start_ms: int, span_ms: int,
    burst: int,
) -> Figures:
    """Schedule `count` messages evenly over the span from `start_ms` on, in scattered order,
    `burst` of them within the second in its middle."""
    filler = b"x" * (size_bytes - HEAD.size)
    async with Client(url, operation_timeout_seconds=120) as client:
        producer = await client.create_producer(topic, "filler", send_timeout_millis=300_000)
        began_s = time.perf_counter()
        for number in range(count):
            if number < burst:
                due_ms = start_ms + span_ms // 2 + number * 1_000 // max(burst, 1)
            else:
                due_ms = start_ms + number * 7_919 % count * span_ms // count
            payload = HEAD.pack(number, due_ms) + filler
            try:
                producer.send(payload, deliver_at=due_ms)
            except ProducerQueueFull:
                await producer.ready()
                producer.send(payload, deliver_at=due_ms)
            if number % SENDS_A_TURN == 0:
                await asyncio.sleep(0)
        await producer.flush()
        elapsed_s = time.perf_counter() - began_s
    return {"scheduled_per_s": round(count / elapsed_s), "ended_ms": _now_ms()}


async def take(url: str, topic: str, count: int) -> Figures:
    """Receive them all: none early, each once; lateness of all but those overdue at the start."""
    late_ms: list[int] = []
    seen = bytearray(count)
    early = repeated = different = 0
    async with Client(url, operation_timeout_seconds=120) as client:
        consumer = await client.subscribe(
            topic, SUBSCRIPTION, initial_position=InitialPosition.Earliest)
        print("bench consumer ready", flush=True)
        began_s = first_s = time.perf_counter()
        while different < count:
            messages = await consumer.receive_many(TOGETHER)
            now_ms = _now_ms()
            first_s = first_s if different else time.perf_counter()
            for message in messages:
                number, due_ms = HEAD.unpack_from(message.data)
                early += now_ms < due_ms
                repeated += seen[number]
                different += not seen[number]
                seen[number] = 1
                late_ms.append(now_ms - due_ms)
                consumer.acknowledge(message)
        ended_s = time.perf_counter()
    late_ms.sort()
    return {
        "early": early, "repeated": repeated, "missing": seen.count(0),
        "late_p50_ms": late_ms[len(late_ms) // 2],
        "late_p99_ms": late_ms[min(len(late_ms) - 1, int(len(late_ms) * 0.99))],
        "late_max_ms": late_ms[-1], "seconds": round(ended_s - began_s, 1),
        "taken_per_s": round(count / max(ended_s - first_s, 1e-9)),
    }


async def _run(arguments: argparse.Namespace) -> Figures:
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    if arguments.role == "fill":
        return await fill(
            arguments.url, arguments.topic, arguments.count, arguments.size, arguments.start_ms,
            arguments.span_ms, arguments.burst)
    return await take(arguments.url, arguments.topic, arguments.count)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scheduled_load", description=__doc__)
    parser.add_argument("role", choices=["fill", "take"])
    parser.add_argument("url")
    parser.add_argument("topic")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--start-ms", type=int, default=0)
    parser.add_argument("--span-ms", type=int, default=0)
    parser.add_argument("--burst", type=int, default=0)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_run(arguments))), flush=True)


if __name__ == "__main__":
    main()
