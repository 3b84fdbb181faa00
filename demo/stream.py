"""The stream through the cluster: publish, consume live, kill in between, read back."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from demo.comparison import Reading
from demo.flights import Flight
from magnetar import Client, InitialPosition, MessageId
from magnetar.consuming import Consumer
from magnetar.errors import OperationTimeout, ProducerQueueFull
from magnetar.message import Message
from magnetar.producer import Producer

SUBSCRIPTION: Final = "live"
SENDS_A_TURN: Final = 256
"""Messages queued before the other tasks of this process get their turn."""
STALL_LIMIT_MS: Final = 60_000
WATCH_INTERVAL_S: Final = 0.01
RECEIVED_TOGETHER: Final = 1_000


@dataclass(slots=True)
class Kill:
    """A process killed in mid-stream, and how the publishing took it."""

    name: str
    role: str
    pid: int
    at_s: float
    """Seconds after publishing began."""
    at_flight: int
    """Flights acknowledged until then."""
    silence_s: float = 0.0
    """The longest time without a new acknowledgement after the kill and before the next."""


@dataclass(slots=True)
class Counts:
    """How far the stream is, and when it began and ended."""

    acknowledged: int = 0
    publish_s: float = 0.0
    live_s: float = 0.0
    read_s: float = 0.0
    kills: list[Kill] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PlannedKill:
    """To kill the process `name` once so many flights are acknowledged."""

    at_flight: int
    role: str
    name: str
    kill: Callable[[str], int]
    """Kills the process of that name and answers with its process id."""


def share_of(flights: Sequence[Flight], producers: int) -> list[list[Flight]]:
    """Flights by producer: all of one aircraft at the same one, so that its order holds."""
    shares: list[list[Flight]] = [[] for _ in range(producers)]
    for flight in flights:
        shares[zlib.crc32(flight.tail_number.encode()) % producers].append(flight)
    return shares


async def _send_all(producer: Producer, flights: Sequence[Flight]) -> None:
    for number, flight in enumerate(flights, 1):
        while True:
            try:
                producer.send(flight.payload, partition_key=flight.tail_number)
                break
            except ProducerQueueFull:
                await producer.ready()
        if number % SENDS_A_TURN == 0:
            await asyncio.sleep(0)
    await producer.flush()


class Stream:
    """One run. `counts` and the two readings may be looked at while it runs."""

    def __init__(self, url: str, topic: str, flights: Sequence[Flight], producers: int) -> None:
        self._url, self._topic = url, topic
        self._flights, self._producers = flights, producers
        self._open: list[Producer] = []
        self._began_s = 0.0
        self.counts = Counts()
        self.live = Reading(flights)
        self.log = Reading(flights)

    async def run(self, kills: Sequence[PlannedKill]) -> None:
        """Publish all and consume all at the same time; raises MagnetarError (in a group)."""
        async with Client(self._url) as client:
            consumer = await client.subscribe(
                self._topic, SUBSCRIPTION, initial_position=InitialPosition.Earliest
            )
            self._began_s = time.perf_counter()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._consume(consumer))
                watching = tasks.create_task(self._watch(kills))
                await self._publish(client)
                watching.cancel()
            await consumer.close()

    async def _publish(self, client: Client) -> None:
        shares = share_of(self._flights, self._producers)
        for number in range(len(shares)):
            name = f"flights-{number + 1}"
            self._open.append(await client.create_producer(self._topic, producer_name=name))
        async with asyncio.TaskGroup() as tasks:
            for producer, share in zip(self._open, shares, strict=True):
                tasks.create_task(_send_all(producer, share))
        self.counts.publish_s = time.perf_counter() - self._began_s
        self.counts.acknowledged = sum(one.acknowledged_messages for one in self._open)
        for producer in self._open:
            await producer.close()

    async def _watch(self, kills: Sequence[PlannedKill]) -> None:
        """Count acknowledgements, and kill when their number says so."""
        due = sorted(kills, key=lambda planned: planned.at_flight)
        counts, changed_s = self.counts, time.perf_counter()
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            now_s = time.perf_counter()
            acknowledged = sum(producer.acknowledged_messages for producer in self._open)
            if counts.kills and counts.acknowledged < len(self._flights):
                last = counts.kills[-1]
                last.silence_s = max(last.silence_s, now_s - changed_s)
            if acknowledged != counts.acknowledged:
                counts.acknowledged, changed_s = acknowledged, now_s
            while due and acknowledged >= due[0].at_flight:
                planned = due.pop(0)
                pid = planned.kill(planned.name)
                at_s = now_s - self._began_s
                kill = Kill(planned.name, planned.role, pid, at_s, acknowledged)
                counts.kills.append(kill)
                changed_s = time.perf_counter()

    async def _consume(self, consumer: Consumer) -> None:
        while not self.live.complete:
            try:
                messages = await consumer.receive_many(RECEIVED_TOGETHER, STALL_LIMIT_MS)
            except OperationTimeout:
                # What is missing counts as lost.
                break
            self._take(self.live, messages)
            for message in messages:
                consumer.acknowledge(message)
            await asyncio.sleep(0)
        self.counts.live_s = time.perf_counter() - self._began_s

    async def read_back(self) -> None:
        """Read the whole log from its first message; raises MagnetarError."""
        began_s = time.perf_counter()
        async with (
            Client(self._url) as client,
            await client.create_reader(self._topic, MessageId.earliest) as reader,
        ):
            while await reader.has_message_available():
                messages = await reader.read_many(RECEIVED_TOGETHER, STALL_LIMIT_MS)
                self._take(self.log, messages)
        self.counts.read_s = time.perf_counter() - began_s

    @staticmethod
    def _take(reading: Reading, messages: Sequence[Message]) -> None:
        for message in messages:
            reading.add(message.producer_name, message.partition_key, message.data)
