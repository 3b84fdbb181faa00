"""Reading and writing a ledger's record until the outcome is certain."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.limits import LedgerLimits
from magnetar.errors import BadVersion, ConnectionLoss
from magnetar.ids import LedgerId
from magnetar.runtime.clock import Clock
from metadata.ledgers import LedgerMetadata, LedgerRepository


@dataclass(frozen=True, slots=True)
class Conflict:
    """A write certainly did not apply, or applied and was followed by another's."""

    metadata: LedgerMetadata
    version: int


class LedgerRecords:
    """A repository that asks on while the metadata does not answer.

    SessionExpired and LedgerNotFound pass through: they end the matter.
    """

    def __init__(self, ledgers: LedgerRepository, clock: Clock, limits: LedgerLimits) -> None:
        self.repository = ledgers
        self._clock = clock
        self._limits = limits

    async def read(self, ledger_id: LedgerId) -> tuple[LedgerMetadata, int]:
        """The record, however long it takes."""
        pause_s = self._limits.metadata_retry_min_s
        while True:
            try:
                return await self.repository.get(ledger_id)
            except ConnectionLoss:
                pause_s = await self._pause(pause_s)

    async def write(self, metadata: LedgerMetadata, version: int) -> int | Conflict:
        """Compare and set, settled: the new version, or what is there instead.

        Writing again with the same version is safe after a lost answer: at most one applies.
        """
        pause_s = self._limits.metadata_retry_min_s
        while True:
            try:
                return await self.repository.update(metadata, version)
            except BadVersion:
                return Conflict(*await self.read(metadata.ledger_id))
            except ConnectionLoss:
                pause_s = await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> float:
        await self._clock.sleep(pause_s)
        return min(pause_s * 2, self._limits.metadata_retry_max_s)
