"""What consumers and readers share: the stream, permits, requests, and the next link after it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from magnetar.backoff import Backoff
from magnetar.connection import CONSUME, Connections, Stream
from magnetar.errors import (
    AlreadyClosed,
    ConnectionFailed,
    ConsumerBusy,
    EndOfTopic,
    InvalidArgument,
    InvalidFrame,
    MagnetarError,
    OperationTimeout,
)
from magnetar.message import Message
from magnetar.receive_queue import Position, ReceiveQueue
from magnetar.together import until_one_fails
from magnetar.topic import TopicName
from magnetar.waiters import Waiters
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import RETRYABLE, to_exception
from magnetar.wire.frames import Delivered, decode_deliveries

RETRYABLE_LATER = (*RETRYABLE, ConsumerBusy)
"""After the first link: the broker may not have noticed yet that the link before is gone."""

SHARED_LEAST = 16
"""Messages that a link fetches ahead at least, however many there are."""
DAMAGED_ENTRIES = 1_000
"""Places of damage that are remembered."""

Fill = Callable[[pb.ConsumeRequest], None]


class ConsumerLink(ABC):
    """One stream of deliveries. Used from the client's loop."""

    def __init__(
        self, connections: Connections, topic: TopicName, queue: ReceiveQueue
    ) -> None:
        self._connections = connections
        self._topic = topic
        self._queue = queue
        self._stream: Stream | None = None
        self._task: asyncio.Task[None] | None = None
        self._waker: asyncio.Future[None] | None = None
        self._receivers = Waiters()
        self._requests: dict[int, tuple[Fill, asyncio.Future[pb.ConsumeReply]]] = {}
        self._unsent: list[Fill] = []
        self._last_request_id = 0
        self._end: MagnetarError | None = None
        self._damaged: dict[Position, bool] = {}
        """Where an entry could not be read; True: the user was told."""
        self._damage: list[MagnetarError] = []
        self._parted = asyncio.Event()
        """The broker said `closed`, or the link was lost."""
        self._closed_by_broker = False
        self._link_error: MagnetarError | None = None
        self._given_name = ""
        """What the broker calls this consumer."""
        self._at_end_of_topic = False
        self.must_exist = False
        """Its topic is not made by opening a link to it."""
        self.on_ready: Callable[[], None] | None = None
        """Called when there may be a message to `take`, or an error."""

    @property
    def topic(self) -> str:
        """The topic's full name."""
        return self._topic.full

    @property
    def closed(self) -> bool:
        """Nothing will be received any more, but for what has arrived already."""
        return self._end is not None

    @property
    def is_connected(self) -> bool:
        return self._stream is not None

    # For the classes built on it.

    @abstractmethod
    def _open_request(self) -> pb.OpenConsumer:
        """How to open the next link."""

    @abstractmethod
    def _fill(self, request: pb.ConsumeRequest) -> bool:
        """Put into a frame what is to be sent; whether there was anything."""

    @abstractmethod
    def _answered(self, done: pb.RequestDone) -> None:
        """A request with an id that `_ask` did not give was answered."""

    def _linked_again(self) -> None:
        """A new link is open."""
        return

    def _unlinked(self) -> None:
        """The link was lost."""
        return

    @property
    def _returning(self) -> bool:
        """Something is given back of which the broker may not know yet."""
        return False

    def _active_changed(self, active: bool) -> None:
        """The broker serves this consumer, or does no longer."""
        return

    def _ended(self, error: MagnetarError) -> None:
        """There will be no more links."""
        return

    def _not_above(self) -> tuple[int, int, int] | None:
        """Messages up to this one are not wanted."""
        return None

    # Receiving, where this is one of several links.

    @property
    def ready_messages(self) -> int:
        """How many can be taken now."""
        return self._queue.count

    @property
    def ready_bytes(self) -> int:
        """Size of their entries' contents."""
        return self._queue.queued_bytes

    @property
    def queue_full(self) -> bool:
        """More may never come before some are taken."""
        return self._queue.count >= self._queue.full_at

    @property
    def trouble(self) -> MagnetarError | None:
        """What `take` raises once there is no message left."""
        if self._damage:
            return self._damage[0]
        if self._end is not None:
            return self._end
        return self._past_the_end() if self._no_more else None

    def take(
        self, most: int, most_bytes: int | None = None, *, at_least_one: bool = True
    ) -> list[Message]:
        """What is there, perhaps nothing; raises what there is to be told instead."""
        if self._queue.count:
            return self._pop_many(most, most_bytes, at_least_one=at_least_one)
        if (error := self.trouble) is None:
            return []
        if self._damage:
            del self._damage[0]
        raise error

    def share_window(self, links: int) -> None:
        """Fetch ahead as one of so many links."""
        self._queue.share_window(links, SHARED_LEAST)

    # Receiving.

    async def _receive(self, timeout_millis: int | None) -> Message:
        message = self._queue.pop()
        if message is None:
            await self._wait_for_message(timeout_millis)
            message = self._queue.pop()
            assert message is not None
        if self._waker is not None and self._queue.permits_due:
            self._wake()
        return message

    async def _receive_many(
        self, most: int, timeout_millis: int | None, most_bytes: int | None = None
    ) -> list[Message]:
        if most < 1 or (most_bytes is not None and most_bytes < 1):
            raise InvalidArgument("ask for at least one message, and one byte")
        if not self._queue.count:
            await self._wait_for_message(timeout_millis)
        return self._pop_many(most, most_bytes)

    def _pop_many(
        self, most: int, most_bytes: int | None, *, at_least_one: bool = True
    ) -> list[Message]:
        messages = self._queue.pop_many(most, most_bytes, at_least_one=at_least_one)
        if self._waker is not None and self._queue.permits_due:
            self._wake()
        return messages

    async def _wait_for_message(
        self, timeout_millis: int | None, enough: int = 1, enough_bytes: int | None = None
    ) -> None:
        """Until there is as much, or the queue is full; what there is when no more will come.

        Raises OperationTimeout; does not lose a message when cancelled.
        """
        queue = self._queue
        try:
            async with asyncio.timeout(
                None if timeout_millis is None else timeout_millis / 1000
            ):
                while queue.count < min(enough, queue.full_at):
                    filled = enough_bytes is not None and queue.queued_bytes >= enough_bytes
                    if queue.count and (filled or self._no_more):
                        return
                    if self._damage:
                        raise self._damage.pop(0)
                    if self._end is not None:
                        raise self._end
                    if self._no_more:
                        raise self._past_the_end()
                    await self._receivers.wait()
        except TimeoutError as error:
            raise OperationTimeout(f"no message within {timeout_millis} ms") from error

    @property
    def _no_more(self) -> bool:
        """Something has to be told before there are more messages, if ever."""
        return bool(self._damage) or self._end is not None or (
            self._at_end_of_topic)

    def _past_the_end(self) -> EndOfTopic:
        return EndOfTopic(f"{self.topic} was terminated and all of it was received")

    # Requests with an answer.

    async def _ask(self, fill: Callable[[pb.ConsumeRequest, int], None]) -> pb.ConsumeReply:
        """Send a request, on the next links again, until it is answered.

        Raises OperationTimeout after the client's operation timeout, or the broker's error.
        """
        if self._end is not None:
            raise self._end
        request_id = self._next_request_id()

        def fill_with_id(request: pb.ConsumeRequest) -> None:
            fill(request, request_id)

        future: asyncio.Future[pb.ConsumeReply] = asyncio.get_running_loop().create_future()
        self._requests[request_id] = (fill_with_id, future)
        self._unsent.append(fill_with_id)
        self._wake()
        try:
            async with asyncio.timeout(self._connections.settings.operation_timeout_s):
                return await future
        except TimeoutError as error:
            raise OperationTimeout("the broker did not answer in time") from error
        finally:
            self._requests.pop(request_id, None)
            if fill_with_id in self._unsent:
                self._unsent.remove(fill_with_id)

    def _next_request_id(self) -> int:
        self._last_request_id += 1
        return self._last_request_id

    # The link.

    async def open(self, deadline_s: float) -> None:
        """Open the first link; called once by the client."""
        self._stream = await self._connect(deadline_s, RETRYABLE)
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"magnetar consumer of {self.topic}")

    async def _connect(
        self, deadline_s: float | None, retry: tuple[type[MagnetarError], ...]
    ) -> Stream:
        return await self._connections.open_stream(
            self.topic, CONSUME, self._first_frame, self._opened, deadline_s,
            must_exist=self.must_exist, retry=retry)

    def _first_frame(self, relay: bool) -> bytes:
        opening = self._open_request()
        opening.topic, opening.relay, opening.must_exist = self.topic, relay, self.must_exist
        return pb.ConsumeRequest(open=opening).SerializeToString()

    def _opened(self, frame: bytes) -> bool:
        reply = _parsed(frame)
        if not reply.HasField("opened"):
            raise ConnectionFailed("the broker did not answer the opening of the consumer")
        self._given_name = reply.opened.consumer_name
        return True

    async def _run(self) -> None:
        backoff = Backoff(self._connections.random)
        try:
            while True:
                if self._stream is None:
                    self._stream = await self._connect(None, RETRYABLE_LATER)
                    self._unsent = [fill for fill, _ in self._requests.values()]
                    self._linked_again()
                delivered_before = self._queue.last_handed_out
                error = await until_one_fails(
                    self._write(self._stream), self._read(self._stream))
                self._stream.close()
                self._stream = None
                self._link_error = error
                self._at_end_of_topic = False
                self._unlinked()
                self._parted.set()
                if self._closed_by_broker:
                    self._finish(AlreadyClosed("the consumer is closed"))
                    return
                self._queue.new_link()
                if not isinstance(error, RETRYABLE_LATER):
                    raise error
                if self._queue.last_handed_out != delivered_before:
                    backoff.reset()
                else:
                    await self._connections.clock.sleep(backoff.next_s())
        except MagnetarError as error:
            self._finish(error)
        except Exception as error:
            self._finish(MagnetarError(f"the consumer failed: {error!r}"))
            raise

    async def _write(self, stream: Stream) -> NoReturn:
        while True:
            request = pb.ConsumeRequest()
            anything = self._fill(request)
            if self._unsent:
                self._unsent.pop(0)(request)
                anything = True
            permits = self._queue.due_permits()
            if permits:
                request.permits = permits
            if permits or anything:
                await stream.write(request.SerializeToString())
                continue
            self._waker = asyncio.get_running_loop().create_future()
            try:
                await self._waker
            finally:
                self._waker = None

    async def _read(self, stream: Stream) -> NoReturn:
        while True:
            frame = await stream.read()
            deliveries = decode_deliveries(frame)
            if deliveries is None:
                reply = _parsed(frame)
                deliveries = [
                    Delivered(
                        delivery.ledger_id, delivery.entry_id, delivery.entry, delivery.skip,
                        delivery.redelivery_count, delivery.epoch, delivery.picked)
                    for delivery in reply.deliveries
                ]
                self._take_answers(reply)
            for delivered in deliveries:
                self._take(delivered)
            if self._queue.count and (self._receivers or self.on_ready is not None):
                self._wake_receivers()
            if self._queue.permits_due:
                self._wake()

    def _take(self, delivered: Delivered) -> None:
        """Damage once is taken for the link's; twice at one place for the store's, told once."""
        try:
            self._queue.add(delivered, self._not_above())
        except InvalidFrame as error:
            position = (delivered.ledger_id, delivered.entry_id)
            told = self._damaged.get(position)
            if told is None:
                if len(self._damaged) >= DAMAGED_ENTRIES:
                    del self._damaged[next(iter(self._damaged))]
                self._damaged[position] = False
                raise ConnectionFailed(f"{error}; the link is replaced") from error
            self._queue.pass_over(delivered)
            if not told:
                self._damaged[position] = True
                self._damage.append(InvalidFrame(
                    f"{self.topic}: the entry at {position[0]}:{position[1]} cannot be read:"
                    f" {error}"))
                self._wake_receivers()

    def _take_answers(self, reply: pb.ConsumeReply) -> None:
        for done in reply.done:
            if done.HasField("error") and isinstance(to_exception(done.error), RETRYABLE):
                raise to_exception(done.error)  # the request is sent again on the next link
            if reply.epoch and not done.HasField("error"):
                self._queue.begin_epoch(reply.epoch)
                self._at_end_of_topic = False
            if not self._resolve(done.request_id, reply, done):
                self._answered(done)
        if reply.HasField("last_message_id"):
            self._resolve(reply.last_message_id.request_id, reply, None)
        if reply.HasField("active_changed"):
            self._active_changed(reply.active_changed.active)
        if reply.end_of_topic and not self._returning:
            self._at_end_of_topic = True
            self._wake_receivers()
        if reply.closed:
            self._closed_by_broker = True
            raise AlreadyClosed("the consumer is closed")

    def _resolve(
        self, request_id: int, reply: pb.ConsumeReply, done: pb.RequestDone | None
    ) -> bool:
        asked = self._requests.get(request_id)
        if asked is None:
            return False
        if not asked[1].done():
            if done is not None and done.HasField("error"):
                asked[1].set_exception(to_exception(done.error))
            else:
                asked[1].set_result(reply)
        return True

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def _wake_receivers(self) -> None:
        self._receivers.wake()
        if self.on_ready is not None:
            self.on_ready()

    async def _say(self, fill: Fill) -> bool:
        """Send a last frame and wait for the broker's `closed`; whether it came."""
        if self._stream is None:
            return self._closed_by_broker
        self._parted.clear()
        self._link_error = None
        self._unsent.append(fill)
        self._wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._connections.settings.attempt_timeout_s):
                await self._parted.wait()
        return self._closed_by_broker

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._finish(AlreadyClosed("the consumer is closed"))

    def _finish(self, error: MagnetarError) -> None:
        if self._end is None:
            self._end = error
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        for _, future in self._requests.values():
            if not future.done():
                future.set_exception(error)
        self._ended(error)
        self._wake_receivers()


def _parsed(frame: bytes) -> pb.ConsumeReply:
    """The reply, unless it is an error that ends the stream."""
    try:
        reply = pb.ConsumeReply.FromString(frame)
    except Exception as error:
        raise ConnectionFailed(f"not a reply to a consumer: {error}") from error
    if reply.HasField("error"):
        raise to_exception(reply.error)
    return reply
