"""What the topic's state ledger remembers of its schedule: how far the log has it, and the last
positions of the producers in it, which are of their own because order holds within one chain of
ledgers only."""

from __future__ import annotations

from broker.deduplication import Deduplication
from broker.settings import BrokerLimits
from broker.state_records import (
    ScheduleProgress,
    ScheduleSourcesAdvanced,
    SourceProgress,
    StateRecord,
    in_parts,
)
from ledger.position import BEFORE_FIRST, Position
from magnetar.entry import ScheduleMark
from magnetar.ids import EntryId, LedgerId


class ScheduleLane:
    """`position`: the last record that `sources` and `next_sequence` know of."""

    def __init__(self, limits: BrokerLimits) -> None:
        self.sources = Deduplication(limits.remembered_batches, limits.automatic_sources)
        self.position = BEFORE_FIRST
        self.next_sequence = 0
        self.restored_mark = ScheduleMark(-1, -1)
        """As far as the log had the schedule at the last checkpoint."""
        self.durable_position = BEFORE_FIRST
        """Older records are not needed any more to know the sources."""

    def restore(self, record: ScheduleProgress | ScheduleSourcesAdvanced) -> None:
        """A record of the state ledger, in order."""
        match record:
            case ScheduleSourcesAdvanced():
                for progress in record.sources:
                    self.sources.restore(progress)
            case ScheduleProgress():
                self.position = self.durable_position = Position(
                    LedgerId(record.ledger_id), EntryId(record.entry_id)
                )
                self.next_sequence = record.next_sequence
                self.restored_mark = ScheduleMark(record.fired_due_ms, record.fired_sequence)

    def changes(self, fired: ScheduleMark) -> list[StateRecord]:
        """What is to be written before the next checkpoint; nothing for an unused schedule."""
        return self._records(self.sources.take_changes(), fired)

    def snapshot(self, fired: ScheduleMark) -> list[StateRecord]:
        """Everything, as records."""
        return self._records(self.sources.snapshot(), fired)

    def _records(self, sources: list[SourceProgress], fired: ScheduleMark) -> list[StateRecord]:
        if not self.next_sequence:
            return []
        records: list[StateRecord] = [
            ScheduleSourcesAdvanced(part) for part in in_parts(sources)
        ]
        records.append(ScheduleProgress(
            self.position.ledger_id, self.position.entry_id, self.next_sequence, fired.due_ms,
            fired.sequence,
        ))
        return records

    def checkpointed(self, position: Position) -> None:
        """What `changes` said when it was here is durable."""
        self.durable_position = max(self.durable_position, position)
