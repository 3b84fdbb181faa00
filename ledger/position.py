"""Where an entry stands in a topic's log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from magnetar.ids import EntryId, LedgerId


@dataclass(frozen=True, order=True, slots=True)
class Position:
    """An entry of a ledger; positions of one log are totally ordered."""

    ledger_id: LedgerId
    entry_id: EntryId

    def __str__(self) -> str:
        return f"{self.ledger_id}:{self.entry_id}"


BEFORE_FIRST: Final = Position(LedgerId(-1), EntryId(-1))
"""Before every position of every log."""
