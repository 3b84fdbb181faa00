"""Deletes all messages of a topic at once; its subscriptions, sources and next ordinal stay."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from broker.subscription import Subscription
from broker.topic_log import TopicLog
from ledger.position import Position
from magnetar.ids import EntryId


async def truncate(
    log: TopicLog, subscriptions: Sequence[Subscription],
    checkpointed: Callable[[], Awaitable[None]],
) -> int:
    """Move every subscription past what is stored now, then delete that; answers how many
    messages were there. Raises LedgerFenced, NotOwner.

    `checkpointed` waits until the state ledger holds all that an emptied log must not forget.
    """
    await log.log.roll()
    ledgers = log.log.record.ledgers
    closed = [info for info in ledgers if info.closed_ms]
    if not closed:
        return 0
    first = await log.first_ordinal_of(closed[0].ledger_id)
    end = await _ordinal_after(log, len(closed))
    for subscription in subscriptions:
        subscription.pass_trimmed(end)
    for subscription in subscriptions:
        await subscription.flushed()
    await checkpointed()
    last = closed[-1]
    await log.log.trim(Position(last.ledger_id, EntryId(last.entries)))
    log.forget_ledgers()
    return end - (end if first is None else first)


async def _ordinal_after(log: TopicLog, ledgers: int) -> int:
    """The first ordinal after so many of the oldest ledgers."""
    following = log.log.record.ledgers[ledgers:]
    first = await log.first_ordinal_of(following[0].ledger_id) if following else None
    return log.end_ordinal if first is None else first
