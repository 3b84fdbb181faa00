"""Loads the blocks of runs that are needed soon, a little ahead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from broker.schedule.core import ScheduleCore
from broker.schedule.runs.reader import RunReader
from broker.schedule.runs.run import Run
from magnetar.errors import MagnetarError
from magnetar.runtime.clock import Clock

RETRY_S: Final = 0.2

_log = logging.getLogger(__name__)


class BlockLoader:
    """A task a block; at most two of messages and two of tombs for each run."""

    def __init__(
        self, core: ScheduleCore, reader: RunReader, clock: Clock, on_loaded: Callable[[], None]
    ) -> None:
        self._core = core
        self._reader = reader
        self._clock = clock
        self._on_loaded = on_loaded
        self._tasks: dict[tuple[int, bool, int], asyncio.Task[None]] = {}
        self.blocked_reason: str | None = None
        """Why firing waits for a block; None: nothing is in the way."""

    def load(self, until_ms: int) -> None:
        """Have what is needed for all that is due until then."""
        for run, tombs, number in self._core.wanted(until_ms):
            key = run.ledger_id, tombs, number
            if key not in self._tasks:
                self._tasks[key] = asyncio.get_running_loop().create_task(
                    self._load(key, run), name=f"block {number} of run {run.ledger_id}"
                )

    async def _load(self, key: tuple[int, bool, int], run: Run) -> None:
        _, tombs, number = key
        try:
            while self._core.runs.get(run.ledger_id) is run:
                try:
                    if tombs:
                        run.tombs.loaded(number, await self._reader.tombs(run, number))
                    else:
                        run.messages.loaded(number, await self._reader.messages(run, number))
                except MagnetarError as error:
                    if self._core.runs.get(run.ledger_id) is not run:
                        return  # it was replaced meanwhile, and is gone
                    _log.warning("block %d of run %d: %s", number, run.ledger_id, error)
                    self.blocked_reason = f"run {run.ledger_id} cannot be read: {error}"
                    await self._clock.sleep(RETRY_S)
                else:
                    self.blocked_reason = None
                    break
        finally:
            self._tasks.pop(key, None)
        self._on_loaded()

    def stop(self) -> None:
        """Load no more."""
        for task in list(self._tasks.values()):
            task.cancel()
