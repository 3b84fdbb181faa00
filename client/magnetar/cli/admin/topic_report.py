"""A topic's stats as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from magnetar.cli.printing import counted, rate, record, size, table, when

if TYPE_CHECKING:
    from magnetar.admin.topic_values import (
        Holder,
        SpaceReport,
        SubscriptionStats,
        TopicStats,
        Traffic,
    )


def report(stats: TopicStats) -> None:
    """Print all of it."""
    record({
        "topic": stats.topic, "owner": stats.owner, "created": when(stats.created_ms),
        "terminated": stats.terminated, "in": _traffic(stats.incoming),
        "out": _traffic(stats.outgoing),
        "kept messages": "not known now" if stats.messages < 0 else stats.messages,
        "storage": f"{size(stats.storage_bytes)} in {counted(len(stats.ledgers), 'ledger')}",
        "waiting producers": stats.waiting_producers or "",
        "scheduled": _scheduled(stats), "expired": stats.expired_messages or "",
        "dead letters": stats.dead_lettered_messages or "",
        "dropped": stats.dropped_messages or "", "backlog": _quota(stats),
    })
    for reason in stats.blocked:
        typer.echo(f"blocked: {reason.text}")
    if stats.producers:
        _title("producers")
        table(({
            "name": one.name, "access": one.access_mode, "pending batches": one.pending_batches,
            "last sequence id": one.last_sequence_id, "epoch": one.epoch,
        } for one in stats.producers), "")
    if stats.subscriptions:
        _title("subscriptions")
        table((_subscription(one) for one in stats.subscriptions), "")
        for one in stats.subscriptions:
            for reason in one.blocked:
                typer.echo(f"{one.name} is blocked: {reason.text}")
    if stats.partitions:
        _title("partitions")
        table(({
            "partition": number, "owner": one.owner or "-", "messages": one.messages,
            "storage": size(one.storage_bytes),
            "in": rate(one.incoming.messages_per_second, one.incoming.bytes_per_second),
            "out": rate(one.outgoing.messages_per_second, one.outgoing.bytes_per_second),
        } for number, one in enumerate(stats.partitions)), "")


def report_subscription(stats: SubscriptionStats) -> None:
    """Print one subscription."""
    record({
        "subscription": stats.name, "type": stats.type, "durable": stats.durable,
        "created": when(stats.created_ms), "filter": stats.filter, "tags": stats.tags,
        "backlog": stats.backlog_messages, "unacknowledged": stats.unacknowledged_messages,
        "to be redelivered": stats.redelivering_messages, "out": _traffic(stats.outgoing),
        "delayed": stats.delayed_messages or "", "set aside": stats.set_aside_messages or "",
        "held keys": stats.held_keys or "", "draining keys": stats.draining_keys or "",
        "expired": stats.expired_messages or "", "dead letters": stats.dead_lettered_messages or "",
        "dropped": stats.dropped_messages or "", "most deliveries": stats.max_deliveries or "",
        "dead letters to": stats.dead_letter_topic if stats.max_deliveries else "",
    })
    for reason in stats.blocked:
        typer.echo(f"blocked: {reason.text}")
    if stats.consumers:
        _title("consumers")
        table(({
            "name": one.name, "id": one.consumer_id, "room": one.permits,
            "delivered": one.delivered_messages, "unacknowledged": one.unacknowledged_messages,
            "active": one.active,
        } for one in stats.consumers), "")
    if stats.members:
        _title("members")
        table(map(_subscription, stats.members), "")


def _scheduled(stats: TopicStats) -> str:
    if not stats.scheduled_messages:
        return ""
    return f"{counted(stats.scheduled_messages, 'message')}, the next at {when(stats.next_due_ms)}"


def _quota(stats: TopicStats) -> str:
    quota = stats.quota
    if quota is None or (quota.limit_bytes < 0 and quota.limit_age_ms < 0):
        return ""
    limits = [size(quota.limit_bytes)] if quota.limit_bytes >= 0 else []
    limits += [f"{quota.limit_age_ms} ms"] if quota.limit_age_ms >= 0 else []
    evicted = quota.evicted_messages
    dropped = f"; {counted(evicted, 'message')} dropped" if evicted else ""
    return f"{size(quota.backlog_bytes)} of {' and '.join(limits)} ({quota.policy}){dropped}"


def report_space(report: SpaceReport) -> None:
    """Print what keeps each ledger."""
    for part in report.partitions or (report,):
        record({"topic": part.topic, "storage": size(part.storage_bytes)})
        table(({
            "ledger": one.ledger_id, "of": one.use,
            "entries": "" if one.entries < 0 else one.entries,
            "size": size(one.size_bytes or -1),
            "kept by": "; ".join(map(_holder, one.held_by)),
        } for one in part.ledgers), "no ledgers")


def _holder(held: Holder) -> str:
    return f"{held.text}, until {when(held.until_ms)}" if held.until_ms else held.text


def _subscription(one: SubscriptionStats) -> dict[str, object]:
    return {
        "name": one.name, "type": one.type, "consumers": len(one.consumers),
        "backlog": one.backlog_messages, "unacknowledged": one.unacknowledged_messages,
        "out": rate(one.outgoing.messages_per_second, one.outgoing.bytes_per_second),
        "blocked": "yes" if one.blocked else "no",
    }


def _traffic(traffic: Traffic) -> str:
    so_far = f"{counted(traffic.messages, 'message')}, {size(traffic.bytes)} since it was loaded"
    return f"{rate(traffic.messages_per_second, traffic.bytes_per_second)} ({so_far})"


def _title(text: str) -> None:
    typer.echo(f"\n{text}")
