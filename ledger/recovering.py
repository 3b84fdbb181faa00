"""The asyncio shell of recovery: runs attempts until one ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from ledger.bookie_client import BookieClient
from ledger.health import BookieHealth
from ledger.ledger_record import Conflict, LedgerRecords
from ledger.placement import Placement
from ledger.recovery import (
    Aborted,
    Closed,
    Effects,
    LedgerRecovery,
    SendRead,
    SendReadLac,
)
from ledger.wire import Status
from ledger.writer import SendAdd, WriteMetadata
from magnetar.errors import LedgerError
from magnetar.ids import LedgerId
from metadata.ledgers import LedgerMetadata

_log = logging.getLogger(__name__)



class RecoveryAttempt:
    """Drives one `LedgerRecovery` to its end."""

    def __init__(
        self,
        client: BookieClient,
        records: LedgerRecords,
        health: BookieHealth,
        placement: Placement,
    ) -> None:
        self._client = client
        self._records = records
        self._health = health
        self._placement = placement
        self._tasks: list[asyncio.Task[None]] = []
        self._events: asyncio.Queue[Callable[[], Effects]] = asyncio.Queue()

    async def run(self, ledger_id: LedgerId) -> tuple[LedgerMetadata, int]:
        """The closed record; raises RecoveryAborted, LedgerNotFound, SessionExpired."""
        metadata, version = await self._records.read(ledger_id)
        core = LedgerRecovery(metadata, version, self._placement, self._health.usable())
        self._events.put_nowait(core.begin)
        try:
            while True:
                event = await self._events.get()
                for effect in event():
                    if isinstance(effect, Closed):
                        return effect.metadata, effect.version
                    if isinstance(effect, Aborted):
                        raise effect.error
                    if isinstance(effect, WriteMetadata):
                        await self._write(core, effect)
                    else:
                        self._send(core, effect)
        finally:
            for task in self._tasks:
                task.cancel()

    async def _write(self, core: LedgerRecovery, effect: WriteMetadata) -> None:
        outcome = await self._records.write(effect.metadata, effect.version)
        if isinstance(outcome, Conflict):
            event = partial(core.metadata_conflict, outcome.metadata, outcome.version)
        else:
            event = partial(core.metadata_written, effect.metadata, outcome)
        self._events.put_nowait(event)

    def _send(self, core: LedgerRecovery, effect: SendReadLac | SendRead | SendAdd) -> None:
        if isinstance(effect, SendAdd):
            for slot, generation, bookie in effect.targets:
                self._client.add_nowait(
                    bookie, effect.request,
                    partial(self._added, core, slot, generation, effect.request.entry_id),
                )
        elif isinstance(effect, SendRead):
            self._tasks.append(asyncio.create_task(self._read(core, effect)))
        else:
            self._tasks.append(asyncio.create_task(self._read_lac(core, effect)))

    def _added(
        self, core: LedgerRecovery, slot: int, generation: int, entry_id: int, status: Status
    ) -> None:
        self._events.put_nowait(partial(core.add_reply, slot, generation, entry_id, status))

    async def _read(self, core: LedgerRecovery, effect: SendRead) -> None:
        reply = await self._client.read(effect.bookie, effect.request)
        first_entry = effect.request.first_entry_id
        self._events.put_nowait(partial(core.read_reply, first_entry, reply))

    async def _read_lac(self, core: LedgerRecovery, effect: SendReadLac) -> None:
        reply = await self._client.read_lac(effect.bookie, effect.request)
        self._events.put_nowait(partial(core.lac_reply, effect.slot, reply))


def log_abort(ledger_id: LedgerId, error: LedgerError) -> None:
    """Say that an attempt ended without a result."""
    _log.warning("an attempt to recover ledger %d ended: %s", ledger_id, error)
