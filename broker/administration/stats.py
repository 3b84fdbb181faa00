"""What goes on in a topic, for people."""

from __future__ import annotations

from broker import space_report
from broker.state_records import SubscriptionKind
from broker.subscription import Subscription
from broker.topic import Topic
from magnetar.admin.topic_values import (
    Blocked,
    ConsumerStats,
    Holder,
    LedgerSpace,
    LedgerStats,
    ProducerStats,
    QuotaStats,
    SpaceReport,
    SubscriptionStats,
    TopicStats,
    Traffic,
)
from magnetar.enums import ConsumerType
from magnetar.errors import MagnetarError

UNKNOWN = -1


async def topic_stats(topic: Topic, owner: str, now_s: float) -> TopicStats:
    """Of a topic served by this broker, which is called `owner`."""
    log, record = topic.log.log, topic.log.log.record
    subscriptions = tuple(
        subscription_stats(one, now_s) for one in topic.state.subscriptions.values()
    )
    return TopicStats(
        topic=topic.name, owner=owner, epoch=log.owner.epoch, created_ms=record.created_ms,
        terminated=record.terminated, incoming=topic.publishing.traffic.read(now_s),
        outgoing=sum((one.outgoing for one in subscriptions), Traffic()),
        messages=await _kept_messages(topic), entries=log.entries, storage_bytes=log.size_bytes,
        state_bytes=log.state.size_bytes, pending_publish_bytes=topic.log.pending_bytes,
        ledgers=tuple(
            LedgerStats(
                info.ledger_id, log.entries_of(info), log.bytes_of(info), not info.closed_ms,
                info.closed_ms,
            )
            for info in record.ledgers
        ),
        producers=_producers(topic), waiting_producers=topic.publishing.door.waiting,
        subscriptions=subscriptions, blocked=_blocked(topic),
        scheduled_messages=topic.schedule.count, next_due_ms=topic.schedule.next_due_ms or 0,
        expired_messages=sum(one.expired_messages for one in subscriptions),
        dead_lettered_messages=sum(one.dead_lettered_messages for one in subscriptions),
        quota=_quota(topic),
    )


def _quota(topic: Topic) -> QuotaStats:
    status = topic.quota.status()
    return QuotaStats(
        status.size_bytes, status.limit_bytes, status.oldest_ms, status.limit_age_ms,
        status.policy.value, status.slowest_subscription, status.problem or "",
        status.evicted_messages,
    )


async def _kept_messages(topic: Topic) -> int:
    ledgers = topic.log.log.record.ledgers
    if not ledgers:
        return 0
    try:
        first = await topic.log.first_ordinal_of(ledgers[0].ledger_id)
    except MagnetarError:  # the bookies do not answer now, which `blocked` may tell more about
        return UNKNOWN
    return 0 if first is None else topic.log.end_ordinal - first


def _producers(topic: Topic) -> tuple[ProducerStats, ...]:
    return tuple(
        ProducerStats(
            session.producer_name, session.producer_epoch,
            session.admission.mode.name.lower(), session.outstanding,
            session.source.last_stored,
        )
        for session in topic.publishing.producers.values()
    )


def _blocked(topic: Topic) -> tuple[Blocked, ...]:
    reasons = []
    if topic.log.log.blocked_reason is not None:
        reasons.append(Blocked("bookies", topic.log.log.blocked_reason))
    held = topic.publishing.congested  # looks at the backlog too, before its status is told
    problem = topic.quota.status().problem
    if problem is not None:
        reasons.append(Blocked("backlog_quota", problem))
    elif held:
        reasons.append(Blocked(
            "congested",
            f"{topic.log.pending_bytes} bytes are on their way to the bookies: producers wait",
        ))
    for subscription, problem in topic.lanes.problems.items():
        reasons.append(Blocked("dead_letters", f"{subscription} {problem}"))
    return tuple(reasons)


def subscription_stats(subscription: Subscription, now_s: float) -> SubscriptionStats:
    """Of one subscription, now."""
    dispatcher, now = subscription.dispatcher, subscription.snapshot_stats()
    return SubscriptionStats(
        name=subscription.name, type=ConsumerType(SubscriptionKind(subscription.kind).name.lower()),
        durable=subscription.durable, created_ms=subscription.created_ms,
        filter=subscription.filter.expression, tags=subscription.filter.tags,
        backlog_messages=subscription.backlog_messages,
        unacknowledged_messages=now.unacknowledged, redelivering_messages=now.waiting,
        outgoing=dispatcher.traffic.read(now_s),
        consumers=tuple(
            ConsumerStats(
                one.name, one.consumer_id, one.permits, one.delivered_messages,
                one.unacknowledged_messages,
            )
            for one in now.consumers
        ),
        blocked=tuple(Blocked(one.reason.name.lower(), one.text) for one in now.blocked),
        expired_messages=subscription.expiry.expired_messages,
        dead_lettered_messages=subscription.dead_lettered_messages,
    )


def space_value(found: space_report.SpaceReport) -> SpaceReport:
    """As clients see it."""
    return SpaceReport(found.topic, found.size_bytes, tuple(
        LedgerSpace(
            one.ledger_id, one.use.name.lower(), one.entries, one.size_bytes, one.last_append_ms,
            tuple(
                Holder(held.hold.name.lower(), held.text, held.subscription, held.until_ms)
                for held in one.held_by
            ),
        )
        for one in found.ledgers
    ))
