"""What the watch at the broker calls a violation, and what not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.consumer_session import ConsumerSession
from broker.conversation import MessagePosition
from broker.state_records import SubscriptionKind
from tests.sim.keyed_watch import Delivered, KeyedWatch


class Subscription(SimpleNamespace):
    """What the watch looks at."""

    __hash__ = object.__hash__

    def __init__(self, kind: SubscriptionKind, epoch: int = 1) -> None:
        super().__init__(kind=kind, _log=SimpleNamespace(_epoch=epoch))


def session(subscription: Any, name: str) -> ConsumerSession:
    return cast("ConsumerSession", SimpleNamespace(
        _subscription=subscription, name=name, closed=False))


def deliver(
    watch: KeyedWatch, consumer: ConsumerSession, entry_id: int, key: str = "k"
) -> None:
    watch.delivered_messages(consumer, [Delivered((1, entry_id, 0), key, ("p", entry_id))])


def positions(*entries: int) -> list[MessagePosition]:
    return [MessagePosition(1, entry_id, 0) for entry_id in entries]


def test_a_key_at_two_consumers_is_a_violation_until_the_first_has_settled() -> None:
    watch, kept = KeyedWatch(), Subscription(SubscriptionKind.KEY_SHARED)
    one, two = session(kept, "one"), session(kept, "two")
    deliver(watch, one, 1)
    deliver(watch, two, 2, "another key")
    watch.acknowledged(one, positions(1), lambda _: None)
    deliver(watch, two, 3)
    assert watch.violations == []

    deliver(watch, one, 4)

    assert len(watch.violations) == 1 and watch.violations[0].startswith("I18")


@pytest.mark.parametrize("ends", [True, False])
def test_what_ended_or_gave_back_has_nothing(ends: bool) -> None:
    watch, kept = KeyedWatch(), Subscription(SubscriptionKind.FAILOVER)
    one, two = session(kept, "one"), session(kept, "two")
    deliver(watch, one, 1)
    if ends:
        one.closed = True
    else:
        watch.returned(one, positions(1))

    deliver(watch, two, 1, "another key")

    assert watch.violations == []


def test_first_deliveries_of_a_key_keep_the_order_of_the_log() -> None:
    watch, kept = KeyedWatch(), Subscription(SubscriptionKind.KEY_SHARED)
    one = session(kept, "one")
    deliver(watch, one, 2)
    deliver(watch, one, 2)
    deliver(watch, one, 0, "another key")
    assert watch.violations == []

    deliver(watch, one, 1)

    assert "comes for the first time after" in watch.violations[0]


def test_a_fenced_owner_acknowledges_nothing_durably() -> None:
    watch = KeyedWatch()
    old = session(Subscription(SubscriptionKind.FAILOVER, 1), "old")
    new = session(Subscription(SubscriptionKind.FAILOVER, 2), "new")
    deliver(watch, old, 1)
    before = watch.acknowledged(old, positions(1), lambda _: None)
    deliver(watch, new, 1)
    before(None)
    deliver(watch, old, 2)
    assert watch.violations == []

    watch.acknowledged(old, positions(2), lambda _: None)(None)

    assert watch.violations[0].startswith("I17")


def test_what_is_durable_does_not_come_again() -> None:
    watch, kept = KeyedWatch(), Subscription(SubscriptionKind.SHARED)
    one = session(kept, "one")
    deliver(watch, one, 1)
    watch.acknowledged(one, positions(1), lambda _: None)(None)

    deliver(watch, one, 1)

    assert watch.violations[0].startswith("I16")
