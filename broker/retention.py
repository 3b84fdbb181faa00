"""Frees space: whole ledgers that every durable subscription has and retention need not keep.

A topic without subscriptions keeps its messages, up to its retention if it has one, or to its
backlog quota. Nothing beyond the last durable checkpoint is deleted, so that an emptied log
forgets neither its sources nor its next ordinal. The order is the log's: first its list by
compare-and-set, then the ledgers.

Since only closed ledgers can go, an open one is closed early when that frees something: once
nobody has appended for a while and all of it is consumed, or once much of it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Protocol

from broker.backlog_quota import BacklogQuota
from broker.topic_log import TopicLog
from broker.topic_state import TopicState
from ledger.position import Position
from magnetar.ids import EntryId
from magnetar.runtime.clock import Clock
from metadata.topics import LedgerInfo
from tenants.policies import UNLIMITED, TopicPolicies

MINUTE_MS = 60_000
SMALL_LEDGER_BYTES = 1 << 20
SMALL_LEDGER_PATIENCE = 15
"""A ledger so small is closed only after being idle so many times as long: a topic with a message
now and then would else need a ledger for each."""


class RetentionHost(Protocol):
    """What retention needs of its topic."""

    policies: TopicPolicies
    quota: BacklogQuota

    async def durable_epoch(self) -> None:
        """Write a checkpoint, and wait until it is durable."""


class Retention:
    """Rolls and trims one topic's log."""

    def __init__(
        self, host: RetentionHost, log: TopicLog, state: TopicState, clock: Clock
    ) -> None:
        self._host = host
        self._log = log
        self._state = state
        self._clock = clock
        self._current_ledger = -1
        self._current_since_ms = 0

    async def apply(self) -> None:
        """Roll the open ledger if that frees something soon, then trim."""
        await self._pass_what_is_gone()
        consumed = self.consumed_ordinal()
        if consumed is None:
            return
        if self._is_to_be_rolled(consumed):
            await self._log.log.roll()
        deletable = await self.deletable(consumed)
        gone = deletable[: self.gone(deletable)]
        if not gone:
            return
        keep_from = Position(gone[-1].ledger_id, EntryId(gone[-1].entries))
        if _last_of(gone[-1]) > self._state.checkpoint_position:
            await self._host.durable_epoch()
        if self._still_consumed(consumed):
            await self._log.log.trim(keep_from)
            self._log.forget_ledgers()

    def _still_consumed(self, ordinal: int) -> bool:
        """No seek went back meanwhile."""
        consumed = self.consumed_ordinal()
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

    def consumed_ordinal(self) -> int | None:
        """Every durable subscription has all below it; None: nothing may be deleted."""
        floors = [one.durable_floor for one in self._state.subscriptions.values() if one.durable]
        if floors:
            return min(floors)
        if self._host.policies.retention_minutes:
            return self._log.end_ordinal
        return self._host.quota.evicted_below or None

    # --- rolling

    def open_ledger(self) -> LedgerInfo | None:
        """The ledger being written, once something is in it."""
        ledgers = self._log.log.record.ledgers
        last = self._log.last_position
        if ledgers and not ledgers[-1].closed_ms and ledgers[-1].ledger_id == last.ledger_id:
            return ledgers[-1]
        return None

    def _is_to_be_rolled(self, consumed: int) -> bool:
        info = self.open_ledger()
        if info is None:
            return False
        policies, now_ms = self._host.policies, self._clock.wall_ms()
        if consumed >= self._log.end_ordinal:
            if self._is_old(info, now_ms):
                return True
            idle_ms = now_ms - self._log.append_time_ms
            small = self._log.log.bytes_of(info) < SMALL_LEDGER_BYTES
            patience = SMALL_LEDGER_PATIENCE if small else 1
            if idle_ms >= policies.roll_consumed_idle_ms * patience and (
                self._exceeds(idle_ms, consumed)
            ):
                return True
        consumed_bytes = self._log.index.bytes_consumed(info, consumed)
        return consumed_bytes >= policies.roll_consumed_bytes and self._exceeds(0, consumed)

    def _is_old(self, info: LedgerInfo, now_ms: int) -> bool:
        if info.ledger_id != self._current_ledger:
            self._current_ledger, self._current_since_ms = info.ledger_id, now_ms
        return now_ms - self._current_since_ms >= self._host.policies.max_ledger_age_ms

    def _exceeds(self, age_ms: int, consumed: int) -> bool:
        """Consumed messages of this age need not be kept any longer, or there are too many."""
        policies = self._host.policies
        minutes = policies.retention_minutes
        if minutes != UNLIMITED and age_ms >= minutes * MINUTE_MS:
            return True
        return policies.retention_bytes != UNLIMITED and (
            self._consumed_bytes(consumed) > policies.retention_bytes
        )

    def _consumed_bytes(self, consumed: int) -> int:
        return self._log.log.size_bytes - self._log.index.bytes_from(consumed)

    # --- trimming

    async def deletable(self, consumed: int) -> list[LedgerInfo]:
        """The oldest closed ledgers that hold nothing but what everybody has consumed."""
        found: list[LedgerInfo] = []
        ledgers = self._log.log.record.ledgers
        for info, following in zip_longest(ledgers, ledgers[1:]):
            if info is None or not await self._is_consumed(info, following, consumed):
                break
            found.append(info)
        return found

    async def _is_consumed(
        self, info: LedgerInfo, following: LedgerInfo | None, consumed: int
    ) -> bool:
        if not info.closed_ms or info.entries < 0:
            return False
        if info.entries == 0:
            return True
        if following is None:
            return self._log.end_ordinal <= consumed
        end = await self._log.first_ordinal_of(following.ledger_id)
        return (self._log.end_ordinal if end is None else end) <= consumed

    def gone(self, deletable: Sequence[LedgerInfo]) -> int:
        """How many of the oldest consumed ledgers retention does not keep."""
        policies, log = self._host.policies, self._log.log
        now_ms, kept, size_bytes = self._clock.wall_ms(), 0, 0
        for info in reversed(deletable):
            size_bytes += log.bytes_of(info)
            if retained_until_ms(info, policies) <= now_ms or (
                policies.retention_bytes != UNLIMITED and size_bytes > policies.retention_bytes
            ):
                break
            kept += 1
        return len(deletable) - kept


def retained_until_ms(info: LedgerInfo, policies: TopicPolicies) -> float:
    """Until when a consumed ledger is kept, by the age of its newest message; infinite if for
    ever."""
    if policies.retention_minutes == UNLIMITED:
        return float("inf")
    return (info.last_append_ms or info.closed_ms) + policies.retention_minutes * MINUTE_MS


def _last_of(info: LedgerInfo) -> Position:
    return Position(info.ledger_id, EntryId(info.entries - 1))
