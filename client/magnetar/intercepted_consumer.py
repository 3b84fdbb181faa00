"""A consumer that tells interceptors of each message."""

from __future__ import annotations

from collections.abc import Iterable

from magnetar.acknowledgements import Acknowledgement, Acknowledgements
from magnetar.batch_receive_policy import BatchReceivePolicy
from magnetar.connection import Connections
from magnetar.consumer import TopicConsumer
from magnetar.consumer_options import ConsumerOptions
from magnetar.interceptors import ConsumerInterceptors
from magnetar.message import Message
from magnetar.message_id import MessageId
from magnetar.redelivery_backoff import Delay
from magnetar.topic import TopicName


def topic_consumer(
    connections: Connections, topic: TopicName, options: ConsumerOptions
) -> TopicConsumer:
    """The class that the options need."""
    kind = InterceptedConsumer if options.interceptors else TopicConsumer
    return kind(connections, topic, options)


class InterceptedConsumer(TopicConsumer):
    """Of one topic, or of one of several."""

    def __init__(
        self, connections: Connections, topic: TopicName, options: ConsumerOptions
    ) -> None:
        super().__init__(connections, topic, options)
        self._interceptors = ConsumerInterceptors(options.interceptors)

    async def receive(self, timeout_millis: int | None = None) -> Message:
        """See Consumer."""
        return self._changed(await super().receive(timeout_millis))

    async def receive_many(
        self, max_messages: int = 1000, timeout_millis: int | None = None,
        max_bytes: int | None = None,
    ) -> list[Message]:
        """See Consumer."""
        return list(map(
            self._changed, await super().receive_many(max_messages, timeout_millis, max_bytes)))

    async def batch_receive(self, policy: BatchReceivePolicy | None = None) -> list[Message]:
        """See Consumer."""
        return list(map(self._changed, await super().batch_receive(policy)))

    def take(
        self, most: int, most_bytes: int | None = None, *, at_least_one: bool = True
    ) -> list[Message]:
        """See ConsumerLink."""
        taken = super().take(most, most_bytes, at_least_one=at_least_one)
        return list(map(self._changed, taken))

    def acknowledge(self, message: Message | MessageId) -> Acknowledgement:
        """See Consumer."""
        claim = super().acknowledge(message)
        self._interceptors.on_acknowledge(self, message, False)
        return claim

    def acknowledge_many(self, messages: Iterable[Message | MessageId]) -> Acknowledgements:
        """See Consumer."""
        return Acknowledgements(map(self.acknowledge, messages))

    def acknowledge_cumulative(self, message: Message | MessageId) -> Acknowledgement:
        """See Consumer."""
        claim = super().acknowledge_cumulative(message)
        self._interceptors.on_acknowledge(self, message, True)
        return claim

    def negative_acknowledge(
        self, message: Message | MessageId, delay: Delay | None = None, reason: str = ""
    ) -> None:
        """See Consumer."""
        super().negative_acknowledge(message, delay, reason)
        self._interceptors.on_negative_acknowledge(self, message, reason)

    def _changed(self, message: Message) -> Message:
        return self._interceptors.before_receive(self, message)
