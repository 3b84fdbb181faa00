"""What this broker does with the topics that it serves, or takes when nobody does."""

from __future__ import annotations

from broker.administration.limits import PEEK_MESSAGES_MAX
from broker.administration.local_schedule import LocalSchedule
from broker.administration.places import id_of, place_of, position_of
from broker.administration.stats import space_value, subscription_stats, topic_stats
from broker.administration.stored_messages import message_at, peek, refuse_foreign
from broker.backlog import clear_backlog, expire_messages, skip_messages
from broker.broker import Broker
from broker.conversation import MessagePosition, OpenConsumer
from broker.space_report import space_report
from broker.subscription import Subscription
from broker.topic import Topic
from magnetar.admin.topic_values import (
    SpaceReport,
    StoredMessage,
    SubscriptionStats,
    TopicStats,
    Where,
)
from magnetar.enums import InitialPosition
from magnetar.errors import InvalidArgument, ResourceInUse, SubscriptionNotFound
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


    async def why_space(self, topic: str) -> SpaceReport:
        return space_value(await space_report(await self._broker.existing_topic(topic)))


class LocalSubscriptions:
    """Subscriptions of a topic."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock

    async def create(
        self, topic: str, subscription: str, start: Where = InitialPosition.Latest
    ) -> None:
        if not subscription:
            raise InvalidArgument("a subscription has a name")
        found = await self._broker.existing_topic(topic)
        place = place_of(start, TopicName.parse(topic))
        if place.position is not None:
            refuse_foreign(found, place.position)
        await found.create_subscription(OpenConsumer(
            topic, subscription, initial_position=place.initial, start=place.position,
            start_inclusive=True, start_time_ms=place.time_ms,
        ))

    async def list(self, topic: str) -> tuple[str, ...]:
        found = await self._broker.existing_topic(topic)
        return tuple(found.subscription_names())

    async def stats(self, topic: str, subscription: str) -> SubscriptionStats:
        _, found = await self._find(topic, subscription)
        return subscription_stats(found, self._clock.monotonic_s())

    async def delete(self, topic: str, subscription: str, force: bool = False) -> None:
        owner, found = await self._find(topic, subscription)
        if found.consumers and not force:
            raise ResourceInUse(
                f"subscription {subscription!r} of {topic} has {len(found.consumers)} consumers;"
                " close them first, or force it"
            )
        found.deleted = True
        for consumer in list(found.consumers):
            consumer.end(SubscriptionNotFound(
                f"subscription {subscription!r} of {topic} was deleted by an administrator"
            ))
        if owner.state.subscriptions.get(subscription) is found:  # lasting ones only
            await owner.delete_subscription(subscription)

    async def seek(self, topic: str, subscription: str, where: Where) -> None:
        owner, found = await self._find(topic, subscription)
        place = place_of(where, TopicName.parse(topic))
        if place.position is not None:
            refuse_foreign(owner, place.position)
        await found.seek(place.position, place.initial, place.time_ms)

    async def skip(self, topic: str, subscription: str, messages: int) -> int:
        owner, found = await self._find(topic, subscription)
        return await skip_messages(owner.log, found, messages)

    async def clear_backlog(self, topic: str, subscription: str) -> int:
        owner, found = await self._find(topic, subscription)
        return await clear_backlog(owner.log, found)

    async def expire(self, topic: str, subscription: str, older_than_ms: int) -> int:
        owner, found = await self._find(topic, subscription)
        return await expire_messages(owner.log, found, older_than_ms)

    async def peek(
        self, topic: str, subscription: str, max_messages: int = 1
    ) -> tuple[StoredMessage, ...]:
        if not 1 <= max_messages <= PEEK_MESSAGES_MAX:
            raise InvalidArgument(f"peek at 1 to {PEEK_MESSAGES_MAX} messages")
        owner, found = await self._find(topic, subscription)
        return await peek(found, owner, max_messages)

    async def _find(self, topic: str, subscription: str) -> tuple[Topic, Subscription]:
        owner = await self._broker.existing_topic(topic)
        found = owner.state.subscriptions.get(subscription)
        if found is None or found.deleted:
            raise SubscriptionNotFound(f"{topic} has no subscription {subscription!r}")
        return owner, found


class LocalMessages:
    """Messages by id."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def get(self, topic: str, message_id: MessageId) -> StoredMessage:
        position = position_of(message_id, TopicName.parse(topic))
        return await message_at(await self._broker.existing_topic(topic), position)

    async def last_ids(self, topic: str) -> tuple[MessageId, ...]:
        found = await self._broker.existing_topic(topic)
        last = found.log.last_position
        if last.entry_id < 0 or not found.log.has_ledger(last.ledger_id):
            return ()
        entry = await found.log.entry_at(last.ledger_id, last.entry_id)
        position = MessagePosition(entry.ledger_id, entry.entry_id, entry.count - 1)
        return (id_of(position, TopicName.parse(topic)),)
