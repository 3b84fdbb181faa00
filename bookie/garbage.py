"""Deletes what no ledger needs any more (R19), then compacts.

A ledger's data go only when a read of the metadata said, by name, that the ledger does not
exist. An error, a lost link or an empty list is no such answer: a list only tells which ledgers
are worth asking for. Tombstones stay a while, so that a late add does not bring a deleted ledger
back.

A round is cheap enough to come every few seconds: one list tells of up to 4096 ledgers, and where
the bookie's ledgers are scattered over more lists than a round reads, the newest come each time,
for most of what is deleted is new, and the others in turn.
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
FOLDER_BITS: Final = 12
"""One list of the metadata has the ledgers whose ids differ in so many low bits."""
NEWEST_LISTS: Final = 256
OTHER_LISTS: Final = 256
"""Lists read in a round: of the newest ledgers, and of the others in turn."""
ROUNDS_A_WALK: Final = 240
"""The index is walked every so many rounds: for ledgers of which only a state is here, and for
tombstones that are old enough."""
DELETED_AT_ONCE: Final = 32

LedgerExists = Callable[[LedgerId], Awaitable[bool]]
"""Whether the metadata hold the ledger: certain, or raises MetadataError."""

ListedBeside = Callable[[LedgerId], Awaitable[frozenset[LedgerId]]]
"""The ledgers in one list with this one, as the metadata say, or raises MetadataError."""

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
        listed_beside: ListedBeside,
        compactor: Compactor,
        clock: Clock,
        *,
        interval_s: float = 15.0,
    ) -> None:
        self._storage = storage
        self._exists = exists
        self._listed_beside = listed_beside
        self._compactor = compactor
        self._clock = clock
        self._interval_s = interval_s
        self._turn = asyncio.Lock()
        self._others_from = 0
        self.rounds = 0
        self.last = GarbageResult()

    async def run(self) -> None:
        """Collect for ever."""
        while True:
            await self._clock.sleep(self._interval_s)
            try:
                await self.collect(whole=self.rounds % ROUNDS_A_WALK == 0)
            except StorageError as error:
                _log.warning("collecting garbage: %s", error)
            except Exception:
                # The next round must come: a bookie that never frees space ends read-only.
                _log.exception("collecting garbage failed")

    async def collect(self, *, whole: bool = True) -> GarbageResult:
        """One round, over all ledgers if `whole`. Raises StorageError when the disk or the index
        refused."""
        async with self._turn:
            ledgers = await self._storage.ledger_ids() if whole else self._stored()
            deleted, complete = await self._delete_absent(self._by_list(ledgers, whole))
            if whole:
                now_ms = self._clock.wall_ms()
                await self._storage.prune_tombstones(now_ms - TOMBSTONE_AGE_MS)
            compaction = await self._compactor.compact()
            self.rounds += 1
            self.last = GarbageResult(deleted, complete, compaction)
            return self.last

    def _stored(self) -> list[LedgerId]:
        """Ledgers with entries here; what only memory has yet is not garbage yet."""
        return sorted(self._storage.files.usage.ledgers())

    def _by_list(self, ledgers: list[LedgerId], whole: bool) -> list[list[LedgerId]]:
        """The ledgers that are in one list, for each list that is to be read now."""
        lists: dict[int, list[LedgerId]] = {}
        for ledger_id in ledgers:
            lists.setdefault(ledger_id >> FOLDER_BITS, []).append(ledger_id)
        found = list(lists.values())
        if whole or len(found) <= NEWEST_LISTS + OTHER_LISTS:
            return found
        newest, others = found[-NEWEST_LISTS:], found[:-NEWEST_LISTS]
        start = self._others_from % len(others)
        self._others_from = start + OTHER_LISTS
        return [*newest, *(others[start:] + others[:start])[:OTHER_LISTS]]

    async def _delete_absent(self, lists: list[list[LedgerId]]) -> tuple[int, bool]:
        deleted = 0
        try:
            for ledgers in lists:
                await asyncio.sleep(0)  # metadata in this process answer without a pause
                listed = await self._listed_beside(ledgers[0])
                suspects = [ledger_id for ledger_id in ledgers if ledger_id not in listed]
                for start in range(0, len(suspects), DELETED_AT_ONCE):
                    some = suspects[start : start + DELETED_AT_ONCE]
                    absent = await self._absent(some)
                    done = await asyncio.gather(*map(self._storage.delete_ledger, absent))
                    deleted += sum(done)
                    for ledger_id in absent:
                        _log.info("deleted ledger %d, which the metadata do not know", ledger_id)
        except MetadataError as error:
            _log.info("no garbage is deleted while the metadata do not answer: %s", error)
            return deleted, False
        return deleted, True

    async def _absent(self, suspects: list[LedgerId]) -> list[LedgerId]:
        """Those of them that certainly do not exist."""
        return [ledger_id for ledger_id in suspects if not await self._exists(ledger_id)]
