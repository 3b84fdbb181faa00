"""What an earlier owner gave up, and did not get into the dead-letter topic.

It goes there now, whether or not somebody is attached.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from broker.cursor import Cursor, full_mask
from broker.dispatch.returns import Returns
from broker.redelivery import RedeliveryCounts
from broker.settings import BrokerLimits
from broker.stored_entry import StoredEntry
from broker.topic_log import TopicLog
from magnetar.errors import MagnetarError
from magnetar.runtime.clock import Clock

READ_ENTRIES = 100


class UnburiedHost(Protocol):
    """What is asked of the subscription."""

    cursor: Cursor
    counts: RedeliveryCounts

    @property
    def max_deliveries(self) -> int: ...


class Unburied:
    """Of one subscription."""

    def __init__(
        self, host: UnburiedHost, returns: Returns, log: TopicLog, limits: BrokerLimits,
        clock: Clock,
    ) -> None:
        self._host = host
        self._returns = returns
        self._log = log
        self._limits = limits
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    @property
    def looking(self) -> bool:
        """There may be more than was found yet."""
        return self._task is not None and not self._task.done()

    def look(self) -> None:
        """The topic was loaded."""
        if self._host.max_deliveries:
            ordinals = self._host.counts.delivered_at_least(self._host.max_deliveries)
            if ordinals:
                self._task = asyncio.get_running_loop().create_task(self._look(ordinals))

    def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _look(self, ordinals: list[int]) -> None:
        end = 0
        for ordinal in ordinals:
            if ordinal >= end:
                end = await self._give_up_from(ordinal)

    async def _give_up_from(self, ordinal: int) -> int:
        """Look at some entries from this ordinal on; answers with the first one behind them."""
        while True:
            try:
                after = await self._log.before_ordinal(ordinal)
                entries = await self._log.read(
                    after, READ_ENTRIES, self._limits.read_ahead_bytes)
                break
            except MagnetarError:  # unknown is not no
                await self._clock.sleep(self._limits.read_retry_s)
        for entry in entries:
            if entry.first_ordinal in self._host.counts:
                self._give_up(entry)
        return max([ordinal + 1, *(entry.end_ordinal for entry in entries)])

    def _give_up(self, entry: StoredEntry) -> None:
        host, first = self._host, entry.first_ordinal
        mask = full_mask(entry.count) & ~host.cursor.mask(first, entry.count)
        for part, history in host.counts.split(first, mask) if mask else ():
            if 0 < host.max_deliveries <= history.count:
                self._returns.give_up(entry, part, history.count, history.reason)
