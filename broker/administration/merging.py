"""The stats of a partitioned topic: sums over its partitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from magnetar.admin.topic_values import Blocked, SubscriptionStats, TopicStats, Traffic

SUMMED: Final = (
    "backlog_messages", "unacknowledged_messages", "redelivering_messages", "expired_messages",
    "dead_lettered_messages", "dropped_messages", "delayed_messages", "dead_lettering_messages",
    "set_aside_messages", "held_keys", "draining_keys",
)
"""Numbers of a subscription that add up."""


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
        subscriptions=tuple(sum_of_partitions(found) for found in by_name.values()),
        blocked=tuple(
            Blocked(reason.reason, f"{one.topic}: {reason.text}")
            for one in partitions for reason in one.blocked
        ),
        scheduled_messages=sum(one.scheduled_messages for one in partitions),
        next_due_ms=min((one.next_due_ms for one in partitions if one.next_due_ms), default=0),
        expired_messages=sum(one.expired_messages for one in partitions),
        dead_lettered_messages=sum(one.dead_lettered_messages for one in partitions),
        dropped_messages=sum(one.dropped_messages for one in partitions),
        partitions=tuple(partitions),
    )


def _sum(numbers: Iterable[int]) -> int:
    known = list(numbers)
    return -1 if min(known) < 0 else sum(known)


def sum_of_partitions(partitions: Sequence[SubscriptionStats]) -> SubscriptionStats:
    """One subscription on all partitions; at least one has it."""
    members: dict[str, list[SubscriptionStats]] = {}
    for partition in partitions:
        for member in partition.members:
            members.setdefault(member.name, []).append(member)
    return replace(
        _sum_of(partitions[0].name, partitions),
        members=tuple(map(sum_of_partitions, members.values())),
    )


def group_of_members(name: str, members: Sequence[SubscriptionStats]) -> SubscriptionStats:
    """A broadcast group; it has a member."""
    return replace(
        _sum_of(name, members), members=tuple(members),
        backlog_messages=max(one.backlog_messages for one in members),
    )


def _sum_of(name: str, parts: Sequence[SubscriptionStats]) -> SubscriptionStats:
    reasons = dict.fromkeys(reason for one in parts for reason in one.blocked)
    sums = {field: sum(getattr(one, field) for one in parts) for field in SUMMED}
    return replace(
        parts[0], name=name, created_ms=min(one.created_ms for one in parts),
        outgoing=sum((one.outgoing for one in parts), Traffic()),
        consumers=tuple(consumer for one in parts for consumer in one.consumers),
        blocked=tuple(reasons), **sums,
    )
