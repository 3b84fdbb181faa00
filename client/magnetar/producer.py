"""A producer: `send()` never waits, one task keeps the link and sends what has collected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn

from magnetar.admin.schedule_values import ScheduleOutcome
from magnetar.backoff import Backoff
from magnetar.batch import Batch, Options
from magnetar.closable import Closable
from magnetar.connection import PRODUCE, Connections, Stream
from magnetar.enums import ProducerAccessMode
from magnetar.errors import (
    AlreadyClosed,
    ConnectionFailed,
    InvalidArgument,
    InvalidFrame,
    MagnetarError,
    OperationTimeout,
    ProducerBusy,
    ProducerQueueFull,
    SequenceOverlap,
)
from magnetar.producer_core import ProducerCore
from magnetar.scheduled_id import ScheduledId
from magnetar.send_options import options_of
from magnetar.ticket import Ticket, Tickets, announce, settled
from magnetar.together import until_one_fails
from magnetar.topic import TopicName
from magnetar.topic_schedule import TopicSchedule
from magnetar.waiters import Waiters
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import RETRYABLE, to_exception
from magnetar.wire.frames import encode_batches


class Producer(Closable):
    """Publishes to one topic. Made by `Client.create_producer`; used from the client's loop."""

    def __init__(
        self, connections: Connections, topic: TopicName, core: ProducerCore,
        properties: Mapping[str, str],
        access_mode: ProducerAccessMode = ProducerAccessMode.Shared,
    ) -> None:
        self._connections = connections
        self._topic = topic
        self._partition = topic.partition
        self._core = core
        self._schedule = TopicSchedule(connections, topic.full)
        self._properties = dict(properties)
        self._access_mode = access_mode
        self._topic_epoch = 0
        self._busy: ProducerBusy | None = None
        """Why the last attempt to come back was refused."""
        self._stream: Stream | None = None
        self._task: asyncio.Task[None] | None = None
        self._waker: asyncio.Future[None] | None = None
        self._for_room = Waiters()
        self._end: MagnetarError | None = None
        self._unseen_error: MagnetarError | None = None
        self._leaving = self._said_goodbye = False
        self.on_settled: Callable[[], None] | None = None
        """Called after messages were settled, so that there may be room."""
        self._parted = asyncio.Event()
        """The broker said `closed`, or the link was lost after the goodbye."""

    # What it is.

    @property
    def topic(self) -> str:
        """The topic's full name."""
        return self._topic.full

    @property
    def producer_name(self) -> str:
        """The name the broker knows it by; given by the broker when none was chosen."""
        return self._core.producer_name

    @property
    def topic_epoch(self) -> int:
        """Of an exclusive producer: above those of all exclusive producers the topic had before;
        0 for a shared one."""
        return self._topic_epoch

    @property
    def last_sequence_id(self) -> int:
        """The highest sequence id known to be durable; -1: none."""
        return self._core.last_sequence_id

    @property
    def acknowledged_messages(self) -> int:
        """How many messages of this producer are durable."""
        return self._core.acknowledged_messages

    @property
    def max_message_size_bytes(self) -> int:
        """The largest batch the topic takes, as it said when the link was opened."""
        return self._core.max_message_bytes

    @property
    def pending_bytes(self) -> int:
        """Size of all messages not yet acknowledged."""
        return self._core.pending_bytes

    @property
    def partitions(self) -> int:
        """0, as it publishes to a single log: see `PartitionedProducer.partitions`."""
        return 0

    @property
    def closed(self) -> bool:
        """Nothing can be sent any more."""
        return self._end is not None

    @property
    def is_connected(self) -> bool:
        return self._stream is not None

    # What it does.

    def send(
        self,
        content: bytes,
        properties: Mapping[str, str] | None = None,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        sequence_id: int | None = None,
        event_timestamp: int | None = None,
        deliver_at: int | None = None,
        deliver_after: timedelta | float | None = None,
        tag: str | None = None,
        time_to_live: timedelta | float | None = None,
    ) -> Ticket:
        """Queue one message and return at once; await the ticket to know that it is durable.

        Consumers may ask for messages by `tag` and by `properties`.
        `event_timestamp` and `deliver_at` are in milliseconds since the epoch, `deliver_after` and
        `time_to_live` are a timedelta or seconds. A message to be delivered later is kept by the
        topic's schedule until then, and its ticket gives a ScheduledId; one that waited for its
        `time_to_live`, from when the topic has it, goes to no consumer any more.

        Raises ProducerQueueFull (then `await ready()`), MessageTooLarge, InvalidArgument,
        AlreadyClosed, or the error that ended this producer.
        """
        if self._end is not None:
            raise self._end
        if type(content) is not bytes:
            content = as_bytes(content)
        options = None
        if (
            properties or partition_key is not None or ordering_key is not None
            or event_timestamp is not None or deliver_at is not None or deliver_after is not None
            or tag is not None or time_to_live is not None
        ):
            options = options_of(
                self._connections.clock, properties, partition_key, ordering_key,
                event_timestamp, deliver_at, deliver_after, tag, time_to_live)
        batch = self._core.add(content, options, sequence_id)
        if self._waker is not None:
            self._wake()
        return Ticket(batch, len(batch.payloads) - 1, self._partition)

    async def ready(self) -> None:
        """Wait until `send()` has room for what it refused; raises what ended this producer."""
        while not self._core.has_room:
            if self._end is not None:
                raise self._end
            await self._for_room.wait()

    async def send_many(
        self, contents: Sequence[bytes], properties: Mapping[str, str] | None = None,
        tag: str | None = None, time_to_live: timedelta | float | None = None, *,
        partition_key: str | None = None, ordering_key: str | None = None,
        event_timestamp: int | None = None, deliver_at: int | None = None,
        deliver_after: timedelta | float | None = None,
    ) -> Tickets:
        """Queue messages, waiting for room where needed; await the answer for their ids.

        All else, as in `send`, is given to each of them.
        """
        if set(map(type, contents)) - {bytes}:
            contents = [as_bytes(content) for content in contents]
        parts: list[tuple[Batch, int, int]] = []
        if (
            properties or tag is not None or time_to_live is not None
            or partition_key is not None or ordering_key is not None
            or event_timestamp is not None or deliver_at is not None or deliver_after is not None
        ):
            options = options_of(
                self._connections.clock, properties, partition_key, ordering_key,
                event_timestamp, deliver_at, deliver_after, tag, time_to_live)
            for content in contents:
                batch = await self._add_waiting(content, options)
                parts.append((batch, len(batch.payloads) - 1, 1))
            return Tickets(parts, self._partition)
        at, count = 0, len(contents)
        while at < count:
            if self._end is not None:
                raise self._end
            placed = self._core.add_many(contents[at:] if at else contents)
            parts += placed
            at += sum(number for _, _, number in placed)
            if self._waker is not None:
                self._wake()
            if at < count:
                await self._for_room.wait()
        return Tickets(parts, self._partition)

    async def _add_waiting(self, content: bytes, options: Options) -> Batch:
        while True:
            if self._end is not None:
                raise self._end
            try:
                batch = self._core.add(content, options, None)
            except ProducerQueueFull:
                await self._for_room.wait()
            else:
                if self._waker is not None:
                    self._wake()
                return batch

    def send_batch(self, batch: bytes) -> Tickets:
        """Queue a batch encoded by `magnetar.entry.encode_batch` under this producer's name.

        For those who copy messages from topic to topic and want their checksums kept, and all of
        a batch stored or nothing of it. Raises what `send` raises.
        """
        if self._end is not None:
            raise self._end
        added = self._core.add_encoded(batch)
        if self._waker is not None:
            self._wake()
        return Tickets([(added, 0, added.count)], self._partition)

    async def cancel(self, scheduled_id: ScheduledId) -> ScheduleOutcome:
        """Do not deliver a message that was to be delivered later. The answer is certain and
        durable: CANCELLED (now, or before), DELIVERED (too late), or UNKNOWN.

        Raises InvalidArgument for what names no message of this topic's schedule, and
        ConnectionFailed or OperationTimeout without an answer: then ask again.
        """
        if self._end is not None:
            raise self._end
        return await self._schedule.cancel(scheduled_id)

    async def reschedule(
        self, scheduled_id: ScheduledId, *, deliver_at: int | None = None,
        deliver_after: timedelta | float | None = None,
    ) -> ScheduleOutcome:
        """Deliver it at another time, earlier or later, given as in `send`; its id stays. MOVED,
        or DELIVERED, CANCELLED (before) or UNKNOWN; raises what `cancel` raises."""
        if self._end is not None:
            raise self._end
        return await self._schedule.reschedule(scheduled_id, deliver_at, deliver_after)

    async def flush(self) -> None:
        """Wait until everything sent before is durable.

        Raises the first error among those messages of which no ticket has been awaited.
        """
        if (last := self._core.last_batch) is not None:
            await asyncio.shield(settled(last))
            if isinstance(last.outcome, MagnetarError):
                self._unseen_error = self._unseen_error or last.outcome
        error, self._unseen_error = self._unseen_error, None
        if error is not None:
            raise error

    async def close(self) -> None:
        """Flush, tell the broker, and end; raises what `flush` raises. Closing twice is fine.

        Messages without a send timeout get the client's operation timeout; then they fail with
        OperationTimeout, which this raises too.
        """
        if self._task is None or self._end is not None:
            await self._stop(AlreadyClosed("the producer is closed"))
            return
        limit_s = self._connections.settings.operation_timeout_s
        try:
            try:
                async with asyncio.timeout(None if self._core.send_timeout_s else limit_s):
                    await self.flush()
            except TimeoutError:
                error = OperationTimeout(
                    f"closed with messages that were not acknowledged within {limit_s:g} s; they"
                    " may or may not be stored")
                self._tell(self._core.fail_all(error))
                raise error from self._busy
            if self._end is None and self._stream is not None:
                await self._say_goodbye()
        finally:
            await self._stop(AlreadyClosed("the producer is closed"))

    # How it keeps its link.

    async def open(self, deadline_s: float) -> None:
        """Open the first link; called once by the client."""
        self._stream = await self._connect(deadline_s, RETRYABLE)
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"magnetar producer {self.producer_name}")

    async def _connect(
        self, deadline_s: float | None, retry: tuple[type[MagnetarError], ...]
    ) -> Stream:
        return await self._connections.open_stream(
            self.topic, PRODUCE, self._first_frame, self._opened, deadline_s, retry=retry)

    def _first_frame(self, relay: bool) -> bytes:
        return pb.ProduceRequest(open=pb.OpenProducer(
            topic=self.topic, producer_name=self._core.producer_name,
            producer_epoch=self._core.producer_epoch, properties=self._properties, relay=relay,
            access_mode=_ACCESS_MODES[self._access_mode], topic_epoch=self._topic_epoch,
        )).SerializeToString()

    def _opened(self, frame: bytes) -> bool:
        try:
            reply = _parsed(frame)
        except ProducerBusy as error:
            self._busy = error
            raise
        if reply.waiting:
            return False
        if not reply.HasField("opened"):
            raise ConnectionFailed("the broker did not answer the opening of the producer")
        opened = reply.opened
        self._core.opened(
            opened.producer_name, opened.producer_epoch, opened.last_sequence_id,
            opened.max_message_size_bytes)
        self._topic_epoch, self._busy = opened.topic_epoch, None
        self._receipts(reply)
        return True

    async def _run(self) -> None:
        """Keep a link, until the producer is closed or an error no new link can cure."""
        backoff = Backoff(self._connections.random)
        try:
            while True:
                if self._stream is None:
                    self._stream = await self._reconnect()
                before = self._core.acknowledged_messages
                error = await until_one_fails(
                    self._write(self._stream), self._read(self._stream), self._watch_expiry())
                if self._said_goodbye:
                    self._parted.set()
                    return
                self._stream.close()
                self._stream = None
                self._core.disconnected()
                if not isinstance(error, (*RETRYABLE, SequenceOverlap)):
                    raise error
                if self._core.acknowledged_messages > before:
                    backoff.reset()
                else:
                    await self._connections.clock.sleep(backoff.next_s())
        except MagnetarError as error:
            self._finish(error)
        except Exception as error:
            self._finish(MagnetarError(f"the producer failed: {error!r}"))
            raise

    async def _reconnect(self) -> Stream:
        connecting = asyncio.get_running_loop().create_task(
            # A shared producer waits until the exclusive one that came meanwhile has left.
            self._connect(None, (*RETRYABLE, ProducerBusy)))
        try:
            while not connecting.done():
                left_s = self._core.seconds_to_expiry()
                await asyncio.wait(
                    {connecting}, timeout=1.0 if left_s is None else max(min(left_s, 1.0), 0.0))
                self._tell(self._core.expire(self._busy))
            return await connecting
        finally:
            connecting.cancel()

    async def _write(self, stream: Stream) -> NoReturn:
        core = self._core
        while True:
            batches = core.next_batches()
            if batches:
                await stream.write(encode_batches(batches))
                continue
            if self._leaving:
                self._leaving, self._said_goodbye = False, True
                await stream.write(pb.ProduceRequest(close=True).SerializeToString())
                continue
            self._waker = asyncio.get_running_loop().create_future()
            try:
                await self._waker
            finally:
                self._waker = None

    async def _read(self, stream: Stream) -> NoReturn:
        while True:
            self._receipts(_parsed(await stream.read()))

    async def _watch_expiry(self) -> NoReturn:
        while True:
            left_s = self._core.seconds_to_expiry()
            await self._connections.clock.sleep(
                1.0 if left_s is None else max(min(left_s, 1.0), 0.01))
            expired = self._core.expire()
            if expired:
                self._tell(expired)
                raise OperationTimeout("messages expired; their link is replaced")

    def _receipts(self, reply: pb.ProduceReply) -> None:
        for receipt in reply.receipts:
            error = to_exception(receipt.error) if receipt.HasField("error") else None
            try:
                batch = self._core.receipt(
                    receipt.first_sequence_id, receipt.count, receipt.ledger_id,
                    receipt.entry_id, error)
            except InvalidFrame as broken:
                raise ConnectionFailed(f"{broken}; the link is replaced") from broken
            if batch is not None:
                self._tell([batch])
        if reply.closed:
            self._parted.set()

    def _tell(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            if isinstance(batch.outcome, MagnetarError) and batch.waiter is None:
                self._unseen_error = self._unseen_error or batch.outcome
            announce(batch)
        self._for_room.wake()
        if self.on_settled is not None:
            self.on_settled()
        self._wake()

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done() and self._core.sendable:
            self._waker.set_result(None)

    async def _say_goodbye(self) -> None:
        """Best effort: the broker finds out anyway."""
        self._leaving = True
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._connections.settings.attempt_timeout_s):
                await self._parted.wait()

    async def _stop(self, reason: MagnetarError) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._finish(reason)

    def _finish(self, error: MagnetarError) -> None:
        if self._end is None:
            self._end = error
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._tell(self._core.fail_all(error))


_ACCESS_MODES = {
    ProducerAccessMode.Shared: pb.PRODUCER_SHARED,
    ProducerAccessMode.Exclusive: pb.PRODUCER_EXCLUSIVE,
    ProducerAccessMode.WaitForExclusive: pb.PRODUCER_WAIT_FOR_EXCLUSIVE,
    ProducerAccessMode.ExclusiveWithFencing: pb.PRODUCER_EXCLUSIVE_WITH_FENCING,
}


def as_bytes(content: object) -> bytes:
    """What is sent; raises InvalidArgument for what is no bytes."""
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    raise InvalidArgument(f"a message is bytes, not {type(content).__name__}; encode it first")


def _parsed(frame: bytes) -> pb.ProduceReply:
    """The reply, unless it is an error that ends the stream."""
    try:
        reply = pb.ProduceReply.FromString(frame)
    except Exception as error:
        raise ConnectionFailed(f"not a reply to a producer: {error}") from error
    if reply.HasField("error"):
        raise to_exception(reply.error)
    return reply
