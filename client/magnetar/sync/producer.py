"""Publishing from any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

from magnetar.admin.schedule_values import ScheduleOutcome
from magnetar.errors import MagnetarError, ProducerQueueFull
from magnetar.message_id import MessageId
from magnetar.partitioned_producer import AnyProducer
from magnetar.scheduled_id import ScheduledId
from magnetar.sync.closable import Closable
from magnetar.sync.loop_thread import THREAD
from magnetar.sync.ticket import Tickets
from magnetar.ticket import Ticket as AsyncTicket
from magnetar.ticket import Tickets as AsyncTickets

Claim = TypeVar("Claim", AsyncTicket, AsyncTickets)

_CALLBACKS: set[asyncio.Task[None]] = set()


class Producer(Closable):
    """Publishes to one topic; safe to use from several threads."""

    def __init__(self, producer: AnyProducer) -> None:
        self._producer = producer

    @property
    def topic(self) -> str:
        """The topic's full name."""
        return self._producer.topic

    @property
    def producer_name(self) -> str:
        """The name the broker knows it by."""
        return self._producer.producer_name

    @property
    def topic_epoch(self) -> int:
        """Of an exclusive producer; see the asynchronous one."""
        return self._producer.topic_epoch

    @property
    def last_sequence_id(self) -> int:
        """The highest sequence id known to be durable; -1: none."""
        return self._producer.last_sequence_id

    @property
    def acknowledged_messages(self) -> int:
        """How many messages of this producer are durable."""
        return self._producer.acknowledged_messages

    @property
    def pending_bytes(self) -> int:
        """Size of all messages not yet acknowledged."""
        return self._producer.pending_bytes

    @property
    def max_message_size_bytes(self) -> int:
        """The largest batch the topic takes, as it said when the link was opened."""
        return self._producer.max_message_size_bytes

    @property
    def partitions(self) -> int:
        """How many partitions it publishes to; 0: the topic is not partitioned."""
        return self._producer.partitions

    @property
    def closed(self) -> bool:
        """Nothing can be sent any more."""
        return self._producer.closed

    @property
    def is_connected(self) -> bool:
        """Whether the topic, or every partition, has its link."""
        return self._producer.is_connected

    def send(
        self, content: bytes, properties: Mapping[str, str] | None = None,
        partition_key: str | None = None, ordering_key: str | None = None,
        sequence_id: int | None = None, event_timestamp: int | None = None,
        deliver_at: int | None = None, deliver_after: timedelta | float | None = None,
        tag: str | None = None, time_to_live: timedelta | float | None = None,
    ) -> MessageId | ScheduledId:
        """Publish and wait until the message is durable; see the asynchronous `send`."""
        async def work() -> MessageId | ScheduledId:
            return await (await self._queued(lambda: self._producer.send(
                content, properties, partition_key, ordering_key, sequence_id, event_timestamp,
                deliver_at, deliver_after, tag, time_to_live)))

        return THREAD.run(work())

    def send_async(
        self, content: bytes,
        callback: Callable[[Exception | None, MessageId | ScheduledId | None], object],
        properties: Mapping[str, str] | None = None, partition_key: str | None = None,
        ordering_key: str | None = None, sequence_id: int | None = None,
        event_timestamp: int | None = None, deliver_at: int | None = None,
        deliver_after: timedelta | float | None = None, tag: str | None = None,
        time_to_live: timedelta | float | None = None,
    ) -> None:
        """Queue one message; `callback(error, message_id)` runs in the SDK's thread."""
        async def finish(ticket: AsyncTicket) -> None:
            try:
                message_id = await ticket
            except MagnetarError as error:
                callback(error, None)
            else:
                callback(None, message_id)

        async def work() -> None:
            ticket = await self._queued(lambda: self._producer.send(
                content, properties, partition_key, ordering_key, sequence_id, event_timestamp,
                deliver_at, deliver_after, tag, time_to_live))
            task = asyncio.get_running_loop().create_task(finish(ticket))
            _CALLBACKS.add(task)
            task.add_done_callback(_CALLBACKS.discard)

        THREAD.run(work())

    def send_many(
        self, contents: Sequence[bytes], properties: Mapping[str, str] | None = None,
        tag: str | None = None, time_to_live: timedelta | float | None = None, *,
        partition_key: str | None = None, ordering_key: str | None = None,
        event_timestamp: int | None = None, deliver_at: int | None = None,
        deliver_after: timedelta | float | None = None,
    ) -> Tickets:
        """Queue messages, waiting for room only; `flush` tells whether they are durable, and so
        does the answer's `result`, with their ids."""
        return Tickets(THREAD.run(self._producer.send_many(
            contents, properties, tag, time_to_live, partition_key=partition_key,
            ordering_key=ordering_key, event_timestamp=event_timestamp,
            deliver_at=deliver_at, deliver_after=deliver_after)))

    def send_batch(self, batch: bytes) -> Tickets:
        """Queue a batch encoded elsewhere, waiting for room only; see the asynchronous one."""
        return Tickets(THREAD.run(self._queued(lambda: self._producer.send_batch(batch))))

    def cancel(self, scheduled_id: ScheduledId) -> ScheduleOutcome:
        """Do not deliver what was to be delivered later; see the asynchronous `cancel`."""
        return THREAD.run(self._producer.cancel(scheduled_id))

    def reschedule(
        self, scheduled_id: ScheduledId, *, deliver_at: int | None = None,
        deliver_after: timedelta | float | None = None,
    ) -> ScheduleOutcome:
        """Deliver it at another time; see the asynchronous `reschedule`."""
        return THREAD.run(self._producer.reschedule(
            scheduled_id, deliver_at=deliver_at, deliver_after=deliver_after))

    def flush(self) -> None:
        """Wait until everything sent is durable; raises the first error among it."""
        THREAD.run(self._producer.flush())

    def close(self) -> None:
        """Flush and end."""
        THREAD.run(self._producer.close())

    async def _queued(self, queue: Callable[[], Claim]) -> Claim:
        while True:
            try:
                return queue()
            except ProducerQueueFull:
                await self._producer.ready()
