"""A topic's stats as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from magnetar.cli.admin.printing import rate, record, size, table, when

if TYPE_CHECKING:
    from magnetar.admin.topic_values import SubscriptionStats, TopicStats, Traffic


def report(stats: TopicStats) -> None:
    """Print all of it."""
    record({
        "topic": stats.topic, "owner": stats.owner, "created": when(stats.created_ms),
        "terminated": stats.terminated, "in": _traffic(stats.incoming),
        "out": _traffic(stats.outgoing),
        "kept messages": "not known now" if stats.messages < 0 else stats.messages,
        "storage": f"{size(stats.storage_bytes)} in {len(stats.ledgers)} ledgers",
        "waiting producers": stats.waiting_producers or "",
    })
    for reason in stats.blocked:
        typer.echo(f"blocked: {reason}")
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
                typer.echo(f"{one.name} is blocked: {reason}")
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
    })
    for reason in stats.blocked:
        typer.echo(f"blocked: {reason}")
    if stats.consumers:
        _title("consumers")
        table(({
            "name": one.name, "id": one.consumer_id, "room": one.permits,
            "delivered": one.delivered_messages, "unacknowledged": one.unacknowledged_messages,
        } for one in stats.consumers), "")


def _subscription(one: SubscriptionStats) -> dict[str, object]:
    return {
        "name": one.name, "type": one.type, "consumers": len(one.consumers),
        "backlog": one.backlog_messages, "unacknowledged": one.unacknowledged_messages,
        "out": rate(one.outgoing.messages_per_second, one.outgoing.bytes_per_second),
        "blocked": "yes" if one.blocked else "no",
    }


def _traffic(traffic: Traffic) -> str:
    so_far = f"{traffic.messages} messages, {size(traffic.bytes)} since it was loaded"
    return f"{rate(traffic.messages_per_second, traffic.bytes_per_second)} ({so_far})"


def _title(text: str) -> None:
    typer.echo(f"\n{text}")
