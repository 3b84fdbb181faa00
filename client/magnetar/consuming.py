"""What every consumer offers, whether of one topic or of many."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from typing import Self

from magnetar.batch_receive_policy import BatchReceivePolicy
from magnetar.closable import Closable
from magnetar.enums import InitialPosition
from magnetar.errors import EndOfTopic
from magnetar.message import Message
from magnetar.message_id import MessageId
from magnetar.redelivery_backoff import Delay


class Consumer(Closable):
    """Receives a subscription's messages. Made by `Client.subscribe`; used from its loop.

    Each message comes at least once. A lost link is replaced behind the scenes, and does not
    bring again what the user has received and not given back.
    """

    # What it is.

    @property
    @abstractmethod
    def topic(self) -> str:
        """The topic's full name, or what was given to subscribe to several."""

    @property
    def topics(self) -> list[str]:
        """The plain topics and partitions that are consumed now, by full name."""
        return [self.topic]

    @property
    @abstractmethod
    def subscription_name(self) -> str: ...

    @property
    @abstractmethod
    def consumer_name(self) -> str:
        """The name given, or the one that the broker gave."""

    @property
    @abstractmethod
    def is_connected(self) -> bool: ...

    @property
    @abstractmethod
    def is_active(self) -> bool:
        """Whether messages come to this consumer now; of a failover subscription only to one."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Nothing will be received any more, but for what has arrived already."""

    @property
    @abstractmethod
    def paused(self) -> bool: ...

    # Receiving.

    @abstractmethod
    async def receive(self, timeout_millis: int | None = None) -> Message:
        """The next message.

        Raises OperationTimeout, EndOfTopic after the last message of a terminated topic, or the
        error that ended this consumer.
        """

    @abstractmethod
    async def receive_many(
        self, max_messages: int = 1000, timeout_millis: int | None = None,
        max_bytes: int | None = None,
    ) -> list[Message]:
        """What is there, at least one message; raises as `receive`.

        `max_bytes` bounds what they are together, contents, properties and keys; one message
        comes in any case.
        """

    @abstractmethod
    async def batch_receive(self, policy: BatchReceivePolicy | None = None) -> list[Message]:
        """Wait for as many messages as the policy says, this one or that of `subscribe`.

        Returns fewer, or none, when its time has passed, and what fits when the receive queue
        is full. Raises EndOfTopic, or the error that ended this consumer.
        """

    @abstractmethod
    def pause(self) -> None:
        """Ask the broker for no more; what it has sent already is still received."""

    @abstractmethod
    def resume(self) -> None:
        """After `pause`."""

    # Settling.

    @abstractmethod
    def acknowledge(self, message: Message | MessageId) -> Awaitable[None]:
        """Never deliver the message again; await the answer to know that this is durable."""

    @abstractmethod
    def acknowledge_many(self, messages: Iterable[Message | MessageId]) -> Awaitable[None]:
        """As `acknowledge`, for all of them."""

    @abstractmethod
    def acknowledge_cumulative(self, message: Message | MessageId) -> Awaitable[None]:
        """Never deliver the message and all before it again, those that failed included; not for
        subscriptions whose messages are shared out, or that hold the keys of failed ones."""

    @abstractmethod
    def negative_acknowledge(
        self, message: Message | MessageId, delay: Delay | None = None, reason: str = ""
    ) -> None:
        """The message failed: deliver it again after a delay, in seconds or as a timedelta.

        None: as `redelivery_backoff` says for its redelivery count, which only a Message tells.
        The broker waits, so the delay outlasts this consumer. `reason` is kept with a dead
        letter, up to 1 KiB.
        """

    @abstractmethod
    def give_back(self, messages: Iterable[Message]) -> None:
        """These were not tried: deliver them again in their old place, counting nothing."""

    @abstractmethod
    def redeliver_unacknowledged_messages(self) -> None:
        """Deliver again, without delay, everything received and not acknowledged."""

    def reconsume_later(self, message: Message | MessageId, delay: Delay) -> None:
        """`negative_acknowledge` with a delay."""
        self.negative_acknowledge(message, delay)

    # The subscription.

    @abstractmethod
    async def seek(self, where: MessageId | int | InitialPosition) -> None:
        """Go on from a message (itself included) or a publish time in ms since the epoch.

        Also moves the subscription of everybody else on it. Messages received before and not
        acknowledged are delivered again when they lie behind the new place.
        """

    @abstractmethod
    async def last_message_id(self) -> MessageId | None:
        """The topic's last message; None when it has none."""

    async def last_message_ids(self) -> dict[str, MessageId | None]:
        """The last message of each topic and partition, by full name; None where there is none."""
        return {self.topic: await self.last_message_id()}

    @abstractmethod
    async def unsubscribe(self) -> None:
        """Delete the subscription, then close."""

    @abstractmethod
    async def close(self) -> None:
        """Send what is acknowledged, give back what was not received, then leave the
        subscription; closing twice is fine."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except EndOfTopic:
            raise StopAsyncIteration from None


OnActiveChanged = Callable[[Consumer, bool], object]
"""Told when a failover consumer begins or ends to be the one that is served."""
