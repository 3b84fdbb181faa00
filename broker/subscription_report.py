"""Tells people what a subscription does and waits for; see SubscriptionStats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from broker.bounds import text_of
from broker.dispatch.waiting import Wait
from broker.subscription_stats import Block, Blocked, ConsumerSnapshot, SubscriptionStats

if TYPE_CHECKING:
    from broker.subscription import Subscription


def snapshot_of(subscription: Subscription) -> SubscriptionStats:
    """Now. Costs as much as there are consumers, and keys that wait."""
    dispatcher, options = subscription.dispatcher, subscription.options
    waiting = dispatcher.waiting.messages
    held, draining = _waiting_keys(subscription)
    return SubscriptionStats(
        name=subscription.name, kind=subscription.kind, durable=subscription.durable,
        backlog=subscription.backlog_messages, unacknowledged=dispatcher.flights.messages,
        waiting=dispatcher.waiting.delivered, delayed=waiting[Wait.TIME],
        dead_lettering=waiting[Wait.BURIAL] + subscription.expiry.given_messages,
        set_aside=waiting[Wait.PATH],
        held_keys=0 if dispatcher.order is None else dispatcher.order.held_keys,
        draining_keys=draining,
        filter=subscription.filter.expression, tags=subscription.filter.tags,
        hold_failed_keys=options.holds(subscription.kind), max_deliveries=options.max_deliveries,
        dead_letter_topic=subscription.dead_letter_target if subscription.name else "",
        consumers=tuple(
            ConsumerSnapshot(
                one.name, one.consumer_id, one.permits, one.unacknowledged,
                one.delivered_messages, dispatcher.is_active(one),
            )
            for one in subscription.consumers
        ),
        blocked=tuple(_blocked(subscription, held, draining)),
        group=subscription.group, member=subscription.member,
    )


def _waiting_keys(subscription: Subscription) -> tuple[int, int]:
    """Keys that wait for a failed message, and for their former consumer."""
    held = draining = 0
    order = subscription.dispatcher.order
    if order is not None:
        for state, is_held in order.backed_up():
            if is_held:
                held += 1
            elif state.in_flight and order.owner(state) is not state.consumer:
                draining += 1
    return held, draining


def _blocked(subscription: Subscription, held: int, draining: int) -> Iterator[Blocked]:
    dispatcher = subscription.dispatcher
    if subscription.backlog_messages and not subscription.consumers:
        yield Blocked(Block.NO_CONSUMERS, "nobody is attached")
    reason = subscription.dispatch_blocked()
    if reason is not None:
        yield Blocked(reason, text_of(subscription, reason))
    elif dispatcher.paused and subscription.consumers:
        yield Blocked(Block.STATE_NOT_DURABLE, "a seek is being made durable")
    if dispatcher.problem is not None:
        yield Blocked(Block.UNREADABLE, dispatcher.problem)
    if dispatcher.lost_track:
        yield Blocked(Block.TRACKING_BOUND, Block.TRACKING_BOUND.value)
    if subscription.counts.reasons_full:
        yield Blocked(Block.REASONS_BOUND, Block.REASONS_BOUND.value)
    if dispatcher.switching:
        yield Blocked(Block.SWITCHING, Block.SWITCHING.value)
    if not dispatcher.delivered_everything and subscription.consumers:
        yield from _without_room(subscription)
    if draining:
        yield Blocked(Block.DRAINING_KEY, _draining_text(subscription, draining))
    if held:
        yield Blocked(Block.HELD_KEY, f"{held} keys wait for a message of theirs that failed")
    waiting = dispatcher.waiting.messages
    if waiting[Wait.TIME]:
        yield Blocked(Block.DELAYED, f"{waiting[Wait.TIME]} messages are delivered again later")
    if waiting[Wait.BURIAL]:
        yield Blocked(
            Block.DEAD_LETTERING,
            f"{waiting[Wait.BURIAL]} messages are on their way to"
            f" {subscription.dead_letter_target}",
        )


def _without_room(subscription: Subscription) -> Iterator[Blocked]:
    """Who has no room, and which bounds are met."""
    dispatcher = subscription.dispatcher
    desk = dispatcher.desk
    names: dict[Block, list[str]] = {}
    for consumer in subscription.consumers:
        if not dispatcher.is_active(consumer):
            continue
        if desk.at_consumer_bound(consumer):
            names.setdefault(Block.CONSUMER_BOUND, []).append(consumer.name)
        elif consumer.permits <= 0:
            names.setdefault(Block.NO_PERMITS, []).append(consumer.name)
        elif not desk.has_way(consumer):
            names.setdefault(Block.CONSUMER_CROWDED, []).append(consumer.name)
    for block, consumers in names.items():
        yield Blocked(block, f"{block.value}: {_some(consumers)}")
    for block in desk.bounds_met():
        yield Blocked(block, block.value)


def _draining_text(subscription: Subscription, draining: int) -> str:
    order = subscription.dispatcher.order
    assert order is not None
    names = sorted({
        state.consumer.name for state, _ in order.backed_up()
        if state.in_flight and state.consumer is not None
        and order.owner(state) is not state.consumer
    })
    return f"{draining} keys wait for what {_some(names)} has of them"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
