"""The calls about topics, subscriptions and messages: message in, message out."""

from __future__ import annotations

from typing import Protocol

from broker.administration.calls import Calls
from broker.administration.routing import OwnerAdministration
from magnetar.admin.codec import fill, id_message, id_of, scheduled_id_of, where_of
from magnetar.admin.schedule import OUTCOME
from magnetar.admin.schedule_values import ScheduleOutcome
from magnetar.enums import InitialPosition
from magnetar.errors import InvalidArgument
from magnetar.wire import admin_pb2 as pb
from tenants.topic_administration import TopicAdministration


class Forwardable(Protocol):
    """A request that says whether a broker passed it on."""

    forwarded: bool


class TopicCalls:
    """`topics` does any call; `here` those that another broker passed on, which end here."""

    def __init__(self, topics: TopicAdministration, here: OwnerAdministration) -> None:
        self._topics = topics
        self._here = here

    def calls(self) -> Calls:
        """By method name."""
        return {
            "CreateTopic": (pb.CreateTopicRequest, pb.TopicInfoReply, self._create_topic),
            "GrowTopic": (pb.GrowTopicRequest, pb.TopicInfoReply, self._grow_topic),
            "ListTopics": (pb.ListTopicsRequest, pb.ListTopicsReply, self._list_topics),
            "GetTopic": (pb.TopicRequest, pb.TopicInfoReply, self._get_topic),
            "TopicStats": (pb.TopicRequest, pb.TopicStatsReply, self._topic_stats),
            "TerminateTopic": (pb.TopicRequest, pb.MessageIdsReply, self._terminate_topic),
            "TruncateTopic": (pb.TopicRequest, pb.CountReply, self._truncate_topic),
            "DeleteTopic": (pb.DeleteTopicRequest, pb.DoneReply, self._delete_topic),
            "WhySpace": (pb.TopicRequest, pb.WhySpaceReply, self._why_space),
            "CreateSubscription": (
                pb.CreateSubscriptionRequest, pb.DoneReply, self._create_subscription),
            "ListSubscriptions": (pb.TopicRequest, pb.NamesReply, self._list_subscriptions),
            "SubscriptionStats": (
                pb.SubscriptionRequest, pb.SubscriptionStatsReply, self._subscription_stats),
            "DeleteSubscription": (
                pb.DeleteSubscriptionRequest, pb.DoneReply, self._delete_subscription),
            "SeekSubscription": (
                pb.SeekSubscriptionRequest, pb.DoneReply, self._seek_subscription),
            "SkipMessages": (pb.SkipMessagesRequest, pb.CountReply, self._skip_messages),
            "ClearBacklog": (pb.SubscriptionRequest, pb.CountReply, self._clear_backlog),
            "ExpireMessages": (pb.ExpireMessagesRequest, pb.CountReply, self._expire_messages),
            "PeekMessages": (pb.PeekMessagesRequest, pb.PeekMessagesReply, self._peek_messages),
            "GetMessage": (pb.GetMessageRequest, pb.GetMessageReply, self._get_message),
            "LastMessageIds": (pb.TopicRequest, pb.MessageIdsReply, self._last_message_ids),
            "ListScheduled": (
                pb.ListScheduledRequest, pb.ListScheduledReply, self._list_scheduled),
            "CountScheduled": (pb.TopicRequest, pb.CountReply, self._count_scheduled),
            "CancelScheduled": (
                pb.CancelScheduledRequest, pb.ScheduleOutcomeReply, self._cancel_scheduled),
            "MoveScheduled": (
                pb.MoveScheduledRequest, pb.ScheduleOutcomeReply, self._move_scheduled),
        }

    def _for(self, request: Forwardable) -> OwnerAdministration:
        return self._here if request.forwarded else self._topics

    # --- topics

    async def _create_topic(
        self, request: pb.CreateTopicRequest, reply: pb.TopicInfoReply
    ) -> None:
        fill(reply.topic, await self._topics.topics.create(
            request.topic, request.partitions, dict(request.properties)
        ))

    async def _grow_topic(self, request: pb.GrowTopicRequest, reply: pb.TopicInfoReply) -> None:
        fill(reply.topic, await self._topics.topics.grow(request.topic, request.partitions))

    async def _list_topics(
        self, request: pb.ListTopicsRequest, reply: pb.ListTopicsReply
    ) -> None:
        fill(reply, await self._for(request).topics.list(
            request.namespace, request.pattern, page_size=request.page_size, page=request.page
        ))

    async def _get_topic(self, request: pb.TopicRequest, reply: pb.TopicInfoReply) -> None:
        fill(reply.topic, await self._topics.topics.get(request.topic))

    async def _topic_stats(self, request: pb.TopicRequest, reply: pb.TopicStatsReply) -> None:
        fill(reply.stats, await self._for(request).topics.stats(request.topic))

    async def _terminate_topic(
        self, request: pb.TopicRequest, reply: pb.MessageIdsReply
    ) -> None:
        for message_id in await self._for(request).topics.terminate(request.topic):
            reply.message_ids.append(id_message(message_id))

    async def _truncate_topic(self, request: pb.TopicRequest, reply: pb.CountReply) -> None:
        reply.count = await self._for(request).topics.truncate(request.topic)

    async def _delete_topic(self, request: pb.DeleteTopicRequest, _: pb.DoneReply) -> None:
        await self._for(request).topics.delete(request.topic, request.force)

    async def _why_space(self, request: pb.TopicRequest, reply: pb.WhySpaceReply) -> None:
        fill(reply.report, await self._for(request).topics.why_space(request.topic))

    # --- subscriptions

    async def _create_subscription(
        self, request: pb.CreateSubscriptionRequest, _: pb.DoneReply
    ) -> None:
        start = (
            where_of(request.start) if request.HasField("start") else InitialPosition.Latest
        )
        await self._for(request).subscriptions.create(
            request.topic, request.subscription, start
        )

    async def _list_subscriptions(self, request: pb.TopicRequest, reply: pb.NamesReply) -> None:
        reply.names.extend(await self._for(request).subscriptions.list(request.topic))

    async def _subscription_stats(
        self, request: pb.SubscriptionRequest, reply: pb.SubscriptionStatsReply
    ) -> None:
        subscriptions = self._for(request).subscriptions
        fill(reply.stats, await subscriptions.stats(
            request.topic, request.subscription, member=request.member
        ))

    async def _delete_subscription(
        self, request: pb.DeleteSubscriptionRequest, _: pb.DoneReply
    ) -> None:
        await self._for(request).subscriptions.delete(
            request.topic, request.subscription, request.force, member=request.member
        )

    async def _seek_subscription(
        self, request: pb.SeekSubscriptionRequest, _: pb.DoneReply
    ) -> None:
        if not request.HasField("where"):
            raise InvalidArgument("a seek says where to")
        await self._for(request).subscriptions.seek(
            request.topic, request.subscription, where_of(request.where), member=request.member
        )

    async def _skip_messages(
        self, request: pb.SkipMessagesRequest, reply: pb.CountReply
    ) -> None:
        reply.count = await self._for(request).subscriptions.skip(
            request.topic, request.subscription, request.messages, member=request.member
        )

    async def _clear_backlog(
        self, request: pb.SubscriptionRequest, reply: pb.CountReply
    ) -> None:
        reply.count = await self._for(request).subscriptions.clear_backlog(
            request.topic, request.subscription, member=request.member
        )

    async def _expire_messages(
        self, request: pb.ExpireMessagesRequest, reply: pb.CountReply
    ) -> None:
        reply.count = await self._for(request).subscriptions.expire(
            request.topic, request.subscription, request.older_than_ms, member=request.member
        )

    async def _peek_messages(
        self, request: pb.PeekMessagesRequest, reply: pb.PeekMessagesReply
    ) -> None:
        found = await self._for(request).subscriptions.peek(
            request.topic, request.subscription, request.max_messages, member=request.member
        )
        for message in found:
            fill(reply.messages.add(), message)
        reply.stopped_at.extend(map(id_message, found.stopped_at))

    # --- messages

    async def _get_message(
        self, request: pb.GetMessageRequest, reply: pb.GetMessageReply
    ) -> None:
        fill(reply.message, await self._for(request).messages.get(
            request.topic, id_of(request.message_id)
        ))

    async def _last_message_ids(
        self, request: pb.TopicRequest, reply: pb.MessageIdsReply
    ) -> None:
        for message_id in await self._for(request).messages.last_ids(request.topic):
            reply.message_ids.append(id_message(message_id))

    # --- the schedule

    async def _list_scheduled(
        self, request: pb.ListScheduledRequest, reply: pb.ListScheduledReply
    ) -> None:
        fill(reply, await self._for(request).schedule.list(
            request.topic, from_ms=request.from_ms, until_ms=request.until_ms,
            page_size=request.page_size, page=request.page,
        ))

    async def _count_scheduled(self, request: pb.TopicRequest, reply: pb.CountReply) -> None:
        reply.count = await self._for(request).schedule.count(request.topic)

    async def _cancel_scheduled(
        self, request: pb.CancelScheduledRequest, reply: pb.ScheduleOutcomeReply
    ) -> None:
        reply.outcome = _outcome(await self._for(request).schedule.cancel(
            request.topic, scheduled_id_of(request.scheduled_id)
        ))

    async def _move_scheduled(
        self, request: pb.MoveScheduledRequest, reply: pb.ScheduleOutcomeReply
    ) -> None:
        reply.outcome = _outcome(await self._for(request).schedule.move(
            request.topic, scheduled_id_of(request.scheduled_id), request.deliver_at_ms
        ))


def _outcome(outcome: ScheduleOutcome) -> pb.ScheduleOutcome.ValueType:
    return pb.ScheduleOutcome.Value(f"{OUTCOME}{outcome.value.upper()}")
