"""Ledgers over bookies and metadata: create, open, recover, delete.

The asyncio shell of the protocol cores. `LedgerStore` is one for a process; writers
(`ledger.writer_handle`) and readers come from it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from ledger.bookie_client import BookieClient
from ledger.distribution import QuorumCoverage
from ledger.health import BookieHealth
from ledger.ledger_record import LedgerRecords
from ledger.limits import LedgerLimits
from ledger.placement import Placement
from ledger.quorum import Quorums
from ledger.range_reading import RangeReading
from ledger.recovering import RecoveryAttempt, log_abort
from ledger.wire import NEGATIVES, ReadLacRequest, Status, StoredEntry
from ledger.writer import LedgerWriter
from ledger.writer_handle import LedgerWriterHandle
from magnetar.errors import (
    EntryNotFound,
    EntryUnknown,
    LedgerNotFound,
    MetadataError,
    RecoveryAborted,
)
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import Clock
from metadata.bookies import BookieDirectory
from metadata.ledgers import Fragment, LedgerMetadata, LedgerRepository, LedgerState

__all__ = ["LedgerLimits", "LedgerStore", "LedgerWriterHandle", "ReadHandle"]


class ReadHandle:
    """Reads one ledger up to `last_entry`: the end of a closed ledger, or what was confirmed
    when an open one was opened."""

    def __init__(
        self,
        records: LedgerRecords,
        reading: RangeReading,
        metadata: LedgerMetadata,
        version: int,
        last_entry: EntryId,
    ) -> None:
        self._records = records
        self._reading = reading
        self._version = version
        self.metadata = metadata
        self.last_entry = last_entry

    @property
    def ledger_id(self) -> LedgerId:
        return self.metadata.ledger_id

    async def read(
        self, first_entry: EntryId, max_entries: int, max_bytes: int
    ) -> list[StoredEntry]:
        """At least one entry, from `first_entry` on, contiguous, within the bounds.

        Raises EntryNotFound only for what certainly does not exist, EntryUnknown otherwise.
        """
        if first_entry > self.last_entry:
            raise self._beyond_end(first_entry)
        try:
            return await self._read(first_entry, max_entries, max_bytes)
        except (EntryUnknown, EntryNotFound):
            # Re-replication may have moved the copies since the record was read.
            if not await self._refreshed():
                raise
        return await self._read(first_entry, max_entries, max_bytes)

    async def _read(self, first: EntryId, max_entries: int, max_bytes: int) -> list[StoredEntry]:
        return await self._reading.read(
            self.metadata, first, self.last_entry, max_entries, max_bytes
        )

    async def _refreshed(self) -> bool:
        try:
            metadata, version = await self._records.repository.get(self.ledger_id)
        except MetadataError:
            return False
        if version == self._version:
            return False
        self.metadata, self._version = metadata, version
        return True

    def _beyond_end(self, entry_id: EntryId) -> EntryNotFound | EntryUnknown:
        if self.metadata.state is LedgerState.CLOSED:
            return EntryNotFound(f"ledger {self.ledger_id} ends at entry {self.last_entry}")
        return EntryUnknown(f"entry {entry_id} of ledger {self.ledger_id} is not confirmed")


class LedgerStore:
    """All ledgers, as one process sees them."""

    def __init__(
        self,
        ledgers: LedgerRepository,
        bookies: BookieDirectory,
        client: BookieClient,
        clock: Clock,
        random: random.Random,
        limits: LedgerLimits | None = None,
    ) -> None:
        self.limits = limits or LedgerLimits()
        self.clock = clock
        self.bookies = bookies
        self._client = client
        self._random = random
        self._placement = Placement(random)
        self._health = BookieHealth(bookies, clock, self.limits)
        self._records = LedgerRecords(ledgers, clock, self.limits)
        self._reading = RangeReading(client, self._health)

    async def create(
        self, quorums: Quorums, properties: tuple[tuple[str, str], ...] = ()
    ) -> LedgerWriterHandle:
        """A new ledger over the writable bookies; fewer than asked for make it smaller.

        Raises NotEnoughBookies below the ack quorum, ConnectionLoss, SessionExpired.
        """
        writable = self._health.writable()
        fitted = quorums.fitted(len(writable))
        usable = self._health.usable()
        chosen = self._placement.extend((), usable, fitted.ensemble_size)
        if len(chosen) < fitted.ensemble_size:
            chosen += self._placement.extend(
                chosen, writable, fitted.ensemble_size - len(chosen)
            )
        metadata = LedgerMetadata(
            ledger_id=await self._records.repository.allocate(),
            ensemble_size=fitted.ensemble_size,
            write_quorum=fitted.write_quorum,
            ack_quorum=fitted.ack_quorum,
            state=LedgerState.OPEN,
            fragments=(Fragment(EntryId(0), tuple(one.bookie_id for one in chosen)),),
            wanted_ensemble_size=quorums.ensemble_size,
            wanted_write_quorum=quorums.write_quorum,
            created_ms=self.clock.wall_ms(),
            properties=properties,
        )
        version = await self._records.repository.create(metadata)
        core = LedgerWriter(metadata, version, self._placement, self.limits.slow_bookie_bytes)
        return LedgerWriterHandle(
            core, self._client, self._records, self._reading, self._health, self.bookies,
            self.clock, self.limits,
        )

    async def open(self, ledger_id: LedgerId) -> ReadHandle:
        """Read without disturbing a writer (R15): an open ledger up to a LAC known now.

        Raises LedgerNotFound, EntryUnknown when too few bookies tell the LAC.
        """
        metadata, version = await self._records.repository.get(ledger_id)
        last_entry = metadata.last_entry
        if metadata.state is not LedgerState.CLOSED:
            last_entry = await self._confirmed(metadata)
        return ReadHandle(self._records, self._reading, metadata, version, last_entry)

    async def _confirmed(self, metadata: LedgerMetadata) -> EntryId:
        """The highest LAC told by enough of the last ensemble that one which never saw the
        ledger cannot make it look empty."""
        fragment = metadata.fragments[-1]
        request = ReadLacRequest(metadata.ledger_id)
        replies = await asyncio.gather(
            *(self._client.read_lac(bookie, request) for bookie in fragment.ensemble)
        )
        coverage = QuorumCoverage(
            Quorums(metadata.ensemble_size, metadata.write_quorum, metadata.ack_quorum)
        )
        confirmed = fragment.first_entry - 1
        for slot, reply in enumerate(replies):
            if reply.status is Status.OK:
                confirmed = max(confirmed, reply.last_add_confirmed)
            if reply.status is Status.OK or reply.status in NEGATIVES:
                coverage.answered(slot)
        if not coverage.covered:
            raise EntryUnknown(f"too few bookies tell how far ledger {metadata.ledger_id} is")
        return EntryId(confirmed)

    async def recover(self, ledger_id: LedgerId) -> ReadHandle:
        """Fence, find the end, close (R8-R14): ends the writer, so only for who takes over.

        Raises RecoveryAborted when it stayed uncertain, LedgerNotFound, SessionExpired.
        """
        for attempt in range(1, self.limits.recovery_attempts + 1):
            run = RecoveryAttempt(self._client, self._records, self._health, self._placement)
            try:
                metadata, version = await run.run(ledger_id)
            except RecoveryAborted as error:
                log_abort(ledger_id, error)
                if attempt == self.limits.recovery_attempts:
                    raise
                pause_s = self.limits.recovery_retry_s * attempt * (1 + self._random.random())
                await self.clock.sleep(pause_s)
            else:
                return ReadHandle(
                    self._records, self._reading, metadata, version, metadata.last_entry
                )
        raise RecoveryAborted(f"ledger {ledger_id}: no attempts are allowed")

    async def delete(self, ledger_id: LedgerId) -> None:
        """Forget the ledger; its bookies free the space. Absent already is fine."""
        await self._records.repository.delete(ledger_id)

    async def exists(self, ledger_id: LedgerId) -> bool:
        """Certain either way, or raises."""
        try:
            await self._records.repository.get(ledger_id)
        except LedgerNotFound:
            return False
        return True

    def on_bookies_changed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when a bookie comes, goes, or changes; answers how to cancel."""
        return self.bookies.on_change(callback)

    @property
    def writable_bookies(self) -> int:
        """How many bookies announce that they take new entries."""
        return len(self.bookies.writable())
