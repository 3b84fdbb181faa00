"""A reader: a topic's messages from a chosen place, without a subscription."""

from __future__ import annotations

from magnetar.closable import Closable
from magnetar.connection import Connections
from magnetar.consumer import initial_position_of, message_id_of, put_seek, seek_request
from magnetar.consumer_link import ConsumerLink
from magnetar.enums import InitialPosition
from magnetar.errors import EndOfTopic, MagnetarError, NotSupported
from magnetar.message import Message
from magnetar.message_id import MessageId, stored_id
from magnetar.receive_queue import ReceiveQueue
from magnetar.topic import TopicName
from magnetar.wire import broker_pb2 as pb


class Reader(ConsumerLink, Closable):
    """Reads each message once and in order. Made by `Client.create_reader`.

    A lost link is replaced behind the scenes, going on after the last message read.
    """

    def __init__(
        self, connections: Connections, topic: TopicName, queue: ReceiveQueue,
        start: MessageId | InitialPosition, *, start_inclusive: bool, reader_name: str,
        filter_text: str = "", tags: str = "",
    ) -> None:
        super().__init__(connections, topic, queue)
        self._start = _start_of(start)
        self._time_seek: pb.Seek | None = None
        self._start_inclusive = start_inclusive
        self._reader_name = reader_name
        self._filter = filter_text
        self._tags = tags

    async def open(self, deadline_s: float) -> None:
        """Open the first link; called once by the client."""
        await super().open(deadline_s)
        if self._start is InitialPosition.Latest:
            # The end moves on: a next link must begin where this one did.
            self._begin_after(await self.last_message_id())

    async def read_next(self, timeout_millis: int | None = None) -> Message:
        """The next message.

        Raises OperationTimeout, EndOfTopic after the last message of a terminated topic, or the
        error that ended this reader.
        """
        return await self._receive(timeout_millis)

    async def read_many(
        self, max_messages: int = 1000, timeout_millis: int | None = None,
        max_bytes: int | None = None,
    ) -> list[Message]:
        """What is there, at least one message; raises as `read_next`."""
        return await self._receive_many(max_messages, timeout_millis, max_bytes)

    async def last_message_id(self) -> MessageId | None:
        """The topic's last message; None when it has none."""
        reply = await self._ask(
            lambda request, request_id: setattr(request, "last_message_id_request", request_id))
        last = reply.last_message_id
        return None if last.empty else message_id_of(self._topic.partition, last.position)

    async def last_message_ids(self) -> dict[str, MessageId | None]:
        """As `last_message_id`, by the topic's full name: for readers of many partitions too."""
        return {self.topic: await self.last_message_id()}

    async def has_message_available(self) -> bool:
        """Whether `read_next` would find a message without waiting for a new one.

        Raises NotSupported for a reader with a filter: only reading on can tell.
        """
        if self._queue.count:
            return True
        if self._filter.strip() or self._tags.strip() not in ("", "*"):
            raise NotSupported("a reader with a filter cannot know; read_next with a timeout")
        last = await self.last_message_id()
        if self._queue.count:
            return True
        if last is None:
            return False
        found = (last.ledger_id, last.entry_id)
        if (read := self._queue.resume_after) is not None:
            return (*found, last.batch_index) > read
        if isinstance(self._start, InitialPosition):
            return self._start is InitialPosition.Earliest
        start = (self._start.ledger_id, self._start.entry_id)
        if found == start and last.batch_index >= 0 <= self._start.batch_index:
            behind = last.batch_index - self._start.batch_index
            return behind >= 0 if self._start_inclusive else behind > 0
        return found >= start if self._start_inclusive else found > start

    async def seek(self, where: MessageId | int | InitialPosition) -> None:
        """Go on from a message (itself included) or a publish time in ms since the epoch."""
        seek = seek_request(where)
        before = self._start, self._start_inclusive, self._time_seek
        self._time_seek = seek if seek.publish_time_ms else None
        self._start, self._start_inclusive = _start_of(where), True
        try:
            await self._ask(lambda request, request_id: put_seek(request, request_id, seek))
        except MagnetarError:
            self._start, self._start_inclusive, self._time_seek = before
            raise
        if self._start is InitialPosition.Latest:
            self._begin_after(await self.last_message_id())

    async def close(self) -> None:
        """Stop reading; closing twice is fine."""
        if self._end is None:
            await self._say(lambda request: setattr(request, "close", True))
        await self._stop()

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.read_next()
        except EndOfTopic:
            raise StopAsyncIteration from None

    def _begin_after(self, last: MessageId | None) -> None:
        """Fix the place where a next link begins while nothing has been read."""
        first = self._queue.first_delivered
        if first is not None and (last is None or first <= (last.ledger_id, last.entry_id)):
            self._start, self._start_inclusive = MessageId(-1, *first, -1), True
        elif last is None:
            self._start = InitialPosition.Earliest
        else:
            self._start, self._start_inclusive = last, False

    # For the link.

    def _open_request(self) -> pb.OpenConsumer:
        opening = pb.OpenConsumer(
            durable=False, consumer_name=self._reader_name, filter=self._filter, tags=self._tags)
        read = self._queue.last_handed_out
        if read is not None:
            opening.start.CopyFrom(
                pb.Position(ledger_id=read[0], entry_id=read[1], batch_index=read[2]))
        elif isinstance(self._start, MessageId):
            opening.start.CopyFrom(pb.Position(
                ledger_id=self._start.ledger_id, entry_id=self._start.entry_id,
                batch_index=self._start.batch_index))
            opening.start_inclusive = self._start_inclusive
        else:
            opening.initial_position = initial_position_of(self._start)
        return opening

    def _not_above(self) -> tuple[int, int, int] | None:
        return self._queue.last_handed_out or self._begins_behind()

    def _begins_behind(self) -> tuple[int, int, int] | None:
        start = self._start
        if not isinstance(start, MessageId) or start.batch_index < 0:
            return None
        index = start.batch_index - (1 if self._start_inclusive else 0)
        return start.ledger_id, start.entry_id, index

    def _linked_again(self) -> None:
        # A link cannot be opened at a time: seek again unless something was read since.
        seek = self._time_seek
        if seek is not None and self._queue.last_handed_out is None:
            request_id = self._next_request_id()
            self._unsent.insert(0, lambda request: put_seek(request, request_id, seek))

    def _fill(self, request: pb.ConsumeRequest) -> bool:
        return False

    def _answered(self, done: pb.RequestDone) -> None:
        """Readers acknowledge nothing."""


def _start_of(where: MessageId | int | InitialPosition) -> MessageId | InitialPosition:
    if where == MessageId.latest:
        return InitialPosition.Latest
    if where == MessageId.earliest or isinstance(where, int):
        return InitialPosition.Earliest
    return where if isinstance(where, InitialPosition) else stored_id(where)
