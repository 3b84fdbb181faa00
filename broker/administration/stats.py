"""What goes on in a topic, for people."""

from __future__ import annotations

from collections.abc import Sequence

from broker import space_report
from broker.administration.merging import group_of_members
from broker.state_records import SubscriptionKind
from broker.subscription import Subscription
from broker.subscription_name import group_of
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
    subscriptions = _subscriptions(topic, now_s)
    return TopicStats(
        topic=topic.name, owner=owner, epoch=log.owner.epoch, created_ms=record.created_ms,
        terminated=record.terminated, incoming=topic.publishing.traffic.read(now_s),
        outgoing=sum((one.outgoing for one in subscriptions), Traffic()),
        messages=await _kept_messages(topic), entries=log.entries, storage_bytes=log.size_bytes,
        state_bytes=log.state.size_bytes, pending_publish_bytes=topic.publishing.pending_bytes,
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
        dropped_messages=topic.quota.status().evicted_messages + (
            0 if topic.memory is None else topic.memory.dropped_messages
        ),
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
    if topic.schedule.blocked_reason is not None:
        reasons.append(Blocked("schedule", topic.schedule.blocked_reason))
    held = topic.publishing.congested  # looks at the backlog too, before its status is told
    problem = topic.quota.status().problem
    if problem is not None:
        reasons.append(Blocked("backlog_quota", problem))
    elif topic.schedule.congested:
        reasons.append(Blocked(
            "congested",
            "too many delayed messages wait in the memory of this broker: producers wait until"
            " runs of them are written",
        ))
    elif held:
        reasons.append(Blocked(
            "congested",
            f"{topic.log.pending_bytes} bytes are on their way to the bookies: producers wait",
        ))
    for subscription, problem in topic.lanes.problems.items():
        reasons.append(Blocked("dead_letters", f"{subscription} {problem}"))
    return tuple(reasons)


def _subscriptions(topic: Topic, now_s: float) -> tuple[SubscriptionStats, ...]:
    by_name: dict[str, list[Subscription]] = {}
    for one in topic.state.subscriptions.values():
        by_name.setdefault(group_of(one.name), []).append(one)
    return tuple(stats_of(name, found, topic, now_s) for name, found in by_name.items())


def stats_of(
    name: str, subscriptions: Sequence[Subscription], topic: Topic, now_s: float, *,
    as_group: bool = True,
) -> SubscriptionStats:
    """Of one subscription, or of a broadcast group that has these members."""
    found = [_stats(one, topic, now_s) for one in subscriptions]
    if as_group and subscriptions[0].member:
        return group_of_members(name, found)
    return found[0]


def _stats(subscription: Subscription, topic: Topic, now_s: float) -> SubscriptionStats:
    now, name = subscription.snapshot_stats(), subscription.name
    dropped = topic.quota.evicted.get(name, 0)
    if topic.memory is not None:
        dropped += topic.memory.dropped_of.get(name, 0)
    return SubscriptionStats(
        name=now.member or now.name,
        type=ConsumerType(SubscriptionKind(now.kind).name.lower()),
        durable=now.durable, created_ms=subscription.created_ms, filter=now.filter, tags=now.tags,
        backlog_messages=now.backlog, unacknowledged_messages=now.unacknowledged,
        redelivering_messages=now.waiting, outgoing=subscription.dispatcher.traffic.read(now_s),
        consumers=tuple(
            ConsumerStats(
                one.name, one.consumer_id, one.permits, one.delivered_messages,
                one.unacknowledged_messages, one.active,
            )
            for one in now.consumers
        ),
        blocked=tuple(Blocked(one.reason.name.lower(), one.text) for one in now.blocked),
        expired_messages=subscription.expiry.expired_messages,
        dead_lettered_messages=subscription.dead_lettered_messages, dropped_messages=dropped,
        delayed_messages=now.delayed, dead_lettering_messages=now.dead_lettering,
        set_aside_messages=now.set_aside, held_keys=now.held_keys,
        draining_keys=now.draining_keys, hold_failed_keys=now.hold_failed_keys,
        max_deliveries=now.max_deliveries, dead_letter_topic=now.dead_letter_topic,
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
