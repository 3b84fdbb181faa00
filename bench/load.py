"""Magnetar's clients for the measurements, each in a process of its own.

`python -m bench.load saturate|paced|drink …` prints its figures as the last line, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import uvloop

from bench.percentiles import Figures, latencies_ms
from magnetar import Client, InitialPosition, PartitionedProducer, Producer, Ticket
from magnetar.errors import ProducerQueueFull

AnyProducer = Producer | PartitionedProducer

MESSAGES_A_CALL: Final = 512
SENDS_A_TURN: Final = 64
"""`send` does not wait, so a loop of it gives the event loop its turn by itself."""
PACED_SIZE_BYTES: Final = 1024
RECEIVED_TOGETHER: Final = 10_000


async def _send_each(producer: AnyProducer, payload: bytes, count: int) -> None:
    send = producer.send
    for number in range(count):
        try:
            send(payload)
        except ProducerQueueFull:
            await producer.ready()
            send(payload)
        if number % SENDS_A_TURN == 0:
            await asyncio.sleep(0)


async def _send_many(producer: AnyProducer, payload: bytes, count: int) -> None:
    chunk = [payload] * MESSAGES_A_CALL
    for _ in range(count // MESSAGES_A_CALL):
        await producer.send_many(chunk)
    await producer.send_many([payload] * (count % MESSAGES_A_CALL))


async def saturate(url: str, topic: str, count: int, size_bytes: int, call: str) -> Figures:
    """`count` messages as fast as they go; rates until the last one is acknowledged."""
    send_all = _send_many if call == "send_many" else _send_each
    payload = os.urandom(size_bytes)
    async with Client(url) as client, await client.create_producer(topic) as producer:
        began_s = time.monotonic()
        started, cpu = time.perf_counter(), time.process_time()
        await send_all(producer, payload, count)
        await producer.flush()
        elapsed_s = time.perf_counter() - started
        cpu_s = time.process_time() - cpu
    return {
        "began_s": began_s,
        "messages_per_s": round(count / elapsed_s),
        "mb_per_s": round(count * size_bytes / elapsed_s / 1e6, 1),
        "producer_cpu_us_per_message": round(cpu_s / count * 1e6, 2),
    }


class Paced:
    """Sends at a fixed rate whatever happens; `latencies_s` run from the intended send time."""

    def __init__(
        self, producer: AnyProducer, rate: int, size_bytes: int = PACED_SIZE_BYTES, keys: int = 0
    ) -> None:
        """With so many keys by turns; 0: without any."""
        self._producer, self._rate = producer, rate
        self._keys: list[str | None] = [f"key-{number}" for number in range(keys)] or [None]
        self._payload = os.urandom(size_bytes)
        self._tickets: deque[tuple[float, Ticket]] = deque()
        self._sent = asyncio.Event()
        self._finished = False
        self.latencies_s: list[float] = []
        self.errors = 0
        self.on_settled: Callable[[float, float], None] = lambda due_s, now_s: None
        """Called with the intended send time and the time of the acknowledgement."""

    async def run(self, seconds: float) -> None:
        """Send for so long, then wait until everything is acknowledged or failed."""
        settling = asyncio.create_task(self._settle())
        began_s = time.perf_counter()
        for number in range(int(self._rate * seconds)):
            due_s = began_s + number / self._rate
            if (delay_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(delay_s)
            key = self._keys[number % len(self._keys)]
            while True:
                try:
                    ticket = self._producer.send(self._payload, partition_key=key)
                    self._tickets.append((due_s, ticket))
                    break
                except ProducerQueueFull:
                    await self._producer.ready()
            self._sent.set()
        self._finished = True
        self._sent.set()
        await settling

    async def _settle(self) -> None:
        while self._tickets or not self._finished:
            if not self._tickets:
                self._sent.clear()
                await self._sent.wait()
                continue
            try:
                await self._tickets[0][1]
            except Exception:
                self.errors += 1
                self._tickets.popleft()
                continue
            now_s = time.perf_counter()
            while self._tickets and self._tickets[0][1].done():
                due_s, ticket = self._tickets.popleft()
                try:
                    # Does not wait: it is done.
                    await ticket
                except Exception:
                    self.errors += 1
                    continue
                self.latencies_s.append(now_s - due_s)
                self.on_settled(due_s, now_s)


async def paced(url: str, topic: str, rate: int, seconds: int) -> Figures:
    """1 KB messages at `rate` for so many seconds."""
    async with Client(url) as client, await client.create_producer(topic) as producer:
        load = Paced(producer, rate)
        await load.run(seconds)
    return {**latencies_ms(load.latencies_s), "errors": load.errors}


async def drink(url: str, topic: str, count: int) -> Figures:
    """Consume and acknowledge `count` messages; every payload is taken out of its entry."""
    taken_bytes = taken = 0
    async with (
        Client(url) as client,
        await client.subscribe(
            topic, "bench", initial_position=InitialPosition.Earliest
        ) as consumer,
    ):
        print("bench consumer ready", flush=True)
        while taken < count:
            messages = await consumer.receive_many(RECEIVED_TOGETHER)
            for message in messages:
                taken_bytes += len(message.data)
                consumer.acknowledge(message)
            taken += len(messages)
        ended_s = time.monotonic()
    return {"ended_s": ended_s, "consumed_mb": round(taken_bytes / 1e6, 1)}


async def _run(arguments: argparse.Namespace) -> Figures:
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    url, topic = arguments.url, arguments.topic
    if arguments.role == "saturate":
        return await saturate(
            url, topic, arguments.count, arguments.size, "send" if arguments.each else "send_many"
        )
    if arguments.role == "paced":
        return await paced(url, topic, arguments.rate, arguments.seconds)
    return await drink(url, topic, arguments.count)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("role", choices=["saturate", "paced", "drink"])
    parser.add_argument("url")
    parser.add_argument("topic")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--each", action="store_true", help="`send` a message, not `send_many`")
    parser.add_argument("--rate", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=10)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_run(arguments))), flush=True)


if __name__ == "__main__":
    main()
