"""Frees space: whole ledgers that every durable subscription has and retention need not keep.

A topic without subscriptions keeps its messages, up to its retention if it has one. Nothing
beyond the last durable checkpoint is deleted, so that an emptied log forgets neither its
sources nor its next ordinal. The order is the log's: first its list by compare-and-set, then
the ledgers.
"""

from __future__ import annotations

from itertools import zip_longest

from broker.topic_log import TopicLog
from broker.topic_state import TopicState
from ledger.position import Position
from magnetar.ids import EntryId
from magnetar.runtime.clock import Clock
from metadata.topics import LedgerInfo
from tenants.policies import UNLIMITED, TopicPolicies

MINUTE_MS = 60_000


class Retention:
    """Rolls and trims one topic's log."""

    def __init__(
        self, log: TopicLog, state: TopicState, policies: TopicPolicies, clock: Clock
    ) -> None:
        self._log = log
        self._state = state
        self.policies = policies
        self._clock = clock
        self._current_ledger = -1
        self._current_since_ms = 0

    async def apply(self) -> None:
        """Roll a consumed ledger that has grown old, then trim."""
        await self._pass_what_is_gone()
        consumed = self._consumed_ordinal()
        if consumed is None:
            return
        if self._current_is_old() and consumed >= self._log.end_ordinal:
            await self._log.log.roll()
        keep_from = await self._keep_from(consumed)
        if keep_from is not None and self._still_consumed(consumed):
            await self._log.log.trim(keep_from)
            self._log.forget_ledgers()

    def _still_consumed(self, ordinal: int) -> bool:
        """No seek went back meanwhile."""
        consumed = self._consumed_ordinal()
        return consumed is not None and consumed >= ordinal

    async def _pass_what_is_gone(self) -> None:
        """A subscription may have been made at, or moved to, messages that were just then being
        deleted: nobody can acknowledge them, so its position goes past them by itself."""
        if not self._state.subscriptions:
            return
        first: int | None = self._log.end_ordinal
        ledgers = self._log.log.record.ledgers
        if ledgers:
            first = await self._log.first_ordinal_of(ledgers[0].ledger_id)
        if first is not None:
            for subscription in self._state.subscriptions.values():
                subscription.pass_trimmed(first)

    def _consumed_ordinal(self) -> int | None:
        """Every durable subscription has all below it; None: nothing may be deleted."""
        floors = [one.durable_floor for one in self._state.subscriptions.values() if one.durable]
        if floors:
            return min(floors)
        return self._log.end_ordinal if self.policies.retention_minutes > 0 else None

    def _current_is_old(self) -> bool:
        current, now_ms = self._log.last_position.ledger_id, self._clock.wall_ms()
        if current != self._current_ledger:
            self._current_ledger, self._current_since_ms = current, now_ms
        ledgers = self._log.log.record.ledgers
        open_ledger = bool(ledgers) and ledgers[-1].ledger_id == current and not (
            ledgers[-1].closed_ms
        )
        return open_ledger and (
            now_ms - self._current_since_ms >= self.policies.max_ledger_age_ms
        )

    async def _keep_from(self, consumed: int) -> Position | None:
        """The first position to keep; None when no ledger can go."""
        deletable: list[LedgerInfo] = []
        ledgers = self._log.log.record.ledgers
        for info, following in zip_longest(ledgers, ledgers[1:]):
            if info is None or not await self._is_consumed(info, following, consumed):
                break
            deletable.append(info)
        kept = self._retained(deletable)
        gone = len(deletable) - kept
        if gone == 0:
            return None
        last = deletable[gone - 1]
        return Position(last.ledger_id, EntryId(max(last.entries, 0)))

    async def _is_consumed(
        self, info: LedgerInfo, following: LedgerInfo | None, consumed: int
    ) -> bool:
        if not info.closed_ms or info.entries < 0:
            return False
        if info.entries == 0:
            return True
        last = Position(info.ledger_id, EntryId(info.entries - 1))
        if last > self._state.checkpoint_position:
            return False
        if following is None:
            return self._log.end_ordinal <= consumed
        end = await self._log.first_ordinal_of(following.ledger_id)
        return (self._log.end_ordinal if end is None else end) <= consumed

    def _retained(self, deletable: list[LedgerInfo]) -> int:
        """How many of the newest consumed ledgers retention keeps."""
        minutes, limit_bytes = self.policies.retention_minutes, self.policies.retention_bytes
        now_ms, kept, size_bytes = self._clock.wall_ms(), 0, 0
        for info in reversed(deletable):
            size_bytes += info.size_bytes
            old = minutes != UNLIMITED and now_ms - info.closed_ms >= minutes * MINUTE_MS
            if old or (limit_bytes != UNLIMITED and size_bytes > limit_bytes):
                break
            kept += 1
        return kept
