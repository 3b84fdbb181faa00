"""Gives up part of a subscription's backlog: what was skipped counts as acknowledged, durably.

    skip       the next so many messages that are not acknowledged, delivered or not
    clear      everything up to the end
    expire     what is older than so long; messages at a consumer stay with it

Every function answers with how many messages it gave up, raises NotOwner when the topic closes
meanwhile, and is done once that is as durable as an acknowledgement.
"""

from __future__ import annotations

from broker.cursor import CHUNK_BITS, CHUNK_ORDINALS, Cursor
from broker.subscription import Subscription
from broker.topic_log import TopicLog
from magnetar.errors import InvalidArgument


async def skip_messages(log: TopicLog, subscription: Subscription, messages: int) -> int:
    """The next `messages` not acknowledged; fewer if there are fewer. Raises InvalidArgument."""
    if messages < 1:
        raise InvalidArgument(f"skip at least one message, not {messages}")
    cursor = subscription.cursor
    end = min(ordinal_after_unacknowledged(cursor, messages), log.end_ordinal)
    return await _give_up_below(subscription, end)


async def clear_backlog(log: TopicLog, subscription: Subscription) -> int:
    """Everything that is stored now."""
    return await _give_up_below(subscription, log.end_ordinal)


async def expire_messages(subscription: Subscription, older_than_ms: int) -> int:
    """What was appended longer ago than that. Raises InvalidArgument."""
    if older_than_ms < 0:
        raise InvalidArgument(f"an age is not negative: {older_than_ms} ms")
    expired = await subscription.backlog_expiry.expire_older_than(older_than_ms)
    await subscription.flushed()
    return expired


async def _give_up_below(subscription: Subscription, end: int) -> int:
    before = subscription.backlog_messages
    subscription.pass_trimmed(end)
    given_up = before - subscription.backlog_messages
    await subscription.flushed()
    return given_up


def ordinal_after_unacknowledged(cursor: Cursor, messages: int) -> int:
    """The ordinal before which exactly so many messages are not acknowledged."""
    at, left = cursor.floor, messages
    for chunk, bits in cursor.chunks():
        start = chunk << CHUNK_BITS
        if start - at >= left:
            break
        if start > at:
            left -= start - at
            at = start
        inside = at - start
        open_bits = ~(bits >> inside) & ((1 << (CHUNK_ORDINALS - inside)) - 1)
        count = open_bits.bit_count()
        if count >= left:
            return at + _place_of_bit(open_bits, left) + 1
        left -= count
        at = start + CHUNK_ORDINALS
    return at + left


def _place_of_bit(bits: int, number: int) -> int:
    """Where the `number`-th one of `bits` is, counted from 1 and from the lowest."""
    low, high = 0, bits.bit_length()
    while low < high:
        middle = (low + high) // 2
        if (bits & ((2 << middle) - 1)).bit_count() >= number:
            high = middle
        else:
            low = middle + 1
    return low
