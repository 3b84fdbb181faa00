"""Keeps topics in memory within their bounds: the oldest messages go, and are counted.

A topic has a bound of its own, and all topics of a broker together have one. Where the second is
reached, the topic that began no segment for the longest time loses first. What goes without
having been acknowledged by every subscription is dropped: counted for the topic, for each
subscription and for the broker, and told in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

from broker.memory_log import MemoryLog
from broker.publishing import TopicCounters
from broker.subscription import Subscription
from broker.topic_log import TopicLog

_log = logging.getLogger(__name__)


class KeptTopic(Protocol):
    """What a keeper needs of its topic."""

    @property
    def name(self) -> str: ...

    def durable_subscriptions(self) -> Iterable[Subscription]:
        """Those that remember what they have, as long as the topic is there."""


class MemoryBudget:
    """Bytes of all topics in memory, and who is to give some back."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._keepers: OrderedDict[MemoryKeeper, None] = OrderedDict()
        self._enforcing = False

    def added(self, size_bytes: int) -> None:
        """Bytes came, or went if below 0."""
        self.used_bytes += size_bytes
        if self.used_bytes > self.limit_bytes and not self._enforcing:
            self._enforcing = True
            asyncio.get_running_loop().call_soon(self._enforce)

    def used_now(self, keeper: MemoryKeeper) -> None:
        """It began a segment: it is the last one to lose any."""
        self._keepers[keeper] = None
        self._keepers.move_to_end(keeper)

    def forget(self, keeper: MemoryKeeper) -> None:
        """Its topic ended."""
        self._keepers.pop(keeper, None)

    def _enforce(self) -> None:
        self._enforcing = False
        while self.used_bytes > self.limit_bytes and self._keepers:
            keeper = next(iter(self._keepers))
            if not keeper.drop_oldest():
                del self._keepers[keeper]  # comes back with its next segment


class MemoryKeeper:
    """Of one topic."""

    def __init__(self, budget: MemoryBudget, counters: TopicCounters, limit_bytes: int) -> None:
        self._budget = budget
        self._counters = counters
        self._limit_bytes = limit_bytes
        self._topic: KeptTopic | None = None
        self._log: TopicLog | None = None
        self._memory: MemoryLog | None = None
        self._enforcing = False
        self._told = 0
        self.dropped_messages = 0
        """Those that went without having been acknowledged by every subscription."""
        self.dropped_of: dict[str, int] = {}
        """The same, by subscription."""

    def keep(self, topic: KeptTopic, log: TopicLog, memory: MemoryLog) -> None:
        """What is to be kept within its bounds from now on."""
        self._topic, self._log, self._memory = topic, log, memory

    def segment_began(self) -> None:
        """Look soon at how much there is."""
        self._budget.used_now(self)
        if not self._enforcing:
            self._enforcing = True
            asyncio.get_running_loop().call_soon(self._enforce)

    def _enforce(self) -> None:
        self._enforcing = False
        while self._memory is not None and self._memory.held_bytes > self._limit_bytes:
            if not self.drop_oldest():
                break

    def drop_oldest(self) -> bool:
        """Drop a segment; False when there is none."""
        if self._memory is None or self._log is None or not self._memory.record.ledgers:
            return False
        begins = self._first_ordinal()
        self._memory.drop_oldest()
        self._log.forget_ledgers()
        self._count(begins, self._first_ordinal())
        return True

    def ended(self) -> None:
        """The topic is to go, with all that is in it."""
        if self._log is not None:
            self._count(self._first_ordinal(), self._log.end_ordinal, moved=False)
            self.tell()
        self._budget.forget(self)
        self._topic = self._log = self._memory = None

    def tell(self) -> None:
        """Say in the log what was dropped since the last time."""
        if self.dropped_messages > self._told and self._topic is not None:
            _log.warning(
                "%s: dropped %d messages that not every subscription had acknowledged: it is kept"
                " in memory only, up to %d bytes", self._topic.name,
                self.dropped_messages - self._told, self._limit_bytes,
            )
            self._told = self.dropped_messages

    def _first_ordinal(self) -> int:
        assert self._log is not None and self._memory is not None
        ledgers = self._memory.record.ledgers
        first = self._log.index.first_ordinal_of(ledgers[0].ledger_id) if ledgers else None
        return self._log.end_ordinal if first is None else first

    def _count(self, begins: int, ends: int, *, moved: bool = True) -> None:
        """Messages from one ordinal to another are gone; subscriptions are `moved` past them."""
        assert self._topic is not None
        acknowledged = begins
        for number, subscription in enumerate(self._topic.durable_subscriptions()):
            floor = subscription.cursor.floor
            acknowledged = floor if not number else min(acknowledged, floor)
            lost = subscription.backlog_messages
            if moved:
                subscription.pass_trimmed(ends)
                lost -= subscription.backlog_messages
            if lost:
                name = subscription.name
                self.dropped_of[name] = self.dropped_of.get(name, 0) + lost
        dropped = max(ends - max(acknowledged, begins), 0)
        self.dropped_messages += dropped
        self._counters.dropped_messages += dropped
