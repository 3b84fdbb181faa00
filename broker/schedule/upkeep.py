"""Keeps a schedule small in memory and on the bookies: writes runs, merges them, drops spent ones.

    table in memory ── flush ──▶ run ┐
                                 run ├─ merge ──▶ run      a run all of which has fired ──▶ gone
                                 run ┘

Two tasks at most, one that flushes and one that merges. What cannot be written now is tried
again: until a run counts, the schedule's own ledgers hold all that it is made of.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from broker.schedule.core import NOTHING, ScheduleCore
from broker.schedule.memtable import Memtable
from broker.schedule.runs import scan
from broker.schedule.runs.blocks import Fate, Name
from broker.schedule.runs.builder import RunBuilder
from broker.schedule.runs.reader import RunReader
from broker.schedule.runs.run import Run
from broker.schedule.runs.store import RunSink, RunStore
from broker.settings import BrokerLimits
from ledger.schedule_runs import Covered
from magnetar.entry import ScheduleMark, SchedulePlace
from magnetar.errors import LedgerFenced, MagnetarError, NotOwner, SessionExpired
from magnetar.ids import LedgerId
from magnetar.runtime.clock import Clock

RETRY_S: Final = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a flush writes, and up to which record it covers what came in."""

    table: Memtable
    changes: list[tuple[SchedulePlace, ScheduleMark | None]]
    covered: Covered


class Upkeep:
    """Of one topic's schedule. `freeze` pauses firing, takes the core's table and says how far
    the records are in it; `fired` is how far the log durably has the schedule, `oldest_ledger` the
    first of its own ledgers that is kept."""

    def __init__(
        self, core: ScheduleCore, store: RunStore, reader: RunReader, clock: Clock,
        freeze: Callable[[], Awaitable[Covered]], fired: Callable[[], ScheduleMark],
        oldest_ledger: Callable[[], int], changed: Callable[[], None],
        failed: Callable[[MagnetarError], None], limits: BrokerLimits,
    ) -> None:
        self._core = core
        self._store = store
        self._reader = reader
        self._clock = clock
        self._freeze = freeze
        self._fired = fired
        self._oldest_ledger = oldest_ledger
        self._changed = changed
        self._failed = failed
        self._limits = limits
        self._flushing: asyncio.Task[None] | None = None
        self._merging: asyncio.Task[None] | None = None
        self._merged: set[LedgerId] = set()
        """Runs of which one is being made."""
        self.flushes = 0
        self.merges = 0
        self.blocked_reason: str | None = None

    # -- what is due ---------------------------------------------------------------------------

    def flush(self) -> asyncio.Task[None]:
        """Write what waits in memory to a run; once begun it goes on until that is done."""
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(
                self._flush(), name="schedule flush"
            )
        return self._flushing

    @property
    def is_flushing(self) -> bool:
        return self._flushing is not None

    async def tidy(self) -> None:
        """Drop runs of which nothing is needed any more, and begin a merge if one is worth it.
        Raises LedgerFenced."""
        while spent := self._spent():
            self._core.replace_runs(spent, None)
            await self._store.drop(spent)
        self._core.pass_tombs(self._fired())
        if self._merging is None:
            chosen = self._worth_merging()
            if chosen:
                self.merge(chosen)

    def _spent(self) -> list[LedgerId]:
        """Runs that nobody needs any more."""
        core, fired = self._core, self._fired()
        if fired == core.logged:
            every = self._needless(core.handed)
            if len(every) == len(core.runs) and not core.buries_behind(fired):
                return every  # what is behind `fired` is buried, and goes with its tombs
        return self._needless(fired)

    def _needless(self, passed: ScheduleMark) -> list[LedgerId]:
        """Runs that were passed wholly, and without which neither the others nor the schedule's
        ledgers mislead those who ask for messages that were cancelled or moved."""
        oldest_ledger = self._oldest_ledger()
        needless: list[Run] = []
        kept: list[Run] = []
        for run in self._core.runs.values():
            changed = run.foot.names.changed
            is_named = not changed.is_empty and changed.last.ledger_id >= oldest_ledger
            is_needed = run.foot.last > passed or is_named or run.ledger_id in self._merged
            (kept if is_needed else needless).append(run)
        while misleading := [
            run for run in needless
            if any(run.foot.names.changed.meets(other.foot.names.every) for other in kept)
        ]:
            kept += misleading
            needless = [run for run in needless if run not in misleading]
        return [run.ledger_id for run in needless]

    def merge(self, runs: Sequence[Run]) -> asyncio.Task[None]:
        """Make one run of these."""
        assert self._merging is None, "one merge at a time"
        self._merged = {run.ledger_id for run in runs}
        self._merging = asyncio.get_running_loop().create_task(
            self._merge(runs), name="schedule merge"
        )
        return self._merging

    def _worth_merging(self) -> list[Run]:
        runs, limits = list(self._core.runs.values()), self._limits
        live = {run.ledger_id: _live_bytes(run) for run in runs}
        if len(runs) > limits.schedule_runs:
            runs.sort(key=lambda run: live[run.ledger_id])
            return runs[:limits.schedule_runs_merged]
        buried = sum(run.tombs.left for run in runs)
        messages = sum(run.messages.left for run in runs)
        all_live = sum(live.values())
        if buried * 2 > messages and all_live > limits.schedule_garbage_bytes:
            return runs  # tombs and what they bury meet only where all are
        if sum(run.size_bytes for run in runs) < 2 * all_live + limits.schedule_garbage_bytes:
            return []
        runs.sort(key=lambda run: live[run.ledger_id] / max(run.foot.message_bytes, 1))
        chosen: list[Run] = []
        size_bytes = 0
        for run in runs:
            size_bytes += live[run.ledger_id]
            if chosen and size_bytes > limits.schedule_merge_bytes:
                break
            if live[run.ledger_id] * 2 < run.foot.message_bytes:
                chosen.append(run)
        return chosen

    def stop(self) -> None:
        """The topic closes; what is unfinished the next owner throws away."""
        for task in (self._flushing, self._merging):
            if task is not None:
                task.cancel()

    # -- flushing ------------------------------------------------------------------------------

    async def _flush(self) -> None:
        try:
            covered = await self._freeze()
            table = self._core.frozen
            assert table is not None, "it was frozen just now"
            frozen = Frozen(table, self._core.history.take_fresh(self._is_needed), covered)
            run = None
            if frozen.changes or not table.is_empty:
                run = await self._until_written(lambda: self.write_table(frozen))
                self.flushes += 1
            self._core.thaw(run)
            self._core.history.written(frozen.changes)
            self._core.history.forget(self._is_needed)
        except Exception as error:
            self._ended("flush", error)
        finally:
            self._flushing = None
            self._changed()

    async def write_table(self, frozen: Frozen) -> Run:
        """The run of what was in memory, once it counts. Raises what writing raises."""
        builder = RunBuilder(self._limits.schedule_blocks)
        writer = await self._store.begin()
        try:
            for mark, due in frozen.table.kept():
                await _put(writer, builder.add(mark, due))
            await _put(writer, builder.end_messages())
            for mark in sorted(frozen.table.tombs):
                await _put(writer, builder.add_tomb(mark))
            await _put(writer, builder.end_tombs())
            for name in self._names(frozen):
                await _put(writer, builder.add_name(name))
            await _put(writer, builder.end_names())
            return await self._completed(writer, builder, (), frozen.covered)
        except BaseException as error:
            writer.abandon(f"its run is given up: {error}")
            raise

    def _names(self, frozen: Frozen) -> Iterator[Name]:
        """Of all that waited, and of what was cancelled or moved since the last flush."""
        changed = {
            place: Name(place, batch.least, Fate.MOVED)
            for place, batch in frozen.table.moved.items() if not batch.was_withdrawn(0)
        }
        for place, mark in frozen.changes:
            changed[place] = (
                Name(place, NOTHING, Fate.CANCELLED) if mark is None
                else Name(place, mark, Fate.MOVED)
            )
        waited = (
            Name(batch.place_of(index), batch.mark_of(index), Fate.SCHEDULED)
            for batch in frozen.table.batches.values() if batch.named is None
            for index in range(batch.count)
            if not batch.was_withdrawn(index) and batch.place_of(index) not in changed
        )
        return heapq.merge(waited, sorted(changed.values()))

    def _is_needed(self, place: SchedulePlace) -> bool:
        return self._core.is_needed(place, self._oldest_ledger())

    async def _until_written(self, write: Callable[[], Awaitable[Run]]) -> Run:
        while True:
            try:
                if not self._busy:
                    await self._store.drop_unfinished()
                run = await write()
            except (LedgerFenced, SessionExpired):
                raise
            except MagnetarError as error:
                _log.warning("a schedule's run is not written: %s", error)
                self.blocked_reason = f"a run of the schedule cannot be written: {error}"
                await self._clock.sleep(RETRY_S)
            else:
                self.blocked_reason = None
                return run

    @property
    def _busy(self) -> bool:
        """Both tasks are at work, so that what is unfinished may be the other's."""
        return self._flushing is not None and self._merging is not None

    async def _completed(
        self, writer: RunSink, builder: RunBuilder, replaced: Sequence[Run],
        covered: Covered | None,
    ) -> Run:
        foot, body = builder.foot()
        await writer.write(body)
        written = await writer.complete([run.ledger_id for run in replaced], covered)
        return Run(written.ledger_id, written.size_bytes, foot, self._core.handed)

    def _ended(self, what: str, error: Exception) -> None:
        """With its topic, or by a defect, which ends the topic: it would go on unnoticed."""
        if isinstance(error, LedgerFenced | SessionExpired | NotOwner):
            _log.info("a schedule's %s ends with its topic: %s", what, error)
            return
        _log.error("a schedule's %s failed", what, exc_info=error)
        self._failed(MagnetarError(f"the schedule's {what} failed: {error!r}"))

    # -- merging -------------------------------------------------------------------------------

    async def _merge(self, runs: Sequence[Run]) -> None:
        try:
            run = await self._until_written(lambda: self.write_merged(runs))
            self._core.replace_runs([one.ledger_id for one in runs], run)
            self.merges += 1
        except Exception as error:
            self._ended("merge", error)
        finally:
            self._merging = None
            self._merged.clear()
            self._changed()

    async def write_merged(self, runs: Sequence[Run]) -> Run:
        """The run that takes the place of these, once it counts. Raises what reading and writing
        raise."""
        fired = self._fired()
        builder = RunBuilder(self._limits.schedule_blocks)
        writer = await self._store.begin()
        try:
            dues_ms, sequences = array("q"), array("q")  # of tombs, which come behind
            async for mark, due in scan.messages_and_tombs(self._reader, runs, fired):
                if due is None:
                    dues_ms.append(mark.due_ms)
                    sequences.append(mark.sequence)
                else:
                    await _put(writer, builder.add(mark, due))
            await _put(writer, builder.end_messages())
            for mark in map(ScheduleMark, dues_ms, sequences):
                await _put(writer, builder.add_tomb(mark))
            await _put(writer, builder.end_tombs())
            async for name in self._kept_names(runs, fired):
                await _put(writer, builder.add_name(name))
            await _put(writer, builder.end_names())
            return await self._completed(writer, builder, runs, None)
        except BaseException as error:
            writer.abandon(f"its run is given up: {error}")
            raise

    async def _kept_names(
        self, runs: Sequence[Run], fired: ScheduleMark
    ) -> AsyncIterator[Name]:
        """Names of what waits, and those of changes without which other runs would mislead."""
        merged = {run.ledger_id for run in runs}
        others = [
            run.foot.names.every for run in self._core.runs.values()
            if run.ledger_id not in merged
        ]
        oldest_ledger = self._oldest_ledger()

        def misleads(name: Name) -> bool:
            return name.place.ledger_id >= oldest_ledger or any(
                other.holds(name.place) for other in others
            )

        async for name in scan.names(self._reader, runs):
            waits = name.fate is not Fate.CANCELLED and name.mark > fired
            if waits or (name.fate is not Fate.SCHEDULED and misleads(name)):
                yield name


async def _put(writer: RunSink, block: bytes | None) -> None:
    """Write the block, if there is one, and let others have their turn."""
    if block is not None:
        await writer.write(block)
        await asyncio.sleep(0)


def _live_bytes(run: Run) -> int:
    """Of the messages that are still to fire, roughly."""
    count = run.foot.messages.count
    return run.foot.message_bytes * run.messages.left // count if count else 0
