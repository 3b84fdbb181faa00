"""Where a log's entries stand: arithmetic over its list of ledgers, whatever those are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from typing import Final

from ledger.position import Position
from magnetar.ids import EntryId
from metadata.topics import LedgerInfo, TopicRecord

UNKNOWN_ENTRIES: Final = -1


class LogPositions(ABC):
    """A log that is a list of ledgers. `last_confirmed` is its highest stored entry, BEFORE_FIRST
    while there is none."""

    last_confirmed: Position

    @property
    @abstractmethod
    def record(self) -> TopicRecord:
        """The topic's record, with the list."""

    @abstractmethod
    def bytes_of(self, info: LedgerInfo) -> int:
        """Bytes of a ledger's entries."""

    @property
    def entries(self) -> int:
        """Confirmed entries that are still kept."""
        return sum(self.entries_of(info) for info in self.record.ledgers)

    @property
    def size_bytes(self) -> int:
        """Bytes of what is kept; see `bytes_of`."""
        return sum(map(self.bytes_of, self.record.ledgers))

    def entries_of(self, info: LedgerInfo) -> int:
        """Confirmed entries of a ledger."""
        if info.entries != UNKNOWN_ENTRIES:
            return info.entries
        last = self.last_confirmed
        return last.entry_id + 1 if last.ledger_id == info.ledger_id else 0

    @property
    def first_position(self) -> Position:
        """Of the oldest entry kept, or where the next one is looked for."""
        ledgers = self.record.ledgers
        if ledgers:
            return Position(ledgers[0].ledger_id, EntryId(0))
        return Position(self.last_confirmed.ledger_id, EntryId(self.last_confirmed.entry_id + 1))

    def position_after(self, position: Position) -> Position:
        """The next entry's; beyond the end, a position from which `read` finds what comes."""
        return self.resolve(Position(position.ledger_id, EntryId(position.entry_id + 1)))

    def resolve(self, position: Position) -> Position:
        """The first position of the log at or after one that may be trimmed or past the end of
        its ledger; itself beyond the end of the log."""
        ledgers = self.record.ledgers
        at = bisect_left(ledgers, position.ledger_id, key=lambda info: info.ledger_id)
        for info in ledgers[at:]:
            if info.ledger_id > position.ledger_id:
                return Position(info.ledger_id, EntryId(0))
            if info.entries == UNKNOWN_ENTRIES or position.entry_id < info.entries:
                return Position(info.ledger_id, EntryId(max(position.entry_id, 0)))
        return position
