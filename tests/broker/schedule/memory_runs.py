"""Runs in memory, in place of ledgers: what is begun counts once it is completed."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.position import BEFORE_FIRST
from ledger.schedule_runs import Covered
from magnetar.errors import LedgerNotFound
from magnetar.ids import LedgerId
from metadata.topics import ScheduleRun


class MemoryRunWriter:
    """As `ledger.schedule_runs.RunWriter`."""

    def __init__(self, runs: MemoryRuns, ledger_id: LedgerId) -> None:
        self._runs = runs
        self._bodies: list[bytes] = []
        self.ledger_id = ledger_id

    async def write(self, body: bytes) -> None:
        self._bodies.append(body)

    async def complete(
        self, replaced: Sequence[LedgerId], covered: Covered | None
    ) -> ScheduleRun:
        run = ScheduleRun(self.ledger_id, len(self._bodies), sum(map(len, self._bodies)))
        await self._runs.completed(run, self._bodies, replaced, covered)
        return run

    def abandon(self, reason: str) -> None:
        self._bodies.clear()


class MemoryRuns:
    """As `ledger.schedule_runs.ScheduleRuns`."""

    def __init__(self) -> None:
        self._last_id = 1_000
        self._bodies: dict[LedgerId, list[bytes]] = {}
        self.finished: tuple[ScheduleRun, ...] = ()
        self.covered = Covered(BEFORE_FIRST, 0)

    async def begin(self) -> MemoryRunWriter:
        self._last_id += 1
        return MemoryRunWriter(self, LedgerId(self._last_id))

    async def completed(
        self, run: ScheduleRun, bodies: list[bytes], replaced: Sequence[LedgerId],
        covered: Covered | None,
    ) -> None:
        self._bodies[run.ledger_id] = bodies
        await self.drop(replaced)
        self.finished = (*self.finished, run)
        if covered is not None:
            self.covered = covered

    async def drop(self, ledger_ids: Sequence[LedgerId]) -> None:
        self.finished = tuple(
            run for run in self.finished if run.ledger_id not in ledger_ids
        )
        for ledger_id in ledger_ids:
            self._bodies.pop(ledger_id, None)

    async def drop_unfinished(self) -> None:
        pass

    async def read(
        self, ledger_id: LedgerId, first: int, max_entries: int, max_bytes: int
    ) -> list[bytes]:
        if ledger_id not in self._bodies:
            raise LedgerNotFound(f"run {ledger_id} is deleted")
        return self._bodies[ledger_id][first:first + max_entries]
