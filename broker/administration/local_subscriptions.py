"""The subscriptions of the topics that this broker serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from broker.administration.limits import PEEK_MESSAGES_MAX
from broker.administration.places import place_of
from broker.administration.stats import stats_of
from broker.administration.stored_messages import peek, refuse_foreign
from broker.backlog import clear_backlog, expire_messages, skip_messages
from broker.broker import Broker
from broker.conversation import OpenConsumer
from broker.subscription import Subscription
from broker.topic import Topic
from magnetar.admin.topic_values import PeekedMessages, SubscriptionStats, Where
from magnetar.enums import InitialPosition
from magnetar.errors import (
    ConnectionFailed,
    InvalidArgument,
    NotOwner,
    ResourceInUse,
    SubscriptionNotFound,
)
from magnetar.runtime.clock import Clock
from magnetar.topic import TopicName


class Chosen(NamedTuple):
    """What a call is about: one subscription, or members of a broadcast group."""

    topic: Topic
    subscriptions: Sequence[Subscription]


def choose(topic: Topic, name: str, member: str) -> Chosen:
    """Raises SubscriptionNotFound."""
    if member:
        one = topic.subscription_named(name, member)
        found = [one] if one is not None and one.member == member else []
    else:
        plain = topic.state.subscriptions.get(name)
        found = topic.members_of(name) if plain is None else [plain]
    there = [one for one in found if not one.deleted]
    if not there:
        of = f" with a member {member!r}" if member else ""
        raise SubscriptionNotFound(f"{topic.name} has no subscription {name!r}{of}")
    return Chosen(topic, there)


class LocalSubscriptions:
    """See `SubscriptionOperations`; of one topic or partition."""

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

    async def stats(
        self, topic: str, subscription: str, *, member: str = ""
    ) -> SubscriptionStats:
        chosen = await self._choose(topic, subscription, member)
        return stats_of(
            subscription, chosen.subscriptions, chosen.topic, self._clock.monotonic_s(),
            as_group=not member,
        )

    async def delete(
        self, topic: str, subscription: str, force: bool = False, *, member: str = ""
    ) -> None:
        owner, chosen = await self._choose(topic, subscription, member)
        consumers = [consumer for one in chosen for consumer in one.consumers]
        if consumers and not force:
            raise ResourceInUse(
                f"subscription {subscription!r} of {topic} has {len(consumers)} consumers;"
                " close them first, or force it"
            )
        for one in chosen:
            one.deleted = True
        for consumer in consumers:
            consumer.end(SubscriptionNotFound(
                f"subscription {subscription!r} of {topic} was deleted by an administrator"
            ))
        # Once begun it is done for all, also when nobody waits for it any more.
        await asyncio.shield(asyncio.gather(*(
            owner.delete_subscription(one.name) for one in chosen
            if owner.state.subscriptions.get(one.name) is one  # lasting ones only
        )))

    async def seek(
        self, topic: str, subscription: str, where: Where, *, member: str = ""
    ) -> None:
        owner, chosen = await self._choose(topic, subscription, member)
        place = place_of(where, TopicName.parse(topic))
        if place.position is not None:
            refuse_foreign(owner, place.position)
        for one in chosen:
            await one.seek(place.position, place.initial, place.time_ms)

    async def skip(
        self, topic: str, subscription: str, messages: int, *, member: str = ""
    ) -> int:
        owner, chosen = await self._choose(topic, subscription, member)
        return await _sum_over(chosen, lambda one: skip_messages(owner.log, one, messages))

    async def clear_backlog(self, topic: str, subscription: str, *, member: str = "") -> int:
        owner, chosen = await self._choose(topic, subscription, member)
        return await _sum_over(chosen, lambda one: clear_backlog(owner.log, one))

    async def expire(
        self, topic: str, subscription: str, older_than_ms: int, *, member: str = ""
    ) -> int:
        _, chosen = await self._choose(topic, subscription, member)
        return await _sum_over(chosen, lambda one: expire_messages(one, older_than_ms))

    async def peek(
        self, topic: str, subscription: str, max_messages: int = 1, *, member: str = ""
    ) -> PeekedMessages:
        if not 1 <= max_messages <= PEEK_MESSAGES_MAX:
            raise InvalidArgument(f"peek at 1 to {PEEK_MESSAGES_MAX} messages")
        owner, chosen = await self._choose(topic, subscription, member)
        if len(chosen) > 1:
            raise InvalidArgument(
                f"{subscription!r} is a broadcast group: name one of its {len(chosen)} members,"
                f" such as {chosen[0].member!r}"
            )
        return await peek(chosen[0], owner, max_messages)

    async def _choose(self, topic: str, subscription: str, member: str) -> Chosen:
        return choose(await self._broker.existing_topic(topic), subscription, member)


async def _sum_over(
    chosen: Sequence[Subscription], given_up: Callable[[Subscription], Awaitable[int]]
) -> int:
    """Over the members of a group. Once one is done, NotOwner would have it done again."""
    found: list[int] = []
    for one in chosen:
        try:
            found.append(await given_up(one))
        except NotOwner as error:
            if not found:
                raise
            raise ConnectionFailed(
                f"{error} ({len(found)} of {len(chosen)} members were done)") from error
    return sum(found)
