"""What comes into a topic's schedule: records in ledgers of their own, freed from the oldest on.

The topic's record lists the ledgers, under the compare-and-set that guards its log, so that
whoever takes the topic over fences both. The first append makes the chain: a topic without
delayed messages has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ledger.chain import EndedLedger, LedgerChain, OnAppended
from ledger.doomed_ledgers import delete_doomed, with_doomed
from ledger.driver import LedgerStore, LedgerWriterHandle, ReadHandle
from ledger.log_entry import LogEntry
from ledger.position import BEFORE_FIRST, Position
from ledger.quorum import Quorums
from ledger.schedule_runs import ScheduleRuns
from ledger.topic_record import OwnedTopic
from magnetar.errors import EntryNotFound, LedgerError, LedgerFenced
from magnetar.ids import EntryId, LedgerId
from metadata.topics import TopicRecord

MAX_LEDGER_BYTES: Final = 32 << 20
"""A full ledger makes room for the next: only whole ones are freed."""


class ScheduleLog:
    """Made by `ManagedLog.open`; fenced together with it."""

    def __init__(
        self,
        owned: OwnedTopic,
        ledgers: LedgerStore,
        quorums: Callable[[], Quorums],
        readers: Sequence[ReadHandle],
        on_fenced: Callable[[LedgerError], None],
    ) -> None:
        self._owned = owned
        self._ledgers = ledgers
        self._quorums = quorums
        self._on_fenced = on_fenced
        self._readers = {reader.ledger_id: reader for reader in readers}
        self._ends = {reader.ledger_id: reader.last_entry for reader in readers}
        self._sizes = {reader.ledger_id: reader.metadata.length_bytes for reader in readers}
        self.runs = ScheduleRuns(owned, ledgers, quorums, on_fenced)
        self._chain: LedgerChain | None = None
        self._error: LedgerError | None = None
        self.last_confirmed = BEFORE_FIRST
        """Highest stored entry of the ledgers that are kept; BEFORE_FIRST while there is none."""
        for reader in readers:
            if reader.last_entry >= 0:
                self.last_confirmed = Position(reader.ledger_id, reader.last_entry)

    @classmethod
    async def recover(
        cls, schedule_ledgers: Sequence[LedgerId], ledgers: LedgerStore
    ) -> list[ReadHandle]:
        """Close the ledgers. Raises RecoveryAborted."""
        return await asyncio.gather(*(ledgers.recover(one) for one in schedule_ledgers))

    @property
    def ledger_ids(self) -> tuple[LedgerId, ...]:
        """The ledgers that are kept, oldest first."""
        return self._owned.record.schedule_ledgers

    @property
    def pending_bytes(self) -> int:
        """Bytes appended and not yet stored."""
        return self._chain.pending_bytes if self._chain is not None else 0

    @property
    def blocked_reason(self) -> str | None:
        """Why appends wait, for an operator; None when nothing is in the way."""
        return self._chain.blocked_reason if self._chain is not None else None

    # -- writing -------------------------------------------------------------------------------

    def append(self, record: bytes, on_done: OnAppended) -> None:
        """Append in order; `on_done` as of `ManagedLog.append`."""
        if self._error is not None:
            asyncio.get_running_loop().call_soon(on_done, self._error)
            return
        if self._chain is None:
            self._chain = LedgerChain(
                f"schedule of {self._owned.record.name}", self._ledgers, self._quorums, self,
                _is_full, self._on_fenced,
            )

        def done(result: Position | LedgerError) -> None:
            if isinstance(result, Position):
                self.last_confirmed = result
            on_done(result)

        self._chain.append(record, done)

    async def roll(self) -> None:
        """End the open ledger, if it has entries, so that it can be freed. Raises LedgerFenced."""
        if self._chain is not None:
            await self._chain.roll()

    async def close(self) -> None:
        """Store what is in flight and take no more."""
        if self._chain is not None:
            await self._chain.close()

    def fence(self, error: LedgerError) -> None:
        """Stop for good."""
        self._error = self._error or error
        if self._chain is not None:
            self._chain.fence(error)

    @property
    def size_bytes(self) -> int:
        """Of the ledgers that are kept, as far as known."""
        writer = self._chain.writer if self._chain is not None else None
        open_bytes = writer.length_bytes if writer is not None else 0
        return open_bytes + sum(self._sizes.values())

    # -- freeing -------------------------------------------------------------------------------

    def oldest_behind(self, last_unneeded: Position) -> int:
        """The first ledger that `trim` would keep, or the least that the next may have."""
        for ledger_id in self.ledger_ids:
            if not self._is_unneeded(ledger_id, last_unneeded):
                return ledger_id
        return max(self.last_confirmed.ledger_id, last_unneeded.ledger_id) + 1

    async def trim(self, last_unneeded: Position) -> int:
        """Delete the closed ledgers with nothing behind this entry; answers how many.

        The list is written first: a leak is safe, the reverse would be loss (M6).
        """
        gone = [
            ledger_id for ledger_id in self.ledger_ids
            if self._is_unneeded(ledger_id, last_unneeded)
        ]
        if not gone:
            return 0

        def without(record: TopicRecord) -> TopicRecord:
            kept = tuple(one for one in record.schedule_ledgers if one not in gone)
            return with_doomed(replace(record, schedule_ledgers=kept), gone)

        try:
            await self._owned.update(without)
        except LedgerFenced as error:
            self._on_fenced(error)
            raise
        await self._forget(gone)
        return len(gone)

    def _is_unneeded(self, ledger_id: LedgerId, last_unneeded: Position) -> bool:
        """It is closed, and has nothing behind this entry; one may have been left empty by an
        owner that died as it opened it."""
        end = self._ends.get(ledger_id)
        return end is not None and (end < 0 or Position(ledger_id, end) <= last_unneeded)

    async def _forget(self, gone: Sequence[LedgerId]) -> None:
        for ledger_id in gone:
            self._readers.pop(ledger_id, None)
            self._ends.pop(ledger_id, None)
            self._sizes.pop(ledger_id, None)
        if gone:
            await delete_doomed(self._owned, self._ledgers)

    # -- the record, as the chain keeps it -----------------------------------------------------

    async def record_chain(
        self, ended: Sequence[EndedLedger], opened: LedgerId | None
    ) -> None:
        """See `ChainKeeper`; how a schedule's ledger ended is in its own record only."""
        empty = [one.ledger_id for one in ended if one.entries == 0]

        def changed(record: TopicRecord) -> TopicRecord:
            kept = tuple(one for one in record.schedule_ledgers if one not in empty)
            if opened is not None:
                if record.schedule_ledgers and opened <= record.schedule_ledgers[-1]:
                    raise LedgerFenced(
                        f"schedule ledger {opened} is not above {record.schedule_ledgers[-1]}"
                        f" of {record.name}"
                    )
                kept = (*kept, opened)
            return with_doomed(replace(record, schedule_ledgers=kept), empty)

        await self._owned.update(changed)
        for one in ended:
            self._ends[one.ledger_id] = EntryId(one.entries - 1)
            self._sizes[one.ledger_id] = one.size_bytes
        await self._forget(empty)
        if opened is not None:
            await self._owned.mark_scheduled(opened)

    async def may_name(self, ledger_id: LedgerId) -> bool:
        """See `ChainKeeper`."""
        return await self._owned.may_name(ledger_id)

    async def record_snapshot(self, opened: LedgerId | None) -> None:
        """See `ChainKeeper`: what came in is never replaced, only freed."""
        raise LedgerFenced("a schedule has no snapshots")

    # -- reading -------------------------------------------------------------------------------

    async def read_after(
        self, after: Position, max_entries: int, max_bytes: int
    ) -> list[LogEntry]:
        """Confirmed entries behind `after`, of one ledger, at least one if there is any.

        Raises EntryUnknown (try again later), EntryNotFound and LedgerNotFound (a loss)."""
        for ledger_id in self.ledger_ids:
            first = after.entry_id + 1 if ledger_id == after.ledger_id else 0
            if ledger_id < after.ledger_id or first > self._last_entry(ledger_id):
                continue
            return await self._read(ledger_id, EntryId(first), max_entries, max_bytes)
        return []

    async def entry_at(self, position: Position) -> bytes | None:
        """The entry, if it is one of those that are kept. Raises as `read_after`."""
        ledger_id = position.ledger_id
        if ledger_id not in self.ledger_ids or not (
            0 <= position.entry_id <= self._last_entry(ledger_id)
        ):
            return None
        found = await self._read(ledger_id, position.entry_id, 1, 1)
        return found[0].body

    def _last_entry(self, ledger_id: LedgerId) -> int:
        end = self._ends.get(ledger_id)
        if end is not None:
            return end
        last = self.last_confirmed
        return last.entry_id if last.ledger_id == ledger_id else -1

    async def _read(
        self, ledger_id: LedgerId, first: EntryId, max_entries: int, max_bytes: int
    ) -> list[LogEntry]:
        writer = self._chain.writer if self._chain is not None else None
        if writer is not None and writer.ledger_id == ledger_id:
            entries = await writer.read(first, max_entries, max_bytes)
        else:
            reader = self._readers.get(ledger_id)
            if reader is None or reader.last_entry < first:
                reader = self._readers[ledger_id] = await self._ledgers.open(ledger_id)
            entries = await reader.read(first, max_entries, max_bytes)
        if not entries:
            raise EntryNotFound(f"entry {first} of schedule ledger {ledger_id} is not there")
        return [
            LogEntry(Position(ledger_id, entry.entry_id), entry.body) for entry in entries
        ]


def _is_full(writer: LedgerWriterHandle, opened_s: float) -> bool:
    return writer.length_bytes + writer.pending_bytes >= MAX_LEDGER_BYTES
