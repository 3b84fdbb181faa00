"""Producers kept open for topics that are only known once there is something to send."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from magnetar.errors import MagnetarError, ProducerQueueFull
from magnetar.partitioned_producer import AnyProducer
from magnetar.redelivery_backoff import Delay
from magnetar.ticket import Ticket

Create = Callable[[str], Awaitable[AnyProducer]]


class ProducerCache:
    """At most `most` of them; the one that was not used for longest is closed for another."""

    def __init__(self, create: Create, most: int) -> None:
        self._create = create
        self._most = most
        self._producers: OrderedDict[str, AnyProducer] = OrderedDict()
        self._opening: dict[str, asyncio.Lock] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._producers)

    async def send(
        self, topic: str, content: bytes, properties: Mapping[str, str],
        partition_key: str | None = None, time_to_live: Delay | None = None,
    ) -> Ticket:
        """Queue a message, waiting for room; raises what opening or sending raises."""
        while True:
            producer = await self._producer(topic)
            try:
                return producer.send(
                    content, properties, partition_key, time_to_live=time_to_live)
            except ProducerQueueFull:
                await producer.ready()

    async def close(self) -> None:
        """Wait for those that are being closed; the others are their client's to close."""
        while self._closing:
            await asyncio.wait(self._closing)

    async def _producer(self, topic: str) -> AnyProducer:
        if (known := self._known(topic)) is not None:
            return known
        lock = self._opening.setdefault(topic, asyncio.Lock())
        try:
            async with lock:
                if (known := self._known(topic)) is not None:
                    return known
                made = await self._create(topic)
                self._producers[topic] = made
                self._close_oldest()
                return made
        finally:
            if not lock.locked():
                self._opening.pop(topic, None)

    def _known(self, topic: str) -> AnyProducer | None:
        producer = self._producers.get(topic)
        if producer is None or producer.closed:
            return None
        self._producers.move_to_end(topic)
        return producer

    def _close_oldest(self) -> None:
        while len(self._producers) > self._most:
            topic, producer = self._producers.popitem(last=False)
            task = asyncio.get_running_loop().create_task(
                self._close(producer), name=f"magnetar: close the producer of {topic}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, producer: AnyProducer) -> None:
        with suppress(MagnetarError):  # whoever sent was told
            await producer.close()
