"""Walks a topic's log for one subscription: from the tail cache, else by range reads ahead."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from broker.settings import BrokerLimits
from broker.stored_entry import StoredEntry
from broker.topic_log import TopicLog
from ledger.position import Position
from magnetar.errors import MagnetarError
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import Clock


class LogReader:
    """`next()` hands out confirmed entries in order, or None; then `wake` is called once more
    can be had. One read is under way at a time, and at most `read_ahead_bytes` are held.
    """

    def __init__(
        self, log: TopicLog, limits: BrokerLimits, clock: Clock, wake: Callable[[], None]
    ) -> None:
        self._log = log
        self._limits = limits
        self._clock = clock
        self._wake = wake
        self._buffer: deque[StoredEntry] = deque()
        self._buffered_bytes = 0
        self._ledger_id = -1
        self._entry_id = -1
        self._task: asyncio.Task[None] | None = None
        self.problem: str | None = None

    def seek(self, after: Position) -> None:
        """Go on with what comes after `after`."""
        self.close()
        self._ledger_id, self._entry_id = after.ledger_id, after.entry_id

    @property
    def at_end(self) -> bool:
        """Everything stored was handed out."""
        last = self._log.last_position
        return not self._buffer and (self._ledger_id, self._entry_id) >= (
            last.ledger_id, last.entry_id)

    def close(self) -> None:
        """Stop reading and drop what was read ahead."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._buffer.clear()
        self._buffered_bytes = 0

    def next(self) -> StoredEntry | None:
        """The next entry, which then counts as handed out."""
        if self._buffer:
            entry = self._buffer.popleft()
            self._buffered_bytes -= len(entry.body)
            if self._task is None and self._buffered_bytes < self._limits.read_ahead_bytes // 2:
                newest = self._buffer[-1] if self._buffer else entry
                self._read_after(newest.ledger_id, newest.entry_id)
        else:
            cached = self._log.cached(self._ledger_id, self._entry_id + 1)
            if cached is None:
                if self._task is None:
                    self._read_after(self._ledger_id, self._entry_id)
                return None
            entry = cached
        self._ledger_id, self._entry_id = entry.ledger_id, entry.entry_id
        return entry

    def _read_after(self, ledger_id: int, entry_id: int) -> None:
        after = Position(LedgerId(ledger_id), EntryId(entry_id))
        if after >= self._log.last_position:
            return
        if self._log.cached(ledger_id, entry_id + 1) is not None:
            return
        self._task = asyncio.get_running_loop().create_task(self._read(after))

    async def _read(self, after: Position) -> None:
        while True:
            try:
                found = await self._log.read(
                    after, self._limits.read_ahead_entries, self._limits.read_ahead_bytes
                )
                self.problem = None
                break
            except MagnetarError as error:
                # Unknown is not no: the entries are there, only nobody could give them now.
                self.problem = f"cannot read after {after}: {error}"
                await self._clock.sleep(self._limits.read_retry_s)
        self._task = None
        self._buffer.extend(found)
        self._buffered_bytes += sum(len(entry.body) for entry in found)
        if found:
            self._wake()
