"""The bytes of entries that wait: kept while there is room for them, else read again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Container

from broker.dispatch.flights import Key
from broker.settings import BrokerLimits
from broker.stored_entry import StoredEntry
from broker.topic_log import TopicLog
from ledger.position import Position
from magnetar.errors import MagnetarError
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import Clock

RUN_ENTRIES = 100
"""Neighbours that wait as well are read together, up to so many."""


class Bodies:
    """At most `read_ahead_bytes`, or one entry. `wake` is called when some could be read, `gone`
    with the key of one that is not there any more."""

    def __init__(
        self, log: TopicLog, limits: BrokerLimits, clock: Clock, waiting: Container[Key],
        wake: Callable[[], None], gone: Callable[[Key], None],
    ) -> None:
        self._log = log
        self._limits = limits
        self._clock = clock
        self._waiting = waiting
        self._wake = wake
        self._gone = gone
        self._kept: OrderedDict[Key, StoredEntry] = OrderedDict()
        self._kept_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self.problem: str | None = None
        """Why nothing can be read, if so."""

    def get(self, key: Key) -> StoredEntry | None:
        """The entry if it is at hand; if not it is being read, or will be when asked again."""
        entry = self._kept.get(key) or self._log.cached(*key)
        if entry is None and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._read(key))
        return entry

    def keep(self, entry: StoredEntry) -> None:
        """It is at hand, and is going to be asked for."""
        key = (entry.ledger_id, entry.entry_id)
        if key in self._kept:
            return
        self._kept[key] = entry
        self._kept_bytes += len(entry.body)
        while self._kept_bytes > self._limits.read_ahead_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest.body)

    def drop(self, key: Key) -> None:
        """It is not needed any more."""
        entry = self._kept.pop(key, None)
        if entry is not None:
            self._kept_bytes -= len(entry.body)

    def close(self) -> None:
        """Stop reading, keep nothing."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._kept.clear()
        self._kept_bytes = 0
        self.problem = None

    async def _read(self, key: Key) -> None:
        ledger_id, entry_id = key
        run = 1
        while (ledger_id, entry_id + run) in self._waiting and run < RUN_ENTRIES:
            run += 1
        after = Position(LedgerId(ledger_id), EntryId(entry_id - 1))
        found: list[StoredEntry] = []
        while key in self._waiting:
            try:
                found = await self._log.read(after, run, self._limits.read_ahead_bytes)
                if found:
                    break
            except MagnetarError as error:
                # Unknown is not no: the entries are there, only nobody could give them now.
                self.problem = f"cannot read after {after}: {error}"
            await self._clock.sleep(self._limits.read_retry_s)
        self._task = None
        self.problem = None
        for entry in reversed(found):  # the one that was asked for is to stay longest
            if (entry.ledger_id, entry.entry_id) in self._waiting:
                self.keep(entry)
        if found and (found[0].ledger_id, found[0].entry_id) != key and key in self._waiting:
            # Trimmed meanwhile, which happens to acknowledged or non-durable entries only.
            self._gone(key)
        self._wake()
