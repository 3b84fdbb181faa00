"""Sorted runs of a topic's schedule, each in a closed ledger of its own.

A run is named in the topic's record before its first entry is written, as unfinished, so that
a crash leaves nothing behind: the next owner throws it away. It counts once the record says that
it is finished, by the same compare-and-set that takes off what it replaces.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from ledger.doomed_ledgers import delete_doomed, with_doomed
from ledger.driver import LedgerStore, LedgerWriterHandle, ReadHandle
from ledger.position import Position
from ledger.quorum import Quorums
from ledger.topic_record import OwnedTopic
from magnetar.errors import (
    EntryNotFound,
    LedgerClosed,
    LedgerError,
    LedgerFenced,
    MetadataError,
)
from magnetar.ids import EntryId, LedgerId
from metadata.topics import ScheduleRun, TopicRecord

UNFINISHED: Final = -1
PENDING_BYTES: Final = 2 << 20
"""Of one run being written, on their way to the bookies."""
MAX_OPEN_READERS: Final = 128


class Covered(NamedTuple):
    """How far the runs have what came in: up to this record, messages numbered below that."""

    record: Position
    sequence: int


class RunWriter:
    """One run on its way. Made by `ScheduleRuns.begin`."""

    def __init__(self, runs: ScheduleRuns, writer: LedgerWriterHandle) -> None:
        self._runs = runs
        self._writer = writer
        self._error: LedgerError | None = None
        self._moved = asyncio.Event()
        writer.on_stopped = self._stopped
        writer.on_stuck = lambda: self._stopped(LedgerClosed("its bookies are gone for good"))
        self.entries = 0
        self.size_bytes = 0

    @property
    def ledger_id(self) -> LedgerId:
        return self._writer.ledger_id

    async def write(self, body: bytes) -> None:
        """Append, waiting for room. Raises LedgerClosed, LedgerFenced: begin another run."""
        self._check()
        self._writer.add_nowait(body, self._added)
        self.entries += 1
        self.size_bytes += len(body)
        while self._writer.pending_bytes > PENDING_BYTES:
            await self._wait()

    async def complete(
        self, replaced: Sequence[LedgerId], covered: Covered | None
    ) -> ScheduleRun:
        """Wait until all is stored, close the ledger, and have the run count from then on, and
        those that it replaces no more. Raises as `write`."""
        while self._writer.last_add_confirmed + 1 < self.entries:
            await self._wait()
        await self._writer.close()
        run = ScheduleRun(self.ledger_id, self.entries, self.size_bytes)
        await self._runs.completed(run, replaced, covered)
        return run

    def abandon(self, reason: str) -> None:
        """Write no more."""
        self._writer.abandon(reason)

    async def _wait(self) -> None:
        self._check()
        self._moved.clear()
        await self._moved.wait()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _added(self, result: EntryId | LedgerError) -> None:
        if isinstance(result, LedgerError):
            self._stopped(result)
        self._moved.set()

    def _stopped(self, error: LedgerError) -> None:
        if self._writer.last_add_confirmed + 1 < self.entries or not isinstance(
            error, LedgerClosed
        ):
            self._error = self._error or error
        self._moved.set()


class ScheduleRuns:
    """The runs that a topic's record names."""

    def __init__(
        self, owned: OwnedTopic, ledgers: LedgerStore, quorums: Callable[[], Quorums],
        on_fenced: Callable[[LedgerError], None],
    ) -> None:
        self._owned = owned
        self._ledgers = ledgers
        self._quorums = quorums
        self._on_fenced = on_fenced
        self._readers: OrderedDict[LedgerId, ReadHandle] = OrderedDict()

    @property
    def finished(self) -> tuple[ScheduleRun, ...]:
        """Those that count."""
        return tuple(
            run for run in self._owned.record.schedule_runs if run.entries != UNFINISHED
        )

    @property
    def covered(self) -> Covered:
        """How far they have what came in."""
        record = self._owned.record
        ledger_id, entry_id = record.schedule_covered
        return Covered(
            Position(LedgerId(ledger_id), EntryId(entry_id)), record.schedule_covered_sequence
        )

    async def begin(self) -> RunWriter:
        """A new run, named already. Raises NotEnoughBookies, ConnectionLoss, LedgerFenced."""
        writer = RunWriter(self, await self._ledgers.create(self._quorums()))
        try:
            await self._update(lambda record: replace(
                record, schedule_runs=(*record.schedule_runs, ScheduleRun(writer.ledger_id))
            ))
        except LedgerError as error:
            writer.abandon(str(error))
            if not await self._owned.may_name(writer.ledger_id):
                with contextlib.suppress(MetadataError):
                    await self._ledgers.delete(writer.ledger_id)
            raise
        return writer

    async def completed(
        self, run: ScheduleRun, replaced: Sequence[LedgerId], covered: Covered | None
    ) -> None:
        """The run is written and closed: from now on it counts, those it replaces do not.
        Raises LedgerFenced."""

        def changed(record: TopicRecord) -> TopicRecord:
            kept = tuple(
                run if one.ledger_id == run.ledger_id else one
                for one in record.schedule_runs if one.ledger_id not in replaced
            )
            if covered is not None:
                record = replace(
                    record,
                    schedule_covered=(covered.record.ledger_id, covered.record.entry_id),
                    schedule_covered_sequence=covered.sequence,
                )
            return with_doomed(replace(record, schedule_runs=kept), replaced)

        await self._update(changed)
        await self._deleted(replaced)

    async def drop(self, ledger_ids: Sequence[LedgerId]) -> None:
        """These runs do not count any more. Raises LedgerFenced."""
        if ledger_ids:
            await self._update(lambda record: _without(record, ledger_ids))
            await self._deleted(ledger_ids)

    async def drop_unfinished(self) -> None:
        """What an earlier owner, or a failed attempt, left behind."""
        await self.drop([
            run.ledger_id for run in self._owned.record.schedule_runs
            if run.entries == UNFINISHED
        ])

    async def read(
        self, ledger_id: LedgerId, first: int, max_entries: int, max_bytes: int
    ) -> list[bytes]:
        """Entries of a finished run from `first` on, at least one, within the bounds.

        Raises EntryUnknown (try again later), EntryNotFound and LedgerNotFound (a loss, of a run
        that still counts)."""
        reader = self._readers.get(ledger_id)
        if reader is None:
            reader = self._readers[ledger_id] = await self._ledgers.open(ledger_id)
            while len(self._readers) > MAX_OPEN_READERS:
                self._readers.popitem(last=False)
        else:
            self._readers.move_to_end(ledger_id)
        entries = await reader.read(EntryId(first), max_entries, max_bytes)
        if not entries:
            raise EntryNotFound(f"entry {first} of run {ledger_id} is not there")
        return [entry.body for entry in entries]

    async def _update(self, change: Callable[[TopicRecord], TopicRecord]) -> None:
        try:
            await self._owned.update(change)
        except LedgerFenced as error:
            self._on_fenced(error)
            raise

    async def _deleted(self, ledger_ids: Sequence[LedgerId]) -> None:
        for ledger_id in ledger_ids:
            self._readers.pop(ledger_id, None)
        await delete_doomed(self._owned, self._ledgers)


def _without(record: TopicRecord, ledger_ids: Sequence[LedgerId]) -> TopicRecord:
    kept = tuple(one for one in record.schedule_runs if one.ledger_id not in ledger_ids)
    return with_doomed(replace(record, schedule_runs=kept), ledger_ids)
