"""Where runs are kept, as the schedule needs it: `ledger.schedule_runs` on bookies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ledger.schedule_runs import Covered
from magnetar.ids import LedgerId
from metadata.topics import ScheduleRun


class RunSink(Protocol):
    """One run being written; see RunWriter."""

    @property
    def ledger_id(self) -> LedgerId: ...

    async def write(self, body: bytes) -> None:
        """Append an entry, waiting for room."""

    async def complete(
        self, replaced: Sequence[LedgerId], covered: Covered | None
    ) -> ScheduleRun:
        """It counts from now on, and those it replaces no more."""

    def abandon(self, reason: str) -> None:
        """Write no more."""


class RunStore(Protocol):
    """The runs of one topic; see ScheduleRuns."""

    @property
    def finished(self) -> tuple[ScheduleRun, ...]:
        """Those that count."""

    @property
    def covered(self) -> Covered:
        """How far they have what came in."""

    async def begin(self) -> RunSink:
        """A new run."""

    async def drop(self, ledger_ids: Sequence[LedgerId]) -> None:
        """These do not count any more."""

    async def drop_unfinished(self) -> None:
        """What was begun and never completed."""

    async def read(
        self, ledger_id: LedgerId, first: int, max_entries: int, max_bytes: int
    ) -> list[bytes]:
        """Entries of a run from `first` on."""
