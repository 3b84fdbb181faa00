"""A puller for any thread."""

from __future__ import annotations

from magnetar.message import Message
from magnetar.message_id import MessageId
from magnetar.pull import Messages
from magnetar.pull import PullConsumer as AsyncPullConsumer
from magnetar.redelivery_backoff import Delay
from magnetar.sync.closable import Closable
from magnetar.sync.loop_thread import THREAD


class PullConsumer(Closable):
    """Pulls from a subscription; see the asynchronous `PullConsumer`."""

    def __init__(self, puller: AsyncPullConsumer) -> None:
        self._puller = puller

    @property
    def topic(self) -> str:
        """The topic's full name."""
        return self._puller.topic

    @property
    def subscription_name(self) -> str:
        return self._puller.subscription_name

    @property
    def consumer_name(self) -> str:
        """What leases are held under."""
        return self._puller.consumer_name

    @property
    def closed(self) -> bool:
        return self._puller.closed

    def pull(
        self, max_messages: int = 100, wait_millis: int = 0, max_bytes: int = 0
    ) -> list[Message]:
        """What is there, at most so many; waits so long for the first, then is empty."""
        return THREAD.run(self._puller.pull(max_messages, wait_millis, max_bytes))

    def acknowledge(self, messages: Messages) -> None:
        """Never deliver them again; returns when this is durable."""
        THREAD.run(self._puller.acknowledge(messages))

    def acknowledge_cumulative(self, message: Message | MessageId) -> None:
        """Never deliver the message and all before it again; returns when this is durable."""
        THREAD.run(self._puller.acknowledge_cumulative(message))

    def negative_acknowledge(
        self, messages: Messages, delay: Delay | None = None, reason: str = ""
    ) -> None:
        """They failed: deliver them again after a delay."""
        THREAD.run(self._puller.negative_acknowledge(messages, delay, reason))

    def give_back(self, messages: Messages) -> None:
        """They were not tried: deliver them again in their old place, counting nothing."""
        THREAD.run(self._puller.give_back(messages))

    def extend_lease(self, messages: Messages, lease_millis: int | None = None) -> None:
        """Begin their leases anew; raises InvalidArgument when one of them is over."""
        THREAD.run(self._puller.extend_lease(messages, lease_millis))

    def close(self) -> None:
        """Give back, uncounted, what is not settled."""
        THREAD.run(self._puller.close())
