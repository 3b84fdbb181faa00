"""The load behind `magnetar perf`: open loop, one process, one producer and one consumer.

Each message carries the time at which it was due in its first bytes, so both latencies run from
then, whatever kept the sender from sending.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from typing import Any

from magnetar.client import Client
from magnetar.enums import InitialPosition
from magnetar.errors import MagnetarError, NotSupported, OperationTimeout, ProducerQueueFull
from magnetar.message import Message
from magnetar.partitioned_producer import AnyProducer
from magnetar.ticket import Ticket, Tickets

SUBSCRIPTION = "magnetar-perf"
STAMP_BYTES = 8
CHUNK_MESSAGES = 512
SAMPLED = 64
"""Without a rate, one latency in so many is recorded."""
LARGEST_LATENCY_US = 600_000_000
PERCENTILES = (50, 90, 99, 99.9, 100)


class _Latencies:
    """A histogram in microseconds."""

    def __init__(self) -> None:
        try:
            from hdrh.histogram import HdrHistogram
        except ImportError as error:
            raise NotSupported("percentiles need `pip install hdrhistogram`") from error
        self._histogram = HdrHistogram(1, LARGEST_LATENCY_US, 3)
        self.count = 0

    def record(self, due_ns: int, now_ns: int) -> None:
        value_us = min(max((now_ns - due_ns) // 1000, 1), LARGEST_LATENCY_US)
        self._histogram.record_value(value_us)
        self.count += 1

    def report(self) -> dict[str, float]:
        if not self.count:
            return {}
        return {
            f"p{percentile}_ms".replace("p100_", "max_"): round(
                self._histogram.get_value_at_percentile(percentile) / 1000, 3)
            for percentile in PERCENTILES
        }


def _stamped(due_ns: int, filler: bytes) -> bytes:
    return due_ns.to_bytes(STAMP_BYTES, "little") + filler


class _Publisher:
    def __init__(self, producer: AnyProducer, rate: int, size: int, seconds: float) -> None:
        self._producer = producer
        self._rate, self._seconds = rate, seconds
        self._filler = os.urandom(max(size - STAMP_BYTES, 0))
        self._waiting: deque[tuple[int, Ticket | Tickets]] = deque()
        self._arrived = asyncio.Event()
        self._latencies = _Latencies()
        self.sent = 0

    async def run(self) -> dict[str, object]:
        settling = asyncio.create_task(self._settle())
        begun_ns = time.perf_counter_ns()
        await (self._paced(begun_ns) if self._rate else self._saturate(begun_ns))
        await self._producer.flush()
        elapsed_s = (time.perf_counter_ns() - begun_ns) / 1e9
        while self._waiting:
            await asyncio.sleep(0.001)
        settling.cancel()
        return {
            "messages": self.sent, "seconds": round(elapsed_s, 3),
            "messages_per_second": round(self.sent / elapsed_s),
            "megabytes_per_second": round(
                self.sent * (len(self._filler) + STAMP_BYTES) / elapsed_s / 1e6, 2),
            "latency": self._latencies.report(),
        }

    async def _paced(self, begun_ns: int) -> None:
        total, interval_ns = int(self._rate * self._seconds), 1e9 / self._rate
        while self.sent < total:
            now_ns = time.perf_counter_ns()
            due = min(int((now_ns - begun_ns) / interval_ns) + 1, total)
            while self.sent < due:
                due_ns = begun_ns + int(self.sent * interval_ns)
                try:
                    ticket = self._producer.send(_stamped(due_ns, self._filler))
                except ProducerQueueFull:
                    await self._producer.ready()
                    continue
                self.sent += 1
                self._wait_for(due_ns, ticket)
            next_ns = begun_ns + int(self.sent * interval_ns)
            await asyncio.sleep(max(next_ns - time.perf_counter_ns(), 0) / 1e9)

    async def _saturate(self, begun_ns: int) -> None:
        end_ns = begun_ns + int(self._seconds * 1e9)
        messages = max(min(CHUNK_MESSAGES, (1 << 20) // (len(self._filler) + 1)), 1)
        while (now_ns := time.perf_counter_ns()) < end_ns:
            tickets = await self._producer.send_many([_stamped(now_ns, self._filler)] * messages)
            self.sent += messages
            self._wait_for(now_ns, tickets)
            await asyncio.sleep(0)

    def _wait_for(self, due_ns: int, claim: Ticket | Tickets) -> None:
        self._waiting.append((due_ns, claim))
        self._arrived.set()

    async def _settle(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                due_ns, claim = self._waiting[0]
                if not claim.done():
                    await claim
                self._latencies.record(due_ns, time.perf_counter_ns())
                self._waiting.popleft()


class _Receiver:
    """Counts until `expected` is known and reached, or nothing comes any more."""

    def __init__(self, every_latency: bool) -> None:
        self._step = 1 if every_latency else SAMPLED
        self._latencies = _Latencies()
        self.messages = 0
        self.bytes = 0
        self.first_ns = self.last_ns = 0

    def take(self, messages: list[Message]) -> None:
        now_ns = time.perf_counter_ns()
        self.first_ns, self.last_ns = self.first_ns or now_ns, now_ns
        self.messages += len(messages)
        self.bytes += sum([len(message.data) for message in messages])
        for message in messages[::self._step]:
            due_ns = int.from_bytes(message.data[:STAMP_BYTES], "little")
            self._latencies.record(due_ns, now_ns)

    def report(self, latency: bool) -> dict[str, object]:
        elapsed_s = max((self.last_ns - self.first_ns) / 1e9, 1e-9)
        found: dict[str, object] = {
            "messages": self.messages, "seconds": round(elapsed_s, 3),
            "messages_per_second": round(self.messages / elapsed_s) if self.messages > 1 else 0,
            "megabytes_per_second": round(self.bytes / elapsed_s / 1e6, 2)
            if self.messages > 1 else 0.0,
        }
        if latency:
            found["latency"] = self._latencies.report()
        return found


async def _read(client: Client, topic: str, seconds: float) -> dict[str, object]:
    receiver = _Receiver(every_latency=False)
    reader = await client.create_reader(topic, InitialPosition.Earliest)
    async with reader:
        end_s = time.perf_counter() + seconds
        while (left_s := end_s - time.perf_counter()) > 0:
            try:
                receiver.take(await reader.read_many(timeout_millis=int(left_s * 1000) + 1))
            except OperationTimeout:
                break
    return receiver.report(latency=False)


async def _publish(
    client: Client, topic: str, rate: int, size: int, seconds: float
) -> dict[str, object]:
    async with await client.create_producer(topic) as producer:
        return await _Publisher(producer, rate, size, seconds).run()


async def _end_to_end(
    client: Client, topic: str, rate: int, size: int, seconds: float
) -> dict[str, object]:
    receiver = _Receiver(every_latency=rate > 0)
    consumer = await client.subscribe(
        topic, SUBSCRIPTION, initial_position=InitialPosition.Latest)
    async with await client.create_producer(topic) as producer:
        publisher = _Publisher(producer, rate, size, seconds)

        async def receive() -> None:
            while True:
                messages = await consumer.receive_many()
                receiver.take(messages)
                for message in messages:
                    claim = consumer.acknowledge(message)
                if publishing.done() and receiver.messages >= publisher.sent:
                    await claim
                    return

        publishing = asyncio.create_task(publisher.run())
        receiving = asyncio.create_task(receive())
        published = await publishing
        if receiver.messages < publisher.sent:
            async with asyncio.timeout(max(seconds, 30)):
                await receiving
        receiving.cancel()
    await consumer.unsubscribe()
    return {"publish": published, "consume": receiver.report(latency=True)}


async def _run(
    url: str, topic: str, rate: int, size: int, seconds: float, publish: bool, consume: bool
) -> dict[str, object]:
    async with Client(url) as client:
        if publish and consume:
            return await _end_to_end(client, topic, rate, size, seconds)
        if publish:
            return {"publish": await _publish(client, topic, rate, size, seconds)}
        return {"consume": await _read(client, topic, seconds)}


def run_load(
    url: str, topic: str, rate: int, size: int, seconds: float, publish: bool, consume: bool
) -> dict[str, object]:
    """Run the load and report rates and latencies; `rate` 0 is as fast as it goes.

    Raises MagnetarError, also when not all that was published came back.
    """
    run: Any = asyncio.run
    try:
        import uvloop
    except ImportError:
        pass
    else:
        run = uvloop.run
    try:
        report: dict[str, object] = run(
            _run(url, topic, rate, size, seconds, publish, consume))
    except TimeoutError as error:
        raise MagnetarError("not all that was published came back in time") from error
    return report
