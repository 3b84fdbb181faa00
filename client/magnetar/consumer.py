"""A consumer: a subscription's messages, and their acknowledgements."""

from __future__ import annotations

import asyncio
from itertools import islice
from types import TracebackType

from magnetar.acknowledgements import (
    POSITIONS_A_REQUEST,
    Acknowledgement,
    Acknowledger,
    position_of,
)
from magnetar.connection import Connections
from magnetar.consumer_link import ConsumerLink
from magnetar.enums import ConsumerType, InitialPosition
from magnetar.errors import ConsumerBusy, InvalidArgument, MagnetarError, OperationTimeout
from magnetar.message import Message
from magnetar.message_id import MessageId
from magnetar.receive_queue import Position, ReceiveQueue
from magnetar.topic import TopicName
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import to_exception


class Consumer(ConsumerLink):
    """Receives a subscription's messages. Made by `Client.subscribe`; used from its loop.

    Each message comes at least once. A lost link is replaced behind the scenes, and does not
    bring again what the user has received and not given back.
    """

    def __init__(
        self, connections: Connections, topic: TopicName, queue: ReceiveQueue, subscription: str,
        *, consumer_type: ConsumerType, initial_position: InitialPosition, consumer_name: str,
        negative_ack_redelivery_delay_s: float, filter_text: str = "", tags: str = "",
    ) -> None:
        super().__init__(connections, topic, queue)
        self._subscription = subscription
        self._type = consumer_type
        self._initial_position = initial_position
        self._consumer_name = consumer_name
        self._filter = filter_text
        self._tags = tags
        self._negative_ack_delay_s = negative_ack_redelivery_delay_s
        self._acknowledger = Acknowledger(queue)
        self._redeliver: dict[Position, int | None] = {}
        self._delayed: dict[Position, int | None] = {}
        self._redeliver_timer: asyncio.TimerHandle | None = None

    @property
    def subscription_name(self) -> str:
        return self._subscription

    @property
    def consumer_name(self) -> str:
        return self._consumer_name

    async def receive(self, timeout_millis: int | None = None) -> Message:
        """The next message; raises OperationTimeout, or the error that ended this consumer."""
        return await self._receive(timeout_millis)

    async def receive_many(
        self, max_messages: int = 1000, timeout_millis: int | None = None
    ) -> list[Message]:
        """What is there, at least one message; raises as `receive`."""
        return await self._receive_many(max_messages, timeout_millis)

    def acknowledge(self, message: Message | MessageId) -> Acknowledgement:
        """Never deliver the message again; await the answer to know that this is durable."""
        if self._end is not None:
            raise self._end
        group = self._acknowledger.add(message)
        if self._waker is not None and self._acknowledger.sendable:
            self._wake()
        return group

    def acknowledge_cumulative(self, message: Message | MessageId) -> Acknowledgement:
        """Never deliver the message and all before it again; not for shared subscriptions."""
        if self._end is not None:
            raise self._end
        if self._type is not ConsumerType.Exclusive:
            raise InvalidArgument("cumulative acknowledgement needs an exclusive subscription")
        message_id = message.message_id if isinstance(message, Message) else message
        group = self._acknowledger.add_cumulative(message_id)
        self._wake()
        return group

    def negative_acknowledge(self, message: Message | MessageId) -> None:
        """Deliver the message again, after the redelivery delay."""
        if self._end is not None:
            raise self._end
        message_id = message.message_id if isinstance(message, Message) else message
        position = (message_id.ledger_id, message_id.entry_id)
        if message_id.batch_index < 0:
            bits, marked = None, -1
        else:
            before = self._delayed.get(position, 0)
            marked = 1 << message_id.batch_index
            bits = None if before is None else before | marked
        self._delayed[position] = bits
        self._queue.given_back(position, marked)
        if self._redeliver_timer is None:
            self._redeliver_timer = asyncio.get_running_loop().call_later(
                self._negative_ack_delay_s, self._ask_for_redelivery)

    async def seek(self, where: MessageId | int | InitialPosition) -> None:
        """Go on from a message (itself included) or a publish time in ms since the epoch.

        Also moves the subscription of everybody else on it. Messages received before and not
        acknowledged are delivered again when they lie behind the new place.
        """
        seek = seek_request(where)
        if (newest := self._acknowledger.newest) is not None:
            await newest
        await self._ask(lambda request, request_id: put_seek(request, request_id, seek))
        self._forget_redeliveries()

    async def last_message_id(self) -> MessageId | None:
        """The topic's last message; None when it has none."""
        reply = await self._ask(
            lambda request, request_id: setattr(request, "last_message_id_request", request_id))
        last = reply.last_message_id
        return None if last.empty else message_id_of(self._topic.partition, last.position)

    async def unsubscribe(self) -> None:
        """Delete the subscription, then close."""
        deadline_s = (
            self._connections.clock.monotonic_s()
            + self._connections.settings.operation_timeout_s)
        while not await self._say(lambda request: setattr(request, "unsubscribe", True)):
            if self._end is not None:
                raise self._end
            if isinstance(self._link_error, ConsumerBusy):
                raise self._link_error
            if self._connections.clock.monotonic_s() > deadline_s:
                raise OperationTimeout("the broker did not confirm the end of the subscription")
            await self._connections.clock.sleep(0.05)
        await self._stop()

    async def close(self) -> None:
        """Send what is acknowledged, then leave the subscription; closing twice is fine."""
        try:
            if self._end is None and (newest := self._acknowledger.newest) is not None:
                async with asyncio.timeout(self._connections.settings.operation_timeout_s):
                    await newest
        except TimeoutError as error:
            raise OperationTimeout("acknowledgements may not be durable") from error
        finally:
            if self._end is None:
                await self._say(lambda request: setattr(request, "close", True))
            await self._stop()

    async def __aenter__(self) -> Consumer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> Message:
        return await self.receive()

    # For the link.

    def _open_request(self) -> pb.OpenConsumer:
        shared = self._type is ConsumerType.Shared
        return pb.OpenConsumer(
            subscription=self._subscription,
            type=pb.SHARED if shared else pb.EXCLUSIVE,
            initial_position=initial_position_of(self._initial_position),
            durable=True,
            consumer_name=self._consumer_name,
            filter=self._filter,
            tags=self._tags,
        )

    def _linked_again(self) -> None:
        # The new link brings again what was given back, so it must not be asked for.
        self._forget_redeliveries()
        again = self._acknowledger.resend(self._next_request_id())
        if again is not None:
            self._unsent.insert(0, lambda request: request.acknowledge.append(again))

    def _fill(self, request: pb.ConsumeRequest) -> bool:
        group = None
        if self._acknowledger.sendable:
            group = self._acknowledger.next_request(self._next_request_id())
            assert group is not None
            request.acknowledge.append(group)
        if self._redeliver:
            for position in list(islice(self._redeliver, POSITIONS_A_REQUEST)):
                request.redeliver.append(position_of(position, self._redeliver.pop(position)))
            return True
        return group is not None

    def _answered(self, done: pb.RequestDone) -> None:
        error = to_exception(done.error) if done.HasField("error") else None
        if self._acknowledger.settled(done.request_id, error) and self._acknowledger.sendable:
            self._wake()

    def _ended(self, error: MagnetarError) -> None:
        self._forget_redeliveries()
        self._acknowledger.fail(error)

    def _ask_for_redelivery(self) -> None:
        self._redeliver_timer = None
        for position, bits in self._delayed.items():
            before = self._redeliver.get(position, 0)
            self._redeliver[position] = None if before is None or bits is None else before | bits
        self._delayed = {}
        self._wake()

    def _forget_redeliveries(self) -> None:
        self._redeliver, self._delayed = {}, {}
        if self._redeliver_timer is not None:
            self._redeliver_timer.cancel()
            self._redeliver_timer = None


def initial_position_of(position: InitialPosition) -> pb.InitialPosition.ValueType:
    """As the wire has it."""
    return pb.EARLIEST if position is InitialPosition.Earliest else pb.LATEST


def message_id_of(partition: int, position: pb.Position) -> MessageId:
    """As the user has it."""
    return MessageId(partition, position.ledger_id, position.entry_id, position.batch_index)


def put_seek(request: pb.ConsumeRequest, request_id: int, seek: pb.Seek) -> None:
    """Into a frame."""
    request.seek.CopyFrom(seek)
    request.seek.request_id = request_id


def seek_request(where: MessageId | int | InitialPosition) -> pb.Seek:
    """To a message, a time, or an end of the topic."""
    if isinstance(where, InitialPosition):
        return pb.Seek(initial_position=initial_position_of(where))
    if isinstance(where, int):
        if where <= 0:
            raise InvalidArgument("a publish time is in milliseconds since the epoch, above 0")
        return pb.Seek(publish_time_ms=where)
    if where in (MessageId.earliest, MessageId.latest):
        at_start = where == MessageId.earliest
        return pb.Seek(initial_position=pb.EARLIEST if at_start else pb.LATEST)
    return pb.Seek(position=pb.Position(
        ledger_id=where.ledger_id, entry_id=where.entry_id, batch_index=where.batch_index))
