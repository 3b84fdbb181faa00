"""A consumer of one topic: its messages, and what becomes of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from magnetar.acknowledgement_timeouts import AcknowledgementTimeouts
from magnetar.acknowledgements import Acknowledgement, Acknowledgements, Acknowledger
from magnetar.batch_receive_policy import BatchReceivePolicy
from magnetar.connection import Connections
from magnetar.consumer_link import SHARED_LEAST, ConsumerLink
from magnetar.consumer_options import ConsumerOptions
from magnetar.consuming import Consumer
from magnetar.dead_letter import short_reason
from magnetar.entry import EntryView, indexes_of
from magnetar.enums import ConsumerType, InitialPosition
from magnetar.errors import (
    ConsumerBusy,
    InvalidArgument,
    MagnetarError,
    OperationTimeout,
)
from magnetar.failed_keys import FailedKeys
from magnetar.keyed_queue import KeyedQueue, key_of
from magnetar.message import Message, id_of
from magnetar.message_id import MessageId, stored_id
from magnetar.negative_acknowledgements import UNTRIED, NegativeAcknowledger, Terms
from magnetar.receive_queue import Meant, Position, ReceiveQueue, bits_of
from magnetar.redelivery_backoff import Delay, delay_ms_of
from magnetar.topic import TopicName
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import to_exception

TIMED_OUT = "acknowledgement timeout"

_log = logging.getLogger(__name__)


class TopicConsumer(ConsumerLink, Consumer):
    """See Consumer."""

    def __init__(
        self, connections: Connections, topic: TopicName, options: ConsumerOptions
    ) -> None:
        kind = KeyedQueue if options.holds_keys else ReceiveQueue
        queue = kind(topic.full, topic.partition, fixed_window=options.window)
        super().__init__(connections, topic, queue)
        self._options = options
        self._backoff = options.backoff
        self._keyed_queue = queue if isinstance(queue, KeyedQueue) else None
        self._failed_keys = FailedKeys()
        self._returned = self._return_known = 0
        """The last request that gave something back; both are equal once it is answered."""
        self._acknowledger = Acknowledger(queue)
        self._negatives = NegativeAcknowledger(self.topic)
        timeout_ms = options.unacked_messages_timeout_ms
        self._timeouts = AcknowledgementTimeouts(timeout_ms / 1000) if timeout_ms else None
        self._timer: asyncio.TimerHandle | None = None
        self._active = False

    @property
    def subscription_name(self) -> str:
        return self._options.subscription_name

    @property
    def consumer_name(self) -> str:
        return self._options.consumer_name or self._given_name

    @property
    def is_active(self) -> bool:
        """See Consumer."""
        if self._options.consumer_type is ConsumerType.Failover:
            return self._active
        return self.is_connected

    @property
    def paused(self) -> bool:
        return self._queue.paused

    # Receiving.

    async def receive(self, timeout_millis: int | None = None) -> Message:
        """See Consumer."""
        message = await self._receive(timeout_millis)
        if self._timeouts is not None:
            self._time((message,))
        return message

    async def receive_many(
        self, max_messages: int = 1000, timeout_millis: int | None = None,
        max_bytes: int | None = None,
    ) -> list[Message]:
        """See Consumer."""
        messages = await self._receive_many(max_messages, timeout_millis, max_bytes)
        if self._timeouts is not None:
            self._time(messages)
        return messages

    def take(
        self, most: int, most_bytes: int | None = None, *, at_least_one: bool = True
    ) -> list[Message]:
        """See ConsumerLink."""
        messages = super().take(most, most_bytes, at_least_one=at_least_one)
        if self._timeouts is not None:
            self._time(messages)
        return messages

    def share_window(self, links: int) -> None:
        """See ConsumerLink."""
        chosen = self._options.receiver_queue_size is not None
        self._queue.share_window(links, 1 if chosen else SHARED_LEAST)

    async def batch_receive(self, policy: BatchReceivePolicy | None = None) -> list[Message]:
        """See Consumer."""
        policy = policy or self._options.batch_receive_policy or BatchReceivePolicy()
        most = policy.max_num_message or self._queue.full_at
        try:
            await self._wait_for_message(
                policy.timeout_ms or None, most, policy.max_num_bytes or None)
        except OperationTimeout:
            if not self._queue.count:
                return []
        messages = self._pop_many(most, policy.max_num_bytes or None)
        if self._timeouts is not None:
            self._time(messages)
        return messages

    def pause(self) -> None:
        """See Consumer."""
        self._queue.paused = True

    def resume(self) -> None:
        """See Consumer."""
        self._queue.paused = False
        self._wake()

    # Settling.

    def acknowledge(self, message: Message | MessageId) -> Acknowledgement:
        """See Consumer."""
        if self._end is not None:
            raise self._end
        group = self._acknowledger.add(message)
        if self._waker is not None and self._acknowledger.sendable:
            self._wake()
        if self._timeouts is not None:
            self._timeouts.settled(*_place(message))
        return group

    def acknowledge_many(self, messages: Iterable[Message | MessageId]) -> Acknowledgements:
        """See Consumer."""
        if self._timeouts is not None:
            return Acknowledgements(map(self.acknowledge, messages))
        if self._end is not None:
            raise self._end
        try:
            return Acknowledgements(self._acknowledger.add_many(messages))
        finally:
            if self._acknowledger.sendable:
                self._wake()

    def acknowledge_cumulative(self, message: Message | MessageId) -> Acknowledgement:
        """See Consumer."""
        if self._end is not None:
            raise self._end
        if self._options.shares_out:
            raise InvalidArgument(
                "no cumulative acknowledgement where messages are shared out: the others have"
                " some of those before; acknowledge each")
        if self._options.holds_keys:
            raise InvalidArgument(
                "no cumulative acknowledgement with hold_failed_keys: some of those before may"
                " wait for one that failed; acknowledge each")
        message_id = id_of(message)
        group = self._acknowledger.add_cumulative(message_id)
        self._wake()
        if self._timeouts is not None:
            self._timeouts.settled_up_to(
                (message_id.ledger_id, message_id.entry_id), message_id.batch_index)
        return group

    def negative_acknowledge(
        self, message: Message | MessageId, delay: Delay | None = None, reason: str = ""
    ) -> None:
        """See Consumer."""
        if self._end is not None:
            raise self._end
        count = message.redelivery_count if isinstance(message, Message) else 0
        delay_ms = self._backoff.delay_ms(count) if delay is None else delay_ms_of(delay)
        self._return(*_place(message), Terms(delay_ms, short_reason(reason)))
        if self._keyed_queue is not None and isinstance(message, Message):
            self._hold_key_of(message)

    def give_back(self, messages: Iterable[Message]) -> None:
        """See Consumer."""
        if self._end is not None:
            raise self._end
        for message in messages:
            self._return(*_place(message), UNTRIED)

    def redeliver_unacknowledged_messages(self) -> None:
        """See Consumer."""
        if self._end is not None:
            raise self._end
        self._give_back_queued()
        for position, bits in self._queue.in_hand().items():
            self._return(position, bits, Terms())

    # The subscription.

    async def seek(self, where: MessageId | int | InitialPosition) -> None:
        """See Consumer."""
        seek = seek_request(where)
        await self._acknowledged()
        await self._ask(lambda request, request_id: put_seek(request, request_id, seek))
        self._forget_returns()
        if self._timeouts is not None:
            self._timeouts.clear()

    async def last_message_id(self) -> MessageId | None:
        """See Consumer."""
        reply = await self._ask(
            lambda request, request_id: setattr(request, "last_message_id_request", request_id))
        last = reply.last_message_id
        return None if last.empty else message_id_of(self._topic.partition, last.position)

    async def unsubscribe(self) -> None:
        """See Consumer."""
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
        """See Consumer."""
        try:
            if self._end is None:
                await self._acknowledged()
        finally:
            if self._end is None:
                self._give_back_queued()
                self._tell_active(False)
                await self._say(lambda request: setattr(request, "close", True))
            await self._stop()

    async def _acknowledged(self) -> None:
        """Until everything acknowledged so far is durable; raises OperationTimeout."""
        if (newest := self._acknowledger.newest) is None:
            return
        try:
            async with asyncio.timeout(self._connections.settings.operation_timeout_s):
                await newest
        except TimeoutError as error:
            raise OperationTimeout("acknowledgements may not be durable") from error

    # For the link.

    def _open_request(self) -> pb.OpenConsumer:
        return self._options.open_request()

    def _linked_again(self) -> None:
        self._negatives.link_lost()
        self._failed_keys.clear()
        self._follow_refusals()
        again = self._acknowledger.resend(self._next_request_id())
        if again is not None:
            self._unsent.insert(0, lambda request: request.acknowledge.append(again))

    @property
    def _returning(self) -> bool:
        return self._negatives.sendable or self._return_known < self._returned

    def _unlinked(self) -> None:
        self._return_known = self._returned
        self._tell_active(False)

    def _fill(self, request: pb.ConsumeRequest) -> bool:
        anything = False
        if self._acknowledger.sendable:
            group = self._acknowledger.next_request(self._next_request_id())
            assert group is not None
            request.acknowledge.append(group)
            anything = True
        if self._negatives.sendable:
            self._returned = self._next_request_id()
            self._negatives.fill(request, self._returned)
            if not self._negatives.sendable:
                self._failed_keys.told(self._returned)
            anything = True
        return anything

    def _answered(self, done: pb.RequestDone) -> None:
        if done.request_id == self._returned:
            self._return_known = self._returned
        if self._failed_keys:
            self._failed_keys.answered(done.request_id)
            self._follow_refusals()
        error = to_exception(done.error) if done.HasField("error") else None
        if self._acknowledger.settled(done.request_id, error) and self._acknowledger.sendable:
            self._wake()

    def _active_changed(self, active: bool) -> None:
        if not active:
            self._give_back_queued()
        self._tell_active(active)

    def _ended(self, error: MagnetarError) -> None:
        self._forget_returns()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._acknowledger.fail(error)
        self._tell_active(False)

    # What is given back.

    def _return(self, position: Position, bits: int | None, terms: Terms) -> None:
        self._negatives.add(position, bits, terms)
        self._queue.given_back(position, -1 if bits is None else bits)
        self._at_end_of_topic = False
        if self._timeouts is not None:
            self._timeouts.settled(position, bits)
        self._wake()

    def _give_back_queued(self) -> None:
        for position, bits in self._queue.withdraw_all().items():
            self._negatives.add(position, bits, UNTRIED)
        self._wake()

    def _hold_key_of(self, message: Message) -> None:
        """What waits of its key and comes after it is not handed out before it."""
        key = key_of(message.entry.view, message.index)
        if key is None or self._keyed_queue is None or self._stream is None:
            return
        self._failed_keys.add(key, (*message.entry.position, message.index))
        self._queue.refuse = self._refuse
        for position, bits in self._keyed_queue.withdraw_behind(message).items():
            self._negatives.add(position, bits, UNTRIED)

    def _refuse(self, position: Position, view: EntryView, meant: Meant) -> Meant:
        """Of a delivery, what the user may have; the rest is given back."""
        kept = dict[int, Terms]()
        for terms, bits in self._negatives.take_kept(position, bits_of(meant)):
            kept |= {index: terms for index in meant if bits >> index & 1}
        wanted = []
        for index in meant:
            key = key_of(view, index) if self._keyed_queue is not None else None
            if (terms_kept := kept.get(index)) is not None:
                self._return(position, 1 << index, terms_kept)
                if key is not None:
                    self._failed_keys.add(key, (*position, index))
            elif self._failed_keys.refuses(key, (*position, index)):
                self._return(position, 1 << index, UNTRIED)
            else:
                wanted.append(index)
        self._follow_refusals()
        return wanted

    def _follow_refusals(self) -> None:
        needed = self._negatives.keeps or bool(self._failed_keys)
        self._queue.refuse = self._refuse if needed else None

    def _forget_returns(self) -> None:
        self._negatives.forget()
        self._failed_keys.clear()
        self._follow_refusals()

    # What takes too long.

    def _time(self, messages: Iterable[Message]) -> None:
        assert self._timeouts is not None
        now_s = self._connections.clock.monotonic_s()
        for message in messages:
            self._timeouts.handed_out(message.entry, 1 << message.index, now_s)
        self._arm(now_s)

    def _arm(self, now_s: float) -> None:
        assert self._timeouts is not None
        due_s = self._timeouts.next_due_s
        if self._timer is None and due_s is not None and self._end is None:
            self._timer = asyncio.get_running_loop().call_later(
                max(due_s - now_s, 0), self._give_up_waiting)

    def _give_up_waiting(self) -> None:
        assert self._timeouts is not None
        self._timer = None
        now_s = self._connections.clock.monotonic_s()
        for entry, bits in self._timeouts.overdue(now_s):
            for index in indexes_of(bits):
                self.negative_acknowledge(Message(entry, index), reason=TIMED_OUT)
        self._arm(now_s)

    def _tell_active(self, active: bool) -> None:
        if active == self._active:
            return
        self._active = active
        if self._options.on_active_changed is not None:
            try:
                self._options.on_active_changed(self, active)
            except Exception:
                _log.exception("on_active_changed of a consumer of %s failed", self.topic)


def _place(message: Message | MessageId) -> tuple[Position, int | None]:
    """Its entry, and its bit; None: the whole entry."""
    if isinstance(message, Message):
        return message.entry.position, 1 << message.index
    found = stored_id(message)
    return (found.ledger_id, found.entry_id), (
        None if found.batch_index < 0 else 1 << found.batch_index)


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
    if not isinstance(where, MessageId):
        raise InvalidArgument(
            f"seek to a MessageId, a publish time in ms, or an InitialPosition, not {where!r}")
    if where in (MessageId.earliest, MessageId.latest):
        at_start = where == MessageId.earliest
        return pb.Seek(initial_position=pb.EARLIEST if at_start else pb.LATEST)
    found = stored_id(where)
    return pb.Seek(position=pb.Position(
        ledger_id=found.ledger_id, entry_id=found.entry_id, batch_index=found.batch_index))
