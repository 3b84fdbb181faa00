"""Broadcast subscriptions: a group of members, each a subscription with a position of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from broker.conversation import OpenConsumer
from broker.state_records import SubscriptionKind
from broker.subscription_name import check_name, group_of, member_name, member_of
from magnetar.errors import ConsumerBusy


def named(request: OpenConsumer, existing: Collection[str]) -> OpenConsumer:
    """The request with the subscription's own name in it. A name is that of a group or of a
    subscription, never both. Raises InvalidArgument, ConsumerBusy."""
    name = request.subscription
    if request.kind is SubscriptionKind.BROADCAST:
        own = member_name(name, request.consumer_name)
        if name in existing:
            raise ConsumerBusy(
                f"subscription {name!r} is no broadcast group: use another name, or delete it first"
            )
        return replace(request, subscription=own)
    check_name("a subscription name", name)
    if name not in existing and (members := members_of(name, existing)):
        raise ConsumerBusy(
            f"subscription {name!r} is a broadcast group of {len(members)} members: use another"
            " name, or delete it first"
        )
    return request


def members_of(group: str, existing: Iterable[str]) -> list[str]:
    """The subscriptions of a group's members, by name."""
    return sorted(name for name in existing if member_of(name) and group_of(name) == group)


def shown_names(existing: Iterable[str]) -> list[str]:
    """What clients know subscriptions by, a group once."""
    return sorted({group_of(name) for name in existing})
