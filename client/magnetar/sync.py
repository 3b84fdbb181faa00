"""The SDK for programs without an event loop: one thread runs the loop of all clients.

Every call blocks until it has its result. `Producer.send` waits until its message is durable, as
such programs expect; `send_many` and `send_async` only wait for room.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from magnetar import client as asynchronous
from magnetar.acknowledgements import Acknowledgement
from magnetar.consumer import Consumer as AsyncConsumer
from magnetar.enums import InitialPosition
from magnetar.errors import InvalidArgument, MagnetarError, ProducerQueueFull
from magnetar.message import Message
from magnetar.message_id import MessageId
from magnetar.partitioned_producer import AnyProducer
from magnetar.reader import Reader as AsyncReader
from magnetar.scheduled_id import ScheduledId
from magnetar.ticket import Ticket

if TYPE_CHECKING:
    from magnetar.admin.sync import Admin

Result = TypeVar("Result")


class _LoopThread:
    """The one background loop, started by the first client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = _new_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="magnetar", daemon=True)
                self._thread.start()
            return self._loop

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run in the loop and wait; an interrupt of the caller cancels the work."""
        if threading.current_thread() is self._thread:
            work.close()
            raise InvalidArgument("a callback may not block the thread that runs it")
        future = asyncio.run_coroutine_threadsafe(work, self.loop())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


_THREAD = _LoopThread()


async def _awaited(claim: Ticket | Acknowledgement) -> Any:
    return await claim


class Producer:
    """Publishes to one topic; safe to use from several threads."""

    def __init__(self, producer: AnyProducer) -> None:
        self._producer = producer

    topic = property(lambda self: self._producer.topic, doc="The topic's full name.")
    producer_name = property(
        lambda self: self._producer.producer_name, doc="The name the broker knows it by.")

    @property
    def last_sequence_id(self) -> int:
        """The highest sequence id known to be durable; -1: none."""
        return self._producer.last_sequence_id

    @property
    def acknowledged_messages(self) -> int:
        """How many messages of this producer are durable."""
        return self._producer.acknowledged_messages

    def send(
        self, content: bytes, properties: Mapping[str, str] | None = None,
        partition_key: str | None = None, ordering_key: str | None = None,
        sequence_id: int | None = None, event_timestamp: int | None = None,
        deliver_at: int | None = None, deliver_after: timedelta | float | None = None,
        tag: str | None = None, time_to_live: timedelta | float | None = None,
    ) -> MessageId | ScheduledId:
        """Publish and wait until the message is durable; see the asynchronous `send`."""
        async def work() -> MessageId | ScheduledId:
            return await (await self._queued(
                content, properties, partition_key, ordering_key, sequence_id, event_timestamp,
                deliver_at, deliver_after, tag, time_to_live))

        return _THREAD.run(work())

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
        async def finish(ticket: Ticket) -> None:
            try:
                message_id = await ticket
            except MagnetarError as error:
                callback(error, None)
            else:
                callback(None, message_id)

        async def work() -> None:
            ticket = await self._queued(
                content, properties, partition_key, ordering_key, sequence_id, event_timestamp,
                deliver_at, deliver_after, tag, time_to_live)
            task = asyncio.get_running_loop().create_task(finish(ticket))
            _CALLBACKS.add(task)
            task.add_done_callback(_CALLBACKS.discard)

        _THREAD.run(work())

    def send_many(
        self, contents: Sequence[bytes], properties: Mapping[str, str] | None = None,
        tag: str | None = None, time_to_live: timedelta | float | None = None,
    ) -> None:
        """Queue messages, waiting for room only; `flush` tells whether they are durable."""
        _THREAD.run(self._producer.send_many(contents, properties, tag, time_to_live))

    def flush(self) -> None:
        """Wait until everything sent is durable; raises the first error among it."""
        _THREAD.run(self._producer.flush())

    def close(self) -> None:
        """Flush and end."""
        _THREAD.run(self._producer.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _queued(self, content: bytes, *options: Any) -> Ticket:
        while True:
            try:
                return self._producer.send(content, *options)
            except ProducerQueueFull:
                await self._producer.ready()


_CALLBACKS: set[asyncio.Task[None]] = set()


class Consumer:
    """Receives a subscription's messages."""

    def __init__(self, consumer: AsyncConsumer) -> None:
        self._consumer = consumer

    topic = property(lambda self: self._consumer.topic, doc="The topic's full name.")
    subscription_name = property(lambda self: self._consumer.subscription_name)

    def receive(self, timeout_millis: int | None = None) -> Message:
        """The next message; raises OperationTimeout."""
        return _THREAD.run(self._consumer.receive(timeout_millis))

    def receive_many(
        self, max_messages: int = 1000, timeout_millis: int | None = None
    ) -> list[Message]:
        """What is there, at least one message; raises OperationTimeout."""
        return _THREAD.run(self._consumer.receive_many(max_messages, timeout_millis))

    def acknowledge(self, message: Message | MessageId) -> None:
        """Never deliver the message again; returns when this is durable."""
        async def work() -> None:
            await self._consumer.acknowledge(message)

        _THREAD.run(work())

    def acknowledge_many(self, messages: Sequence[Message | MessageId]) -> None:
        """As `acknowledge`, for many at the price of one."""
        async def work() -> None:
            for claim in dict.fromkeys([
                self._consumer.acknowledge(message) for message in messages
            ]):
                await claim

        _THREAD.run(work())

    def acknowledge_cumulative(self, message: Message | MessageId) -> None:
        """Never deliver the message and all before it again; returns when this is durable."""
        async def work() -> None:
            await self._consumer.acknowledge_cumulative(message)

        _THREAD.run(work())

    def negative_acknowledge(self, message: Message | MessageId) -> None:
        """Deliver the message again, after the redelivery delay."""
        async def work() -> None:
            self._consumer.negative_acknowledge(message)

        _THREAD.run(work())

    def seek(self, where: MessageId | int | InitialPosition) -> None:
        """Go on from a message, a publish time in ms since the epoch, or an end."""
        _THREAD.run(self._consumer.seek(where))

    def last_message_id(self) -> MessageId | None:
        """The topic's last message; None when it has none."""
        return _THREAD.run(self._consumer.last_message_id())

    def unsubscribe(self) -> None:
        """Delete the subscription, then close."""
        _THREAD.run(self._consumer.unsubscribe())

    def close(self) -> None:
        """Make acknowledgements durable and leave."""
        _THREAD.run(self._consumer.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message]:
        while True:
            yield self.receive()


class Reader:
    """Reads a topic from a chosen place."""

    def __init__(self, reader: AsyncReader) -> None:
        self._reader = reader

    topic = property(lambda self: self._reader.topic, doc="The topic's full name.")

    def read_next(self, timeout_millis: int | None = None) -> Message:
        """The next message; raises OperationTimeout."""
        return _THREAD.run(self._reader.read_next(timeout_millis))

    def read_many(
        self, max_messages: int = 1000, timeout_millis: int | None = None
    ) -> list[Message]:
        """What is there, at least one message; raises OperationTimeout."""
        return _THREAD.run(self._reader.read_many(max_messages, timeout_millis))

    def has_message_available(self) -> bool:
        """Whether `read_next` would find a message without waiting for a new one."""
        return _THREAD.run(self._reader.has_message_available())

    def last_message_id(self) -> MessageId | None:
        """The topic's last message; None when it has none."""
        return _THREAD.run(self._reader.last_message_id())

    def seek(self, where: MessageId | int | InitialPosition) -> None:
        """Go on from a message, a publish time in ms since the epoch, or an end."""
        _THREAD.run(self._reader.seek(where))

    def close(self) -> None:
        """Stop reading."""
        _THREAD.run(self._reader.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message]:
        while True:
            yield self.read_next()


class Client:
    """Speaks to a cluster; takes what the asynchronous `Client` takes."""

    def __init__(self, service_url: str | None = None, **settings: Any) -> None:
        async def work() -> asynchronous.Client:
            return asynchronous.Client(service_url, **settings)

        self._client = _THREAD.run(work())
        self._admin: Admin | None = None

    @property
    def admin(self) -> Admin:
        """See the asynchronous `admin`."""
        if self._admin is None:
            from magnetar.admin.sync import Admin

            self._admin = Admin(self._client.admin, _THREAD.run)
        return self._admin

    def create_producer(self, topic: str, producer_name: str = "", **settings: Any) -> Producer:
        """See the asynchronous `create_producer`."""
        return Producer(_THREAD.run(
            self._client.create_producer(topic, producer_name, **settings)))

    def subscribe(self, topic: str, subscription_name: str, **settings: Any) -> Consumer:
        """See the asynchronous `subscribe`."""
        return Consumer(_THREAD.run(
            self._client.subscribe(topic, subscription_name, **settings)))

    def create_reader(
        self, topic: str,
        start_message_id: MessageId | InitialPosition = InitialPosition.Earliest,
        **settings: Any,
    ) -> Reader:
        """See the asynchronous `create_reader`."""
        return Reader(_THREAD.run(
            self._client.create_reader(topic, start_message_id, **settings)))

    def close(self) -> None:
        """Close everything made by this client."""
        _THREAD.run(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
