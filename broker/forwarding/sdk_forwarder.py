"""Publishes through the SDK, as any client of the cluster: the one place where a broker does.

Outlets are producers. One that is released rests, open, until its name is asked for again, it
has rested for too long, or another outlet needs the room.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from broker.forwarding.port import Outlet
from magnetar.client import Client
from magnetar.enums import InitialPosition
from magnetar.errors import AlreadyClosed, ConsumerBusy, MagnetarError
from magnetar.partitioned_producer import AnyProducer
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Address
from magnetar.topic import TopicName

_log = logging.getLogger(__name__)

Name = tuple[str, str]  # topic, producer name


@dataclass(frozen=True, slots=True)
class ForwarderLimits:
    """Named bounds of what one broker forwards."""

    outlets: int = 256
    """Producers open at a time, at work and at rest; who needs one more waits."""
    rest_s: float = 30.0
    """A producer that nobody used for so long is closed."""
    open_timeout_s: float = 10.0
    send_timeout_s: float = 15.0
    """A batch not durable by then is reported; whether it was stored is found out later."""
    close_timeout_s: float = 2.0


class SdkForwarder:
    """Speaks to the cluster by way of `broker`, this broker's own advertised address."""

    def __init__(
        self, broker: Address, clock: Clock, random: Random,
        limits: ForwarderLimits | None = None,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._random = random
        self._limits = limits or ForwarderLimits()
        self._client: Client | None = None
        self._resting: OrderedDict[Name, tuple[AnyProducer, float]] = OrderedDict()
        self._busy = 0
        self._room: list[asyncio.Future[None]] = []
        self._sweeping: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def outlets(self) -> int:
        """Producers open now."""
        return self._busy + len(self._resting)

    async def partitions(self, topic: str) -> int:
        """See `Forwarder.partitions`."""
        return await self._speaker().partitions_of(topic)

    async def keep(self, topic: str, subscription: str) -> None:
        """See `Forwarder.keep`."""
        log = await self._log_of(topic)
        with suppress(ConsumerBusy):  # somebody uses it, so it is there
            consumer = await self._speaker().subscribe(
                log, subscription, initial_position=InitialPosition.Earliest)
            await consumer.close()

    async def _log_of(self, topic: str) -> str:
        """Of a partitioned topic one partition, always the same, however many there will be."""
        name = TopicName.parse(topic)
        if name.partition < 0 and await self.partitions(topic):
            return name.with_partition(0).full
        return topic

    async def open(self, topic: str, producer_name: str, *, fresh: bool) -> Outlet:
        """See `Forwarder.open`. Raises AlreadyClosed when the broker stops."""
        rested = self._resting.pop((topic, producer_name), None)
        if rested is not None:
            if not fresh and not rested[0].closed:
                self._busy += 1
                return SdkOutlet(self, (topic, producer_name), rested[0])
            self.drop(rested[0])
        await self._take_room()
        try:
            producer = await self._speaker().create_producer(
                await self._log_of(topic), producer_name,
                send_timeout_millis=round(self._limits.send_timeout_s * 1000))
        except BaseException:
            self.left()
            raise
        return SdkOutlet(self, (topic, producer_name), producer)

    async def close(self) -> None:
        """Close every producer and the client; twice is fine."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._wake()
        self._resting.clear()
        client, self._client = self._client, None
        if client is not None:
            try:
                async with asyncio.timeout(self._limits.close_timeout_s):
                    await client.close()
            except (MagnetarError, TimeoutError) as error:
                _log.info("forwarding ended with work on its way: %r", error)
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _speaker(self) -> Client:
        if self._closed:
            raise AlreadyClosed("this broker stops and forwards nothing more")
        if self._client is None:
            self._client = Client(
                f"magnetar://{self._broker}", clock=self._clock, random=self._random,
                operation_timeout_seconds=self._limits.open_timeout_s,
            )
        return self._client

    async def _take_room(self) -> None:
        while self.outlets >= self._limits.outlets and not self._closed:
            if self._resting:
                self._close_oldest()
                continue
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(waiter)
            await waiter
        self._busy += 1

    def left(self) -> None:
        """An outlet is at work no more."""
        self._busy -= 1
        self._wake()

    def rest(self, name: Name, producer: AnyProducer) -> None:
        """Keep the producer for the next one who needs it."""
        self.left()
        if self._closed or producer.closed or name in self._resting:
            self.drop(producer)
            return
        self._resting[name] = (producer, self._clock.monotonic_s() + self._limits.rest_s)
        self._wake()
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.get_running_loop().create_task(
                self._sweep(), name="forwarder sweep")

    def drop(self, producer: AnyProducer) -> None:
        """Close the producer behind everybody's back."""
        task = asyncio.get_running_loop().create_task(self._close(producer))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, producer: AnyProducer) -> None:
        with suppress(MagnetarError, TimeoutError):
            async with asyncio.timeout(self._limits.close_timeout_s):
                await producer.close()

    def _close_oldest(self) -> None:
        _, (producer, _) = self._resting.popitem(last=False)
        self.drop(producer)

    async def _sweep(self) -> None:
        while self._resting:
            _, rests_until_s = next(iter(self._resting.values()))
            left_s = rests_until_s - self._clock.monotonic_s()
            if left_s > 0:
                await self._clock.sleep(left_s)
            else:
                self._close_oldest()

    def _wake(self) -> None:
        waiting, self._room = self._room, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class SdkOutlet:
    """See `Outlet`."""

    def __init__(self, forwarder: SdkForwarder, name: Name, producer: AnyProducer) -> None:
        self._forwarder = forwarder
        self._name = name
        self._producer = producer

    @property
    def last_sequence_id(self) -> int:
        return self._producer.last_sequence_id

    @property
    def max_batch_bytes(self) -> int:
        return self._producer.max_message_size_bytes

    async def publish(self, batch: bytes) -> None:
        await self._producer.send_batch(batch)

    def release(self) -> None:
        self._forwarder.rest(self._name, self._producer)

    def discard(self) -> None:
        self._forwarder.left()
        self._forwarder.drop(self._producer)
