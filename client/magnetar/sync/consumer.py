"""Consuming from any thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator

from magnetar.batch_receive_policy import BatchReceivePolicy
from magnetar.consuming import Consumer as AsyncConsumer
from magnetar.enums import InitialPosition
from magnetar.errors import EndOfTopic
from magnetar.message import Message
from magnetar.message_id import MessageId
from magnetar.redelivery_backoff import Delay
from magnetar.sync.closable import Closable
from magnetar.sync.loop_thread import THREAD


class Consumer(Closable):
    """Receives a subscription's messages."""

    def __init__(self, consumer: AsyncConsumer) -> None:
        self._consumer = consumer

    @property
    def topic(self) -> str:
        """The topic's full name."""
        return self._consumer.topic

    @property
    def subscription_name(self) -> str:
        return self._consumer.subscription_name

    @property
    def consumer_name(self) -> str:
        """The name the broker knows it by."""
        return self._consumer.consumer_name

    @property
    def topics(self) -> list[str]:
        """The plain topics and partitions that are consumed now, by full name."""
        return self._consumer.topics

    @property
    def is_connected(self) -> bool:
        """Whether every topic has its link."""
        return self._consumer.is_connected

    @property
    def is_active(self) -> bool:
        """Whether messages come to this consumer now; of a failover subscription only to one."""
        return self._consumer.is_active

    @property
    def closed(self) -> bool:
        """Nothing will be received any more, but for what has arrived already."""
        return self._consumer.closed

    @property
    def paused(self) -> bool:
        """Between `pause` and `resume`."""
        return self._consumer.paused

    def receive(self, timeout_millis: int | None = None) -> Message:
        """The next message; raises OperationTimeout, EndOfTopic."""
        return THREAD.run(self._consumer.receive(timeout_millis))

    def receive_many(
        self, max_messages: int = 1000, timeout_millis: int | None = None,
        max_bytes: int | None = None,
    ) -> list[Message]:
        """What is there, at least one message; raises as `receive`."""
        return THREAD.run(self._consumer.receive_many(max_messages, timeout_millis, max_bytes))

    def batch_receive(self, policy: BatchReceivePolicy | None = None) -> list[Message]:
        """Wait for as many messages as the policy says; may be none when its time passed."""
        return THREAD.run(self._consumer.batch_receive(policy))

    def pause(self) -> None:
        """Ask the broker for no more; what it has sent already is still received."""
        self._call(self._consumer.pause)

    def resume(self) -> None:
        """After `pause`."""
        self._call(self._consumer.resume)

    def acknowledge(self, message: Message | MessageId) -> None:
        """Never deliver the message again; returns when this is durable."""
        self._wait(lambda: self._consumer.acknowledge(message))

    def acknowledge_many(self, messages: Iterable[Message | MessageId]) -> None:
        """As `acknowledge`, for many at the price of one."""
        self._wait(lambda: self._consumer.acknowledge_many(messages))

    def acknowledge_cumulative(self, message: Message | MessageId) -> None:
        """Never deliver the message and all before it again; returns when this is durable."""
        self._wait(lambda: self._consumer.acknowledge_cumulative(message))

    def negative_acknowledge(
        self, message: Message | MessageId, delay: Delay | None = None, reason: str = ""
    ) -> None:
        """The message failed: deliver it again after a delay; see the asynchronous one."""
        self._call(lambda: self._consumer.negative_acknowledge(message, delay, reason))

    def reconsume_later(self, message: Message | MessageId, delay: Delay) -> None:
        """`negative_acknowledge` with a delay."""
        self.negative_acknowledge(message, delay)

    def give_back(self, messages: Iterable[Message]) -> None:
        """These were not tried: deliver them again in their old place, counting nothing."""
        self._call(lambda: self._consumer.give_back(messages))

    def redeliver_unacknowledged_messages(self) -> None:
        """Deliver again, without delay, everything received and not acknowledged."""
        self._call(self._consumer.redeliver_unacknowledged_messages)

    def seek(self, where: MessageId | int | InitialPosition) -> None:
        """Go on from a message, a publish time in ms since the epoch, or an end."""
        THREAD.run(self._consumer.seek(where))

    def last_message_id(self) -> MessageId | None:
        """The topic's last message; None when it has none."""
        return THREAD.run(self._consumer.last_message_id())

    def last_message_ids(self) -> dict[str, MessageId | None]:
        """The last message of each topic and partition, by full name; None where there is none."""
        return THREAD.run(self._consumer.last_message_ids())

    def unsubscribe(self) -> None:
        """Delete the subscription, then close."""
        THREAD.run(self._consumer.unsubscribe())

    def close(self) -> None:
        """Make acknowledgements durable and leave."""
        THREAD.run(self._consumer.close())

    def __iter__(self) -> Iterator[Message]:
        while True:
            try:
                yield self.receive()
            except EndOfTopic:
                return

    def _call(self, action: Callable[[], None]) -> None:
        async def work() -> None:
            action()

        THREAD.run(work())

    def _wait(self, action: Callable[[], Awaitable[None]]) -> None:
        async def work() -> None:
            await action()

        THREAD.run(work())
