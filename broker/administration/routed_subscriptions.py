"""Subscriptions of any topic, wherever it is served."""

from __future__ import annotations

from broker.administration.merging import sum_of_partitions
from broker.administration.routing import Routing
from magnetar.admin.topic_values import PeekedMessages, SubscriptionStats, Where
from magnetar.enums import InitialPosition
from magnetar.errors import InvalidArgument
from magnetar.message_id import MessageId


class RoutedSubscriptions:
    """See `SubscriptionOperations`. A subscription of a partitioned topic need not be on all its
    partitions, since some may be new: they are passed over."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing

    async def create(
        self, topic: str, subscription: str, start: Where = InitialPosition.Latest
    ) -> None:
        await self._refuse_id(topic, start)
        await self._routing.where_missing(
            topic, lambda owner, name: owner.subscriptions.create(name, subscription, start)
        )

    async def list(self, topic: str) -> tuple[str, ...]:
        found = await self._routing.where_used(
            topic, lambda owner, name: owner.subscriptions.list(name), lambda _: ()
        )
        return tuple(sorted({name for names in found for name in names}))

    async def stats(
        self, topic: str, subscription: str, *, member: str = ""
    ) -> SubscriptionStats:
        found = await self._routing.where_subscribed(
            topic,
            lambda owner, name: owner.subscriptions.stats(name, subscription, member=member),
        )
        return found[0] if len(found) == 1 else sum_of_partitions(found)

    async def delete(
        self, topic: str, subscription: str, force: bool = False, *, member: str = ""
    ) -> None:
        await self._routing.where_subscribed(
            topic,
            lambda owner, name: owner.subscriptions.delete(
                name, subscription, force, member=member
            ),
        )

    async def seek(
        self, topic: str, subscription: str, where: Where, *, member: str = ""
    ) -> None:
        await self._refuse_id(topic, where)
        await self._routing.where_subscribed(
            topic,
            lambda owner, name: owner.subscriptions.seek(
                name, subscription, where, member=member
            ),
        )

    async def skip(
        self, topic: str, subscription: str, messages: int, *, member: str = ""
    ) -> int:
        return sum(await self._routing.where_subscribed(
            topic,
            lambda owner, name: owner.subscriptions.skip(
                name, subscription, messages, member=member
            ),
        ))

    async def clear_backlog(self, topic: str, subscription: str, *, member: str = "") -> int:
        return sum(await self._routing.where_subscribed(
            topic,
            lambda owner, name: owner.subscriptions.clear_backlog(
                name, subscription, member=member
            ),
        ))

    async def expire(
        self, topic: str, subscription: str, older_than_ms: int, *, member: str = ""
    ) -> int:
        return sum(await self._routing.where_subscribed(
            topic,
            lambda owner, name: owner.subscriptions.expire(
                name, subscription, older_than_ms, member=member
            ),
        ))

    async def peek(
        self, topic: str, subscription: str, max_messages: int = 1, *, member: str = ""
    ) -> PeekedMessages:
        found = await self._routing.where_subscribed(
            topic,
            lambda owner, name: owner.subscriptions.peek(
                name, subscription, max_messages, member=member
            ),
        )
        if len(found) == 1:
            return found[0]
        messages = [message for part in found for message in part]
        messages.sort(key=lambda message: (message.append_timestamp, message.message_id))
        stopped_at = (message_id for part in found for message_id in part.stopped_at)
        return PeekedMessages(messages[:max_messages], stopped_at)

    async def _refuse_id(self, topic: str, where: Where) -> None:
        names = await self._routing.names(topic)
        if isinstance(where, MessageId) and len(names) > 1:
            raise InvalidArgument(
                f"a message id is a place in one partition, {topic} has {len(names)}; name the"
                f" partition, such as {names[0].full}, or a time"
            )
