"""The stats of a partitioned topic: sums over its partitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from magnetar.admin.topic_values import Blocked, SubscriptionStats, TopicStats, Traffic


def sum_of_topics(topic: str, partitions: Sequence[TopicStats]) -> TopicStats:
    """`partitions` is not empty. What is unknown of one is unknown of all."""
    by_name: dict[str, list[SubscriptionStats]] = {}
    for partition in partitions:
        for subscription in partition.subscriptions:
            by_name.setdefault(subscription.name, []).append(subscription)
    return TopicStats(
        topic=topic,
        created_ms=min((one.created_ms for one in partitions if one.created_ms), default=0),
        terminated=all(one.terminated for one in partitions),
        incoming=sum((one.incoming for one in partitions), Traffic()),
        outgoing=sum((one.outgoing for one in partitions), Traffic()),
        messages=_sum(one.messages for one in partitions),
        entries=_sum(one.entries for one in partitions),
        storage_bytes=sum(one.storage_bytes for one in partitions),
        state_bytes=sum(one.state_bytes for one in partitions),
        pending_publish_bytes=sum(one.pending_publish_bytes for one in partitions),
        ledgers=tuple(ledger for one in partitions for ledger in one.ledgers),
        producers=tuple(producer for one in partitions for producer in one.producers),
        waiting_producers=sum(one.waiting_producers for one in partitions),
        subscriptions=tuple(sum_of_subscriptions(found) for found in by_name.values()),
        blocked=tuple(
            Blocked(reason.reason, f"{one.topic}: {reason.text}")
            for one in partitions for reason in one.blocked
        ),
        scheduled_messages=sum(one.scheduled_messages for one in partitions),
        next_due_ms=min((one.next_due_ms for one in partitions if one.next_due_ms), default=0),
        expired_messages=sum(one.expired_messages for one in partitions),
        dead_lettered_messages=sum(one.dead_lettered_messages for one in partitions),
        partitions=tuple(partitions),
    )


def _sum(numbers: Iterable[int]) -> int:
    known = list(numbers)
    return -1 if min(known) < 0 else sum(known)


def sum_of_subscriptions(partitions: Sequence[SubscriptionStats]) -> SubscriptionStats:
    """One subscription on all partitions; at least one has it."""
    first = partitions[0]
    reasons = dict.fromkeys(reason for one in partitions for reason in one.blocked)
    return replace(
        first,
        created_ms=min(one.created_ms for one in partitions),
        backlog_messages=sum(one.backlog_messages for one in partitions),
        unacknowledged_messages=sum(one.unacknowledged_messages for one in partitions),
        redelivering_messages=sum(one.redelivering_messages for one in partitions),
        outgoing=sum((one.outgoing for one in partitions), Traffic()),
        expired_messages=sum(one.expired_messages for one in partitions),
        dead_lettered_messages=sum(one.dead_lettered_messages for one in partitions),
        consumers=tuple(consumer for one in partitions for consumer in one.consumers),
        blocked=tuple(reasons),
    )
