"""A topic's schedule as a state machine without I/O.

What is asked for (a batch, a cancellation, a move) becomes a record that is in flight until the
driver says `stored`, and only then counts. `take` hands out what is due in the order of
(due time, number), never past a record in flight, and each at most once; the driver gives it to
the log together with the mark up to which it goes. After a crash `replay` rebuilds the same from
the records, with `handed` as far as the log has it.

What came in waits in a table in memory. When that grows, it is frozen and written to a run, a
sorted file of messages on the bookies; meanwhile a second table takes what comes. Once the run is
there it takes the frozen table's place as a source. A message in a run that is cancelled or moved
gets a tomb, which is a mark: in the table at first, then in a run as well.

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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import Final, NamedTuple, Protocol

from broker.schedule.due import Due
from broker.schedule.history import History
from broker.schedule.in_flight import InFlight
from broker.schedule.memtable import Memtable
from broker.schedule.pending_batch import PendingBatch, Waiting
from broker.schedule.records import (
    BatchScheduled,
    Cancelled,
    Head,
    Moved,
    ScheduleRecord,
    Target,
)
from broker.schedule.runs.run import Run
from broker.schedule.tombs import TombStream
from magnetar.entry import Codec, ScheduleMark, SchedulePlace
from magnetar.runtime.network import Buffer

NOTHING: Final = ScheduleMark(-1, -1)
"""Before everything."""
CATCH_UP_MS: Final = 1_000
"""What comes in overdue, while what is due is held back, goes behind so much of that."""
SWEEP_AT: Final = 1_024
"""So many sources, and twice those in use, may be in the heap before the spent ones leave it."""


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


class Source(Protocol):
    """Messages in the order in which they fire."""

    @property
    def head(self) -> tuple[int, int] | None:
        """The next mark, or less while not `ready`; None: no more."""

    @property
    def ready(self) -> bool:
        """The next message is at hand."""

    def current(self) -> Due:
        """The next message."""

    def advance(self) -> None:
        """It fires, or does not."""


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
        """The last mark that was passed: what is not behind it was given to the log, or buried."""
        self.logged = NOTHING
        """The last mark that the log was given."""
        self.next_sequence = 0
        self.stored_sequence = 0
        """Messages numbered below this are stored, or never will be; none from it on is."""
        self.covered_sequence = 0
        """Those numbered below this are in runs, or needed no more; none from it on is in a run."""
        self.count = 0
        """Messages that wait."""
        self.runs: dict[int, Run] = {}
        """By their ledgers."""
        self._heap: list[tuple[int, int, int, Source]] = []
        self._ties = count()
        self._active = Memtable()
        self._frozen: Memtable | None = None
        self._frozen_sequence = 0
        self._held_back_ms = 0
        self._tombs = TombStream()
        self._in_flight: InFlight[_Admitted | _Cancelling | _Moving] = InFlight()
        self._changing: set[SchedulePlace] = set()
        self.history = History()

    # -- what is asked for ---------------------------------------------------------------------

    @property
    def floor_ms(self) -> int:
        """What comes from now on is due no earlier: up to here the log has everything, or what is
        due is held back by a record in flight, as it would be by the next, and for ever."""
        return max(self.handed.due_ms, self._held_back_ms, 0)

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

    def look_up(self, place: SchedulePlace, in_runs: ScheduleMark | None = None) -> Known | None:
        """What is known of a message; None when nothing is, in memory. `in_runs`: the mark that
        the runs have of it."""
        if self.history.was_cancelled(place):
            return Known(State.CANCELLED, NOTHING)
        mark = self.history.moved_to(place)
        if mark is None:
            found = self._find(place)
            if found is not None and not found[0].is_withdrawn(found[1]):
                mark = found[0].mark_of(found[1])
            else:
                mark = in_runs
        return None if mark is None else self._known(place, mark)

    def _known(self, place: SchedulePlace, mark: ScheduleMark) -> Known:
        if mark <= self.handed:
            return Known(State.HANDED, mark)
        return Known(State.CHANGING if self.is_changing(place) else State.WAITING, mark)

    def is_changing(self, place: SchedulePlace) -> bool:
        """A cancellation or a move of it is in flight."""
        return place in self._changing

    def _find(self, place: SchedulePlace) -> tuple[PendingBatch, int] | None:
        """The batch in memory in which the message waits, or waited last."""
        for table in self._tables:
            if (moved := table.moved.get(place)) is not None:
                return moved, 0
        for table in self._tables:
            if (found := table.find(place)) is not None:
                return found
        return None

    def message(self, place: SchedulePlace) -> Due | None:
        """The content of one that waits, if it is in memory."""
        found = self._find(place)
        if found is None or found[0].is_withdrawn(found[1]):
            return None
        return Due(found[0].view, found[1], place)

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
                self.stored_sequence = batch.first_sequence + batch.count
                self._insert(batch, ledger_id, entry_id)
            case _Cancelling(targets):
                self._cancelled(targets, (ledger_id, entry_id))
            case _Moving(target, batch):
                self.stored_sequence = batch.first_sequence + batch.count
                self._moved_away(target, batch, (ledger_id, entry_id))
                self._insert(batch, ledger_id, entry_id)

    def _insert(self, batch: PendingBatch, ledger_id: int, entry_id: int) -> None:
        batch.ledger_id, batch.entry_id = ledger_id, entry_id
        if batch.left:
            self.count += batch.left
            self._active.insert(batch)
            self._follow(batch)
        else:
            batch.release()

    def _follow(self, source: Source) -> None:
        head = source.head
        if head is not None:
            heapq.heappush(self._heap, (*head, next(self._ties), source))

    def _withdraw(self, target: Target, record: tuple[int, int]) -> None:
        """It does not fire under this mark any more."""
        if target.mark <= self.handed:
            return  # replayed: it was passed over before the owner changed
        found = self._find(target.place)
        if found is not None and found[0].mark_of(found[1]) == target.mark:
            batch, index = found
            if batch.is_withdrawn(index):
                return
            batch.withdraw(index)
            self.count -= 1
            if self._frozen is not None and batch.key in self._frozen.batches:
                self._active.bury(target.mark, record)  # the run being written has it
            if not batch.left:
                self._drop(batch)
        elif target.mark.sequence < self.covered_sequence:
            self.count -= self._active.bury(target.mark, record)

    def _cancelled(self, targets: Sequence[Target], record: tuple[int, int]) -> None:
        for target in targets:
            self._changing.discard(target.place)
            self._withdraw(target, record)
            self.history.cancelled(target.place, record)

    def _moved_away(
        self, target: Target, batch: PendingBatch, record: tuple[int, int]
    ) -> None:
        self._changing.discard(target.place)
        self._withdraw(target, record)
        self.history.moved(target.place, batch.least, record)

    def _drop(self, batch: PendingBatch) -> None:
        """Nothing of it waits any more; the heap forgets it in time."""
        if not self._active.drop(batch) and self._frozen is not None:
            return  # a run is being made of it
        batch.release()
        in_use = len(self.runs) + sum(len(table.batches) for table in self._tables)
        if len(self._heap) > SWEEP_AT + 2 * in_use:
            self._sweep()

    def _sweep(self) -> None:
        """Forget sources of which nothing fires any more, however late their turn would come."""
        self._heap = [one for one in self._heap if one[3].head is not None]
        heapq.heapify(self._heap)

    # -- firing --------------------------------------------------------------------------------

    @property
    def next_due_ms(self) -> int | None:
        """When the first of those that wait is due, or less while `wanted` is not loaded;
        None: none waits."""
        head = self._head()
        return None if head is None else head[0]

    @property
    def is_ready(self) -> bool:
        """The first of those that wait is at hand, with all that tells whether it fires."""
        head = self._head()
        if head is None:
            return True
        source = self._heap[0][3]
        if not isinstance(source, Run):
            return True
        return source.ready and self._buried(head) is not None

    @property
    def held_back(self) -> bool:
        """The first of those that wait has to wait for a record in flight."""
        head, barrier = self._head(), self._in_flight.barrier
        return head is not None and barrier is not None and head >= barrier

    def _head(self) -> tuple[int, int] | None:
        """The least mark that waits; what was cancelled meanwhile leaves the heap."""
        heap = self._heap
        while heap:
            due_ms, sequence, tie, source = heap[0]
            found = source.head
            if found is None:
                heapq.heappop(heap)
            elif found == (due_ms, sequence):
                return found
            else:
                heapq.heapreplace(heap, (*found, tie, source))
        return None

    def take(self, now_ms: int, max_messages: int, max_bytes: int) -> Taken | None:
        """What is due, for one entry: within the bounds but at least one message, if any is due,
        nothing in flight holds it back, and it is loaded. It has left the schedule then."""
        barrier = self._in_flight.barrier
        messages: list[Due] = []
        size_bytes, codec = 0, Codec.NONE
        while len(messages) < max_messages:
            head = self._head()
            if head is None or head[0] > now_ms:
                break
            if barrier is not None and head >= barrier:
                held_back_ms = min(now_ms, head[0] + CATCH_UP_MS)
                self._held_back_ms = max(self._held_back_ms, held_back_ms)
                break
            source = self._heap[0][3]
            if isinstance(source, Run):
                buried = self._buried(head) if source.ready else None
                if buried is None:
                    break
                if buried:
                    source.advance()
                    self.handed = ScheduleMark(*head)
                    continue
            due = source.current()
            if messages and due.view.header.codec is not codec:
                break
            size_bytes += due.view.message_bytes(due.batch_index)
            if messages and size_bytes > max_bytes:
                break
            codec = due.view.header.codec
            messages.append(due)
            self.handed = ScheduleMark(*head)
            source.advance()
            if isinstance(source, PendingBatch) and not source.left:
                self._drop(source)
        if not messages:
            return None
        self.count -= len(messages)
        self.logged = self.handed
        return Taken(messages, self.handed)

    def _buried(self, mark: tuple[int, int]) -> bool | None:
        """Whether the message under this mark, in a run, is not to fire; None: not loaded."""
        return self.is_buried(mark) or self._tombs.holds(mark)

    # -- from memory to runs -------------------------------------------------------------------

    @property
    def memory_bytes(self) -> int:
        """Of what waits in memory, and of what is being written to a run."""
        return sum(table.size_bytes for table in self._tables) + self.history.size_bytes

    @property
    def _tables(self) -> tuple[Memtable, ...]:
        return (self._active,) if self._frozen is None else (self._active, self._frozen)

    @property
    def frozen(self) -> Memtable | None:
        """What is being written to a run."""
        return self._frozen

    def freeze(self) -> Memtable:
        """Take what is in memory for a run, as it is now; only while everything that the log was
        given is durable there, so that nothing is missing there and here."""
        assert self._frozen is None, "one run at a time is made of the table"
        self._frozen, self._active = self._active, Memtable()
        self._frozen.keep()
        self._frozen.pass_tombs(self.logged)
        self._frozen_sequence = self.stored_sequence
        return self._frozen

    def thaw(self, run: Run | None) -> None:
        """The run is there, and counts; None: nothing waited any more."""
        assert self._frozen is not None, "freeze comes first"
        frozen, self._frozen = self._frozen, None
        if run is not None:
            self.covered_sequence = self._frozen_sequence
        for batch in frozen.batches.values():
            batch.release()
        self.replace_runs((), run)
        self._sweep()

    def pass_tombs(self, fired: ScheduleMark) -> None:
        """The log durably has all up to here; without runs there is nothing to bury."""
        unneeded = fired if self.runs or self._frozen is not None else self.handed
        self._active.pass_tombs(unneeded)

    def buries_behind(self, fired: ScheduleMark) -> bool:
        """Memory knows of a message behind this mark, in a run, that is not to fire. A new owner
        would hear of it from a record, or the run that is being written, and look for it."""
        return any(mark > fired for table in self._tables for mark in table.tombs)

    def is_needed(self, place: SchedulePlace, oldest_ledger: int) -> bool:
        """Whether somebody who asks for a message that was cancelled or moved could be misled, if
        that were forgotten: by a run, or by the schedule's ledgers from the oldest on."""
        if place.ledger_id >= oldest_ledger:
            return True
        if self._frozen is not None and place in self._frozen.moved:
            return True  # the run that is being written will name it
        return any(run.foot.names.every.holds(place) for run in self.runs.values())

    def replace_runs(self, gone: Iterable[int], run: Run | None) -> None:
        """These runs do not count any more, and this one does."""
        for ledger_id in gone:
            retired = self.runs.pop(ledger_id, None)
            if retired is not None:
                retired.retire()
        if run is not None:
            self.runs[run.ledger_id] = run
            self._follow(run)
        self._tombs.follow(self.runs.values())

    def wanted(self, until_ms: int) -> Iterator[tuple[Run, bool, int]]:
        """Blocks that are needed for what is due until then: the run, whether it is one of tombs,
        and its number."""
        for run in self.runs.values():
            for number in run.messages.wanted(until_ms):
                yield run, False, number
            for number in run.tombs.wanted(until_ms):
                yield run, True, number

    # -- after a change of owner ---------------------------------------------------------------

    def resume(
        self, handed: ScheduleMark, next_sequence: int, covered_sequence: int
    ) -> None:
        """As far as log, state and runs are known to be; before what else depends on it."""
        self.handed = self.logged = max(self.handed, handed)
        self.covered_sequence = max(self.covered_sequence, covered_sequence)
        self.next_sequence = self.stored_sequence = max(
            self.next_sequence, next_sequence, self.handed.sequence + 1, covered_sequence
        )

    def resume_run(self, run: Run) -> None:
        """A run of an earlier owner, its cursors `ready`; before any `replay`."""
        self.count += run.messages.left - run.tombs.left
        self.replace_runs((), run)

    def replay(
        self, ledger_id: int, entry_id: int, record: ScheduleRecord,
        deliver_at_ms: Sequence[int],
    ) -> None:
        """A record of an earlier owner that no run covers, in order; `deliver_at_ms` of its
        batch, if it has one."""
        place = ledger_id, entry_id
        match record:
            case BatchScheduled(head, batch):
                self._insert(self._replayed(head, batch, deliver_at_ms, None), *place)
            case Cancelled(_, targets):
                self._cancelled(targets, place)
            case Moved(head, target, batch):
                replayed = self._replayed(head, batch, deliver_at_ms, target.place)
                self._moved_away(target, replayed, place)
                self._insert(replayed, *place)

    def _replayed(
        self, head: Head, batch: Buffer, deliver_at_ms: Sequence[int],
        named: SchedulePlace | None,
    ) -> PendingBatch:
        after = max(self.next_sequence, head.first_sequence + len(deliver_at_ms))
        self.next_sequence = head.first_sequence
        replayed = self._numbered(batch, deliver_at_ms, head.floor_ms, named)
        self.next_sequence = self.stored_sequence = after
        replayed.pass_over(self.handed)
        return replayed

    # -- looking -------------------------------------------------------------------------------

    @property
    def oldest(self) -> tuple[int, int] | None:
        """The oldest record of which something waits in memory; None: none."""
        found = [table.oldest for table in self._tables]
        return min((one for one in found if one is not None), default=None)

    def oldest_needed(self, oldest_ledger: int) -> tuple[int, int] | None:
        """As `oldest`, with those that say what became of messages, where somebody could be
        misled by the schedule's ledgers from this one on, or by runs."""
        changed = self.history.oldest(lambda place: self.is_needed(place, oldest_ledger))
        return min((one for one in (self.oldest, changed) if one is not None), default=None)

    def waiting(self, after: ScheduleMark) -> Iterator[Waiting]:
        """Those that wait in memory, behind `after`, in the order in which they fire."""
        streams = [table.waiting(max(after, self.handed)) for table in self._tables]
        return heapq.merge(*streams, key=lambda waiting: waiting[0])

    def is_buried(self, mark: tuple[int, int]) -> bool:
        """Memory knows that the message under this mark, in a run, is not to fire."""
        frozen = self._frozen  # asked for each message that fires from a run
        return mark in self._active.tombs or (frozen is not None and mark in frozen.tombs)
