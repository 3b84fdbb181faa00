"""A topic's schedule as a state machine without I/O.

What is asked for (a batch, a cancellation, a move) becomes a record that is in flight until the
driver says `stored`, and only then counts. `take` hands out what is due in the order of
(due time, number), never past a record in flight, and each at most once; the driver gives it to
the log together with the mark up to which it goes. After a crash `replay` rebuilds the same from
the records, with `handed` as far as the log has it.

A message:
    admitted ── stored ──▶ WAITING ── take ──▶ HANDED (is in the log, or on its way)
                              │  ▲
                     cancel   │  │ move: waits under a new mark
                    (stored)  ▼  │
                          CANCELLED
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final, NamedTuple

from broker.schedule.history import History
from broker.schedule.in_flight import InFlight
from broker.schedule.pending_batch import PendingBatch
from broker.schedule.records import (
    BatchScheduled,
    Cancelled,
    Head,
    Moved,
    ScheduleRecord,
    Target,
)
from magnetar.entry import Codec, EntryView, ScheduleMark, SchedulePlace
from magnetar.runtime.network import Buffer

NOTHING: Final = ScheduleMark(-1, -1)
"""Before everything."""


class State(Enum):
    """Of a message that the core knows."""

    WAITING = "waiting"
    CHANGING = "changing"
    """Waits, and a cancellation or a move of it is in flight."""
    HANDED = "handed"
    CANCELLED = "cancelled"


class Known(NamedTuple):
    """`mark`: where it stands in the order."""

    state: State
    mark: ScheduleMark


class Due(NamedTuple):
    """A message that is due, in the entry it came in."""

    view: EntryView
    batch_index: int
    place: SchedulePlace


@dataclass(frozen=True, slots=True)
class Taken:
    """Messages for one entry of the log; with it, the schedule is as far as `mark`."""

    messages: list[Due]
    mark: ScheduleMark


@dataclass(frozen=True, slots=True)
class _Admitted:
    batch: PendingBatch


@dataclass(frozen=True, slots=True)
class _Cancelling:
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class _Moving:
    target: Target
    batch: PendingBatch


class ScheduleCore:
    """See the module. Marks grow along `take`; numbers grow along the records."""

    def __init__(self) -> None:
        self.handed = NOTHING
        """The last mark given to the log: whatever is not behind it has left the schedule."""
        self.next_sequence = 0
        self.count = 0
        """Messages that wait."""
        self._heap: list[tuple[int, int, PendingBatch]] = []
        self._batches: dict[tuple[int, int], PendingBatch] = {}
        self._moved: dict[SchedulePlace, PendingBatch] = {}
        self._in_flight: InFlight[_Admitted | _Cancelling | _Moving] = InFlight()
        self._changing: set[SchedulePlace] = set()
        self._history = History()

    # -- what is asked for ---------------------------------------------------------------------

    @property
    def floor_ms(self) -> int:
        """What comes from now on is due no earlier: up to here the log has everything."""
        return max(self.handed.due_ms, 0)

    def admit(self, batch: Buffer, deliver_at_ms: Sequence[int]) -> PendingBatch:
        """A batch whose record is written now, from `next_sequence` on and over `floor_ms`."""
        admitted = self._numbered(batch, deliver_at_ms, self.floor_ms)
        self._in_flight.push(_Admitted(admitted), admitted.least)
        return admitted

    def _numbered(
        self, batch: Buffer, deliver_at_ms: Sequence[int], floor_ms: int,
        named: SchedulePlace | None = None,
    ) -> PendingBatch:
        dues = array("q", [due if due > floor_ms else floor_ms for due in deliver_at_ms])
        numbered = PendingBatch(batch, dues, self.next_sequence, named)
        self.next_sequence += numbered.count
        return numbered

    def look_up(self, place: SchedulePlace) -> Known | None:
        """What is known of a message; None when nothing is, here."""
        found = self._find(place)
        if found is not None and not found[0].is_withdrawn(found[1]):
            mark = found[0].mark_of(found[1])
            if mark <= self.handed:
                return Known(State.HANDED, mark)
            return Known(State.CHANGING if place in self._changing else State.WAITING, mark)
        if self._history.was_cancelled(place):
            return Known(State.CANCELLED, NOTHING)
        mark_after_move = self._history.moved_to(place)
        return None if mark_after_move is None else Known(State.HANDED, mark_after_move)

    def may_have_forgotten(self, place: SchedulePlace) -> bool:
        """Whether the message may have been cancelled or moved although `look_up` says None."""
        return self._history.may_have_forgotten(place)

    def _find(self, place: SchedulePlace) -> tuple[PendingBatch, int] | None:
        moved = self._moved.get(place)
        if moved is not None:
            return moved, 0
        batch = self._batches.get((place.ledger_id, place.entry_id))
        if batch is None or batch.named is not None or not 0 <= place.batch_index < batch.count:
            return None
        return batch, place.batch_index

    def message(self, place: SchedulePlace) -> Due | None:
        """The content of one that waits."""
        found = self._find(place)
        return None if found is None else Due(found[0].view, found[1], place)

    def cancel(self, targets: tuple[Target, ...]) -> None:
        """Messages that `look_up` calls WAITING, whose cancellation is written now."""
        self._changing.update(target.place for target in targets)
        least = min(target.mark for target in targets)
        self._in_flight.push(_Cancelling(targets), least)

    def move(self, target: Target, batch: Buffer, deliver_at_ms: int) -> PendingBatch:
        """One that `look_up` calls WAITING; `batch` holds it alone. Numbered as `admit` does."""
        self._changing.add(target.place)
        moved = self._numbered(batch, (deliver_at_ms,), self.floor_ms, target.place)
        self._in_flight.push(_Moving(target, moved), min(target.mark, moved.least))
        return moved

    def stored(self, ledger_id: int, entry_id: int) -> None:
        """The oldest record in flight is durable, at this place."""
        match self._in_flight.pop():
            case _Admitted(batch):
                self._insert(batch, ledger_id, entry_id)
            case _Cancelling(targets):
                self._cancelled(targets)
            case _Moving(target, batch):
                self._moved_away(target, batch)
                self._insert(batch, ledger_id, entry_id)

    def _insert(self, batch: PendingBatch, ledger_id: int, entry_id: int) -> None:
        batch.ledger_id, batch.entry_id = ledger_id, entry_id
        head = batch.next()
        if head is None:
            batch.release()
            return
        self.count += batch.left
        self._batches[ledger_id, entry_id] = batch
        if batch.named is not None:
            self._moved[batch.named] = batch
        heapq.heappush(self._heap, (*head, batch))

    def _withdraw(self, target: Target) -> None:
        """It does not fire under this mark any more."""
        found = self._find(target.place)
        if found is None or target.mark <= self.handed:
            return  # replayed: it was passed over before the owner changed
        batch, index = found
        if batch.mark_of(index) == target.mark and not batch.is_withdrawn(index):
            batch.withdraw(index)
            self.count -= 1
            if batch.left == 0:
                self._drop(batch)

    def _cancelled(self, targets: Sequence[Target]) -> None:
        for target in targets:
            self._changing.discard(target.place)
            self._withdraw(target)
            self._history.cancelled(target.place)

    def _moved_away(self, target: Target, batch: PendingBatch) -> None:
        self._changing.discard(target.place)
        self._withdraw(target)
        self._history.moved(target.place, batch.least)

    def _drop(self, batch: PendingBatch) -> None:
        """Nothing of it waits any more; the heap forgets it when it comes to it."""
        self._batches.pop((batch.ledger_id, batch.entry_id), None)
        if batch.named is not None and self._moved.get(batch.named) is batch:
            del self._moved[batch.named]
        batch.release()

    # -- firing --------------------------------------------------------------------------------

    @property
    def next_due_ms(self) -> int | None:
        """When the first of those that wait is due; None: none waits."""
        head = self._head()
        return None if head is None else head[0]

    @property
    def held_back(self) -> bool:
        """The first of those that wait has to wait for a record in flight."""
        head, barrier = self._head(), self._in_flight.barrier
        return head is not None and barrier is not None and head >= barrier

    def _head(self) -> tuple[int, int] | None:
        """The least mark that waits; what was cancelled meanwhile leaves the heap."""
        heap = self._heap
        while heap:
            due_ms, sequence, batch = heap[0]
            found = batch.next() if batch.left else None
            if found == (due_ms, sequence):
                return found
            if found is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (*found, batch))
        return None

    def take(self, now_ms: int, max_messages: int, max_bytes: int) -> Taken | None:
        """What is due, for one entry: within the bounds but at least one message, if any is due
        and nothing in flight holds it back. It has left the schedule then."""
        barrier = self._in_flight.barrier
        messages: list[Due] = []
        size_bytes, codec = 0, Codec.NONE
        mark = self.handed
        while len(messages) < max_messages:
            head = self._head()
            if head is None or head[0] > now_ms or (barrier is not None and head >= barrier):
                break
            batch = self._heap[0][2]
            view, index = batch.view, batch.index(batch.at)
            if messages and view.header.codec is not codec:
                break
            size_bytes += view.message_bytes(index)
            if messages and size_bytes > max_bytes:
                break
            codec = view.header.codec
            messages.append(Due(view, index, batch.place_of(index)))
            mark = ScheduleMark(*head)
            batch.at += 1
            batch.left -= 1
            if batch.left == 0:
                self._drop(batch)
        if not messages:
            return None
        self.handed = mark
        self.count -= len(messages)
        return Taken(messages, mark)

    # -- after a change of owner ---------------------------------------------------------------

    def resume(self, handed: ScheduleMark, next_sequence: int) -> None:
        """As far as the log and the last checkpoint say; before any `replay`."""
        self.handed = max(self.handed, handed)
        self.next_sequence = max(self.next_sequence, next_sequence, self.handed.sequence + 1)

    def replay(
        self, ledger_id: int, entry_id: int, record: ScheduleRecord,
        deliver_at_ms: Sequence[int],
    ) -> None:
        """A record of an earlier owner, in order; `deliver_at_ms` of its batch, if it has one."""
        match record:
            case BatchScheduled(head, batch):
                replayed = self._replayed(head, batch, deliver_at_ms, None)
                self._insert(replayed, ledger_id, entry_id)
            case Cancelled(_, targets):
                self._cancelled(targets)
            case Moved(head, target, batch):
                replayed = self._replayed(head, batch, deliver_at_ms, target.place)
                self._moved_away(target, replayed)
                self._insert(replayed, ledger_id, entry_id)

    def _replayed(
        self, head: Head, batch: Buffer, deliver_at_ms: Sequence[int],
        named: SchedulePlace | None,
    ) -> PendingBatch:
        after = max(self.next_sequence, head.first_sequence + len(deliver_at_ms))
        self.next_sequence = head.first_sequence
        replayed = self._numbered(batch, deliver_at_ms, head.floor_ms, named)
        self.next_sequence = after
        replayed.pass_over(self.handed)
        return replayed

    def forget_before(self, ledger_id: int) -> None:
        """The schedule's ledgers below this one are deleted: nobody can ask for what was there."""
        self._history.forget_before(ledger_id)

    # -- looking -------------------------------------------------------------------------------

    @property
    def oldest(self) -> tuple[int, int] | None:
        """The oldest record that something waits in; None: none."""
        return next(iter(self._batches), None)

    def waiting(self, after: ScheduleMark, limit: int) -> list[tuple[ScheduleMark, Due]]:
        """Those that wait, behind `after`, in the order in which they fire."""
        streams: list[Iterator[tuple[ScheduleMark, PendingBatch, int]]] = [
            batch.waiting(after) for batch in self._batches.values()
        ]
        merged = heapq.merge(*streams, key=lambda one: one[0])
        return [
            (mark, Due(batch.view, index, batch.place_of(index)))
            for mark, batch, index in islice(merged, limit)
        ]
