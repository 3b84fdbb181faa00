"""The yardstick's clients: a producer at full speed, a paced one, and a consumer."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import grpc

from bench.percentiles import Figures, latencies_ms
from bench.yardstick.broker import METHOD_CONSUME, METHOD_PRODUCE
from bench.yardstick.wire import (
    BATCH_BYTES,
    CHANNEL_OPTIONS,
    IN_FLIGHT_BATCHES,
    MESSAGE_OVERHEAD_BYTES,
    PACED_IN_FLIGHT_BATCHES,
    check,
    encode,
    payloads,
)


def _call(port: int, method: str) -> Any:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS)
    return channel.stream_stream(method)()


class ProducerLink:
    """A publishing stream and how far it is confirmed, in batches."""

    def __init__(self, port: int) -> None:
        self.call = _call(port, METHOD_PRODUCE)
        self.confirmed = -1
        self._moved = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while (answer := await self.call.read()) is not grpc.aio.EOF:
            self.confirmed = int.from_bytes(answer, "big")
            self._moved.set()

    async def until(self, batch: int) -> None:
        while self.confirmed < batch:
            self._moved.clear()
            await self._moved.wait()


async def saturate(port: int, count: int, size_bytes: int) -> Figures:
    """`count` messages as fast as they go; rates until the last one is confirmed."""
    link, payload = ProducerLink(port), os.urandom(size_bytes)
    waiting: list[bytes] = []
    held_bytes, batch = 0, 0
    began_s = time.monotonic()
    started, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        waiting.append(payload)
        held_bytes += size_bytes + MESSAGE_OVERHEAD_BYTES
        if held_bytes >= BATCH_BYTES or number == count - 1:
            await link.call.write(encode(waiting))
            waiting, held_bytes, batch = [], 0, batch + 1
            await link.until(batch - IN_FLIGHT_BATCHES)
    await link.until(batch - 1)
    elapsed_s = time.perf_counter() - started
    return {
        "began_s": began_s,
        "messages_per_s": round(count / elapsed_s),
        "mb_per_s": round(count * size_bytes / elapsed_s / 1e6, 1),
        "producer_cpu_us_per_message": round((time.process_time() - cpu) / count * 1e6, 2),
    }


async def paced(port: int, rate: int, seconds: int) -> Figures:
    """1 KB messages at `rate`, latency from the intended send time.

    What waits while frames are in flight goes out together.
    """
    link, payload = ProducerLink(port), os.urandom(1024)
    due_times: list[float] = []
    batches: list[list[float]] = []
    latencies_s: list[float] = []
    wake = asyncio.Event()

    async def send() -> None:
        while True:
            await wake.wait()
            wake.clear()
            while due_times:
                await link.until(len(batches) - PACED_IN_FLIGHT_BATCHES)
                batches.append(due_times[:])
                due_times.clear()
                await link.call.write(encode([payload] * len(batches[-1])))

    async def settle() -> None:
        done = 0
        while len(latencies_s) < rate * seconds:
            await link.until(done)
            now = time.perf_counter()
            for batch in range(done, link.confirmed + 1):
                latencies_s.extend(now - due for due in batches[batch])
            done = link.confirmed + 1

    sending, settled = asyncio.create_task(send()), asyncio.create_task(settle())
    start = time.perf_counter()
    for number in range(rate * seconds):
        due = start + number / rate
        if (delay_s := due - time.perf_counter()) > 0:
            await asyncio.sleep(delay_s)
        due_times.append(due)
        wake.set()
    await settled
    sending.cancel()
    return latencies_ms(latencies_s)


async def drink(port: int, count: int) -> Figures:
    """Consume `count` messages: check every entry and take every message out of it."""
    call = _call(port, METHOD_CONSUME)
    await call.write(b"go")
    await call.read()
    print("yardstick consumer ready", flush=True)
    seen = seen_bytes = 0
    while seen < count:
        frame = await call.read()
        at, view = 0, memoryview(frame)
        while at < len(view):
            length = int.from_bytes(view[at : at + 4], "big")
            entry = view[at + 4 : at + 4 + length]
            at += 4 + length
            check(entry)
            for payload in payloads(entry):
                seen += 1
                seen_bytes += len(payload)
    return {"ended_s": time.monotonic()}
