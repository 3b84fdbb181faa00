"""What came into a schedule and is not in a run yet: batches that wait, and tombs for runs."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

from broker.schedule.pending_batch import PendingBatch, Waiting
from magnetar.entry import ScheduleMark, SchedulePlace

TOMB_BYTES: Final = 300
"""Of one tomb in memory."""


class Memtable:
    """Batches by the record they came in, oldest first; `moved` by what names their message."""

    def __init__(self) -> None:
        self.batches: dict[tuple[int, int], PendingBatch] = {}
        self.moved: dict[SchedulePlace, PendingBatch] = {}
        self.tombs: dict[ScheduleMark, tuple[int, int]] = {}
        """Marks of messages in runs that do not fire there, and the records that say so."""
        self.size_bytes = 0

    @property
    def is_empty(self) -> bool:
        return not (self.batches or self.tombs)

    @property
    def oldest(self) -> tuple[int, int] | None:
        """The oldest record that is needed; None: none."""
        firsts = [next(iter(self.batches), None), next(iter(self.tombs.values()), None)]
        return min((first for first in firsts if first is not None), default=None)

    def insert(self, batch: PendingBatch) -> None:
        """A batch of which something waits."""
        self.batches[batch.key] = batch
        self.size_bytes += batch.size_bytes
        if batch.named is not None:
            self.moved[batch.named] = batch

    def drop(self, batch: PendingBatch) -> bool:
        """Nothing of it waits any more; False when it is not here."""
        if self.batches.pop(batch.key, None) is None:
            return False
        self.size_bytes -= batch.size_bytes
        if batch.named is not None and self.moved.get(batch.named) is batch:
            del self.moved[batch.named]
        return True

    def find(self, place: SchedulePlace) -> tuple[PendingBatch, int] | None:
        """The batch that came in with the message, and its index there."""
        batch = self.batches.get((place.ledger_id, place.entry_id))
        if batch is None or batch.named is not None or not 0 <= place.batch_index < batch.count:
            return None
        return batch, place.batch_index

    def bury(self, mark: ScheduleMark, record: tuple[int, int]) -> bool:
        """The message under this mark, in a run, does not fire; False: that was known."""
        if mark in self.tombs:
            return False
        self.tombs[mark] = record
        self.size_bytes += TOMB_BYTES
        return True

    def pass_tomb(self, mark: ScheduleMark) -> None:
        """Firing has passed the mark."""
        if self.tombs.pop(mark, None) is not None:
            self.size_bytes -= TOMB_BYTES

    def pass_tombs(self, handed: ScheduleMark) -> None:
        """Firing has passed all up to here."""
        for mark in [mark for mark in self.tombs if mark <= handed]:
            self.pass_tomb(mark)

    def keep(self) -> None:
        """See PendingBatch.keep, of all."""
        for batch in self.batches.values():
            batch.keep()

    def kept(self) -> Iterator[Waiting]:
        """What waited when `keep` was called, in the order in which it fires."""
        streams = [batch.kept() for batch in self.batches.values()]
        return heapq.merge(*streams, key=lambda waiting: waiting[0])

    def waiting(self, after: ScheduleMark) -> Iterator[Waiting]:
        """What waits behind `after`, in the order in which it fires."""
        streams = [batch.waiting(after) for batch in self.batches.values()]
        return heapq.merge(*streams, key=lambda waiting: waiting[0])
