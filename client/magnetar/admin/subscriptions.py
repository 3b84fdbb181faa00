"""Subscriptions of a topic."""

from __future__ import annotations

from magnetar.admin.codec import id_of, read, where_message
from magnetar.admin.topic_values import (
    PeekedMessages,
    StoredMessage,
    SubscriptionStats,
    Where,
)
from magnetar.admin.topics import MAX_UINT64, count, full
from magnetar.admin.transport import Transport, ask
from magnetar.enums import InitialPosition
from magnetar.wire import admin_pb2 as pb


class Subscriptions:
    """`client.admin.subscriptions`. Every call raises TopicNotFound, and SubscriptionNotFound
    when it names a subscription that is not there. `member` is one of a broadcast group; without
    it a call does all its members."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self, topic: str, subscription: str, start: Where = InitialPosition.Latest
    ) -> None:
        """A durable subscription that begins at a message, an end, or a time; its first consumer
        decides the type. Of a partitioned topic it is made where it is missing. Raises
        ResourceExists, InvalidArgument for a message of another topic."""
        request = pb.CreateSubscriptionRequest(
            topic=full(topic), subscription=subscription, start=where_message(start)
        )
        await ask(self._transport, "CreateSubscription", request, pb.DoneReply)

    async def list(self, topic: str) -> tuple[str, ...]:
        """Names of the durable ones and of those in use, sorted."""
        request = pb.TopicRequest(topic=full(topic))
        reply = await ask(self._transport, "ListSubscriptions", request, pb.NamesReply)
        return tuple(reply.names)

    async def stats(
        self, topic: str, subscription: str, *, member: str = ""
    ) -> SubscriptionStats:
        """Backlog, consumers, and what is in the way."""
        request = pb.SubscriptionRequest(
            topic=full(topic), subscription=subscription, member=member
        )
        reply = await ask(
            self._transport, "SubscriptionStats", request, pb.SubscriptionStatsReply
        )
        return read(SubscriptionStats, reply.stats)

    async def delete(
        self, topic: str, subscription: str, force: bool = False, *, member: str = ""
    ) -> None:
        """Delete it with its position. Raises ResourceInUse while consumers are connected;
        `force` sends them away."""
        request = pb.DeleteSubscriptionRequest(
            topic=full(topic), subscription=subscription, force=force, member=member
        )
        await ask(self._transport, "DeleteSubscription", request, pb.DoneReply)

    async def seek(
        self, topic: str, subscription: str, where: Where, *, member: str = ""
    ) -> None:
        """Go on from a message (which comes again), an end, or a time; connected consumers stay
        and receive from there."""
        request = pb.SeekSubscriptionRequest(
            topic=full(topic), subscription=subscription, where=where_message(where),
            member=member,
        )
        await ask(self._transport, "SeekSubscription", request, pb.DoneReply)

    async def skip(
        self, topic: str, subscription: str, messages: int, *, member: str = ""
    ) -> int:
        """Acknowledge the next so many messages without consuming them, of each partition;
        answers how many there were."""
        request = pb.SkipMessagesRequest(
            topic=full(topic), subscription=subscription,
            messages=count(messages, "messages", MAX_UINT64), member=member,
        )
        return (await ask(self._transport, "SkipMessages", request, pb.CountReply)).count

    async def clear_backlog(self, topic: str, subscription: str, *, member: str = "") -> int:
        """Acknowledge everything there is now without consuming it; answers how many."""
        request = pb.SubscriptionRequest(
            topic=full(topic), subscription=subscription, member=member
        )
        return (await ask(self._transport, "ClearBacklog", request, pb.CountReply)).count

    async def expire(
        self, topic: str, subscription: str, older_than_ms: int, *, member: str = ""
    ) -> int:
        """Acknowledge without consuming what was stored longer ago than that; answers how many.
        What consumers hold stays with them."""
        request = pb.ExpireMessagesRequest(
            topic=full(topic), subscription=subscription,
            older_than_ms=count(older_than_ms, "older_than_ms", MAX_UINT64), member=member,
        )
        return (await ask(self._transport, "ExpireMessages", request, pb.CountReply)).count

    async def peek(
        self, topic: str, subscription: str, max_messages: int = 1, *, member: str = ""
    ) -> PeekedMessages:
        """The next messages it has not acknowledged, which stay where they are. Fewer than asked
        for when there are no more, or when looking ended early, over long stretches of what is
        acknowledged or not wanted by the filter, or since the answer would grow too large:
        `stopped_at` of the answer then says where. Of a broadcast group one `member` is to be
        named, if it has several; else InvalidArgument."""
        request = pb.PeekMessagesRequest(
            topic=full(topic), subscription=subscription,
            max_messages=count(max_messages, "max_messages"), member=member,
        )
        reply = await ask(self._transport, "PeekMessages", request, pb.PeekMessagesReply)
        return PeekedMessages(
            (read(StoredMessage, one) for one in reply.messages), map(id_of, reply.stopped_at)
        )
