"""Deletes what no ledger needs any more (R19), then compacts.

A ledger's data go only when a read of the metadata said, by name, that the ledger does not
exist. An error, a lost link or an empty list is no such answer. Tombstones stay a while, so
that a late add does not bring a deleted ledger back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from bookie.compaction import CompactionResult, Compactor
from bookie.storage import BookieStorage
from magnetar.errors import MetadataError, StorageError
from magnetar.ids import LedgerId
from magnetar.runtime.clock import Clock

TOMBSTONE_AGE_MS: Final = 24 * 3600 * 1000

LedgerExists = Callable[[LedgerId], Awaitable[bool]]
"""Whether the metadata hold the ledger: certain, or raises MetadataError."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GarbageResult:
    """What one round did; `complete` is False when the metadata did not answer."""

    deleted_ledgers: int = 0
    complete: bool = True
    compaction: CompactionResult = field(default_factory=CompactionResult)


class GarbageCollector:
    """One round at a time, each so often or by command."""

    def __init__(
        self,
        storage: BookieStorage,
        exists: LedgerExists,
        compactor: Compactor,
        clock: Clock,
        *,
        interval_s: float = 300.0,
    ) -> None:
        self._storage = storage
        self._exists = exists
        self._compactor = compactor
        self._clock = clock
        self._interval_s = interval_s
        self._turn = asyncio.Lock()
        self.rounds = 0

    async def run(self) -> None:
        """Collect for ever."""
        while True:
            await self._clock.sleep(self._interval_s)
            try:
                await self.collect()
            except StorageError as error:
                _log.warning("collecting garbage: %s", error)
            except Exception:
                # The next round must come: a bookie that never frees space ends read-only.
                _log.exception("collecting garbage failed")

    async def collect(self) -> GarbageResult:
        """One round. Raises StorageError when the disk or the index refused."""
        async with self._turn:
            deleted, complete = await self._delete_absent()
            now_ms = self._clock.wall_ms()
            await self._storage.prune_tombstones(now_ms - TOMBSTONE_AGE_MS)
            compaction = await self._compactor.compact()
            self.rounds += 1
            return GarbageResult(deleted, complete, compaction)

    async def _delete_absent(self) -> tuple[int, bool]:
        deleted = 0
        for ledger_id in await self._storage.ledger_ids():
            try:
                exists = await self._exists(ledger_id)
            except MetadataError as error:
                _log.info("no garbage is deleted while the metadata do not answer: %s", error)
                return deleted, False
            if not exists and await self._storage.delete_ledger(ledger_id):
                _log.info("deleted ledger %d, which the metadata do not know", ledger_id)
                deleted += 1
        return deleted, True
