"""What this broker does with the topics that it serves, or takes when nobody does."""

from __future__ import annotations

from broker.administration.listing import page_of
from broker.administration.local_schedule import LocalSchedule
from broker.administration.local_subscriptions import LocalSubscriptions
from broker.administration.places import id_of, position_of
from broker.administration.stats import space_value, topic_stats
from broker.administration.stored_messages import message_at
from broker.broker import Broker
from broker.space_report import space_report
from magnetar.admin.topic_values import (
    SpaceReport,
    StoredMessage,
    TopicPage,
    TopicStats,
    TopicSummary,
)
from magnetar.message_id import MessageId
from magnetar.runtime.clock import Clock
from magnetar.topic import TopicName


class LocalAdministration:
    """An `OwnerAdministration`. Every call takes one topic or partition by its full name, and
    raises NotOwner, having done nothing, when another broker serves it."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self.topics = LocalTopics(broker, clock)
        self.subscriptions = LocalSubscriptions(broker, clock)
        self.messages = LocalMessages(broker)
        self.schedule = LocalSchedule(broker)


class LocalTopics:
    """Topics as a whole."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock

    async def stats(self, topic: str) -> TopicStats:
        found = await self._broker.existing_topic(topic)
        return await topic_stats(
            found, self._broker.settings.broker_id, self._clock.monotonic_s()
        )

    async def terminate(self, topic: str) -> tuple[MessageId, ...]:
        last = await self._broker.lifecycle.terminate(topic)
        return () if last is None else (id_of(last, TopicName.parse(topic)),)

    async def truncate(self, topic: str) -> int:
        return await self._broker.lifecycle.truncate(topic)

    async def delete(self, topic: str, force: bool = False) -> None:
        await self._broker.lifecycle.delete(topic, force=force)

    async def list(
        self, namespace: str, pattern: str = "", *, page_size: int = 0, page: str = ""
    ) -> TopicPage:
        return page_of(
            [
                TopicSummary(topic.name) for topic in self._broker.registry.all()
                if topic.memory is not None and not topic.closing
            ],
            namespace, pattern, page_size, page,
        )

    async def why_space(self, topic: str) -> SpaceReport:
        return space_value(await space_report(await self._broker.existing_topic(topic)))


class LocalMessages:
    """Messages by id."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def get(self, topic: str, message_id: MessageId) -> StoredMessage:
        position = position_of(message_id, TopicName.parse(topic))
        return await message_at(await self._broker.existing_topic(topic), position)

    async def last_ids(self, topic: str) -> tuple[MessageId, ...]:
        found = await self._broker.existing_topic(topic)
        last = await found.log.last_message()
        return () if last is None else (id_of(last, TopicName.parse(topic)),)
