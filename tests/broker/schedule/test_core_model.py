"""The schedule's core, its runs and their upkeep beside the plainest model, across crashes.

What the model keeps is what the bookies would: the records that were stored, the runs that
count, and the fired entries that the log has. A crash keeps any prefix of what is in flight to
log and records, and no run that was not completed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from broker.schedule.core import NOTHING, Known, ScheduleCore, State, Taken
from broker.schedule.records import (
    BatchScheduled,
    Cancelled,
    Head,
    Moved,
    ScheduleRecord,
    Target,
)
from broker.schedule.runs.blocks import Fate
from broker.schedule.runs.builder import BlockLimits
from broker.schedule.runs.reader import RunReader
from broker.schedule.upkeep import Frozen, Upkeep
from broker.settings import BrokerLimits
from ledger.position import Position
from ledger.schedule_runs import Covered
from magnetar.entry import Columns, EntryView, ScheduleMark, SchedulePlace, encode_batch
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import SystemClock
from tests.broker.schedule.memory_runs import MemoryRuns

FIRST_LEDGER = 7
RECORDS_A_LEDGER = 5
SMALL = BlockLimits(message_bytes=1 << 20, messages=3, tombs=2, names=2)
LOOP = asyncio.new_event_loop()
Result = TypeVar("Result")


@pytest.fixture(autouse=True, scope="module")
def _loop_is_closed() -> Iterator[None]:
    yield
    LOOP.close()


def place_of(number: int) -> Position:
    """Where the record of that number stands."""
    return Position(
        LedgerId(FIRST_LEDGER + number // RECORDS_A_LEDGER), EntryId(number % RECORDS_A_LEDGER)
    )


@dataclass
class Message:
    place: SchedulePlace
    due_ms: int
    cancelled: bool = False
    maybe: list[int | None] = field(default_factory=list)
    """Changes without an answer: another due time, or None for a cancellation."""


class Model:
    """The schedule, what the bookies hold of it, and what must come of it."""

    def __init__(self) -> None:
        self.chance = random.Random(0)
        """Set by whoever drives, before each step."""
        self.now_ms = 1_000
        self.records: list[ScheduleRecord] = []
        self.stored = 0
        self.log: list[Taken] = []
        self.confirmed = 0
        self.messages: dict[SchedulePlace, Message] = {}
        self.fired: list[SchedulePlace] = []
        self.runs = MemoryRuns()
        self.oldest_ledger = FIRST_LEDGER
        self.begin(ScheduleCore())

    def begin(self, core: ScheduleCore) -> None:
        self.core = core
        self.frozen: Frozen | None = None
        self.reader = RunReader(self.runs)
        self.upkeep = Upkeep(
            core, self.runs, self.reader, SystemClock(),
            self.never, lambda: self.durable_mark, lambda: self.oldest_ledger, lambda: None,
            lambda _error: None, BrokerLimits(schedule_blocks=SMALL),
        )

    async def never(self) -> Covered:
        raise AssertionError("the model freezes by itself")

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return LOOP.run_until_complete(work)

    @property
    def durable_mark(self) -> ScheduleMark:
        return self.log[self.confirmed - 1].mark if self.confirmed else NOTHING

    # -- what is asked for

    def head(self) -> Head:
        return Head(1, self.now_ms, self.core.next_sequence, self.core.floor_ms)

    def admit(self) -> None:
        times = [
            max(self.now_ms + self.chance.randint(-20, 80), 1)
            for _ in range(self.chance.randint(1, 5))
        ]
        batch = encode_batch(
            "p", 0, [b"m"] * len(times), publish_time_ms=1, columns=Columns(deliver_at_ms=times)
        )
        head = self.head()
        self.core.admit(batch, times)
        self.recorded(BatchScheduled(head, batch))

    def recorded(self, record: ScheduleRecord) -> None:
        self.records.append(record)
        if self.chance.random() < 0.7:
            while self.stored < len(self.records):
                self.store()

    def known(self, place: SchedulePlace) -> Known | None:
        found = self.core.look_up(place)
        if found is not None:
            return found
        name = self.run(self.reader.find(list(self.core.runs.values()), place))
        if name is not None:
            cancelled = name.fate is Fate.CANCELLED
            known = Known(State.CANCELLED, name.mark)
            return known if cancelled else self.core.look_up(place, name.mark)
        if place.ledger_id < self.oldest_ledger:
            return None
        number = (place.ledger_id - FIRST_LEDGER) * RECORDS_A_LEDGER + place.entry_id
        record = self.records[number]
        assert isinstance(record, BatchScheduled)
        due_ms = max(EntryView(record.batch).deliver_at_ms(place.batch_index), record.head.floor_ms)
        mark = ScheduleMark(due_ms, record.head.first_sequence + place.batch_index)
        return Known(State.HANDED, mark) if mark <= self.core.handed else None

    def waiting(self) -> list[tuple[Message, Known]]:
        found = []
        for message in self.messages.values():
            known = self.known(message.place)
            if known is not None and known.state is State.WAITING:
                found.append((message, known))
        return found

    def cancel(self) -> None:
        waiting = self.waiting()
        if not waiting:
            return
        chosen = self.chance.sample(waiting, min(len(waiting), self.chance.randint(1, 3)))
        targets = tuple(Target(known.mark, message.place) for message, known in chosen)
        for message, _ in chosen:
            message.maybe.append(None)
        head = self.head()
        self.core.cancel(targets)
        self.recorded(Cancelled(head, targets))

    def move(self) -> None:
        waiting = self.waiting()
        if not waiting:
            return
        message, known = self.chance.choice(waiting)
        due = self.core.message(message.place) or self.run(
            self.reader.message(list(self.core.runs.values()), known.mark)
        )
        assert due is not None and due.name == message.place
        due_ms = max(self.now_ms + self.chance.randint(-50, 80), 1)
        batch = encode_batch(
            "p", 0, [b"m"], publish_time_ms=1, columns=Columns(deliver_at_ms=[due_ms])
        )
        target = Target(known.mark, message.place)
        head = self.head()
        self.core.move(target, batch, due_ms)
        message.maybe.append(due_ms)
        self.recorded(Moved(head, target, batch))

    # -- what the bookies answer

    def store(self) -> None:
        if self.stored == len(self.records):
            return
        record, number = self.records[self.stored], self.stored
        self.stored += 1
        self.core.stored(place_of(number).ledger_id, place_of(number).entry_id)
        self.apply(number, record)

    def apply(self, number: int, record: ScheduleRecord) -> None:
        match record:
            case BatchScheduled(_, batch):
                for index, due_ms in enumerate(EntryView(batch).delivery_times_ms()):
                    at = place_of(number)
                    place = SchedulePlace(at.ledger_id, at.entry_id, index)
                    self.messages[place] = Message(place, due_ms)
            case Cancelled(_, targets):
                for target in targets:
                    self.messages[target.place].cancelled = True
                    self.messages[target.place].maybe.pop(0)
            case Moved(_, target, batch):
                self.messages[target.place].due_ms = EntryView(batch).deliver_at_ms(0)
                self.messages[target.place].maybe.pop(0)

    def pass_time(self) -> None:
        self.now_ms += self.chance.randint(-10, 30)

    def take(self) -> None:
        if self.chance.random() < 0.8:
            self.load(self.now_ms + self.chance.choice([0, 0, 30]))
        taken = self.core.take(self.now_ms, self.chance.randint(1, 6), 1 << 20)
        if taken is None:
            return
        for due in taken.messages:
            message = self.messages[due.name]
            assert not message.cancelled, "a cancelled message fires"
            assert not message.maybe, "a message fires while a change of it is in flight"
            assert message.due_ms <= self.now_ms, "a message fires early"
        self.log.append(taken)

    def load(self, until_ms: int) -> None:
        for run, tombs, number in list(self.core.wanted(until_ms)):
            if tombs:
                run.tombs.loaded(number, self.run(self.reader.tombs(run, number)))
            else:
                run.messages.loaded(number, self.run(self.reader.messages(run, number)))

    def confirm(self) -> None:
        if self.confirmed == len(self.log):
            return
        self.fired += [due.name for due in self.log[self.confirmed].messages]
        self.confirmed += 1

    # -- runs

    def freeze(self) -> None:
        if self.frozen is not None:
            return
        while self.confirmed < len(self.log):
            self.confirm()
        table = self.core.freeze()
        covered = Covered(place_of(self.stored - 1), self.core.stored_sequence)
        self.frozen = Frozen(table, self.core.history.take_fresh(self.is_needed), covered)

    def is_needed(self, place: SchedulePlace) -> bool:
        return self.core.is_needed(place, self.oldest_ledger)

    def thaw(self) -> None:
        if self.frozen is None:
            return
        run = None
        if self.frozen.changes or not self.frozen.table.is_empty:
            run = self.run(self.upkeep.write_table(self.frozen))
        self.core.thaw(run)
        self.core.history.written(self.frozen.changes)
        self.core.history.forget(self.is_needed)
        self.frozen = None

    def merge(self) -> None:
        runs = list(self.core.runs.values())
        if not runs:
            return
        runs = self.chance.sample(runs, self.chance.randint(1, len(runs)))
        merged = self.run(self.upkeep.write_merged(runs))
        self.core.replace_runs([run.ledger_id for run in runs], merged)

    def tidy(self) -> None:
        """Drop spent runs, and the ledgers that nobody needs."""
        self.run(self.upkeep.tidy())
        if self.chance.random() < 0.7:
            while self.confirmed < len(self.log):
                self.confirm()
            end = place_of(self.stored).ledger_id
            behind = self.core.oldest[0] if self.core.oldest is not None else end
            oldest = self.core.oldest_needed(max(behind, self.oldest_ledger))
            needed = end if oldest is None else oldest[0]
            self.oldest_ledger = max(self.oldest_ledger, min(needed, behind))
            self.core.history.forget(self.is_needed)

    # -- a crash

    def crash(self) -> None:
        kept = self.chance.randint(self.stored, len(self.records))
        for number in range(self.stored, kept):
            self.apply(number, self.records[number])
        del self.records[kept:]
        self.stored = kept
        logged = self.chance.randint(self.confirmed, len(self.log))
        while self.confirmed < logged:
            self.confirm()
        del self.log[logged:]
        for message in self.messages.values():
            message.maybe.clear()
        self.begin(ScheduleCore())
        self.core.resume(self.durable_mark, 0, self.runs.covered.sequence)
        for run in self.runs.finished:
            self.core.resume_run(self.run(self.reader.open(run, self.core.handed)))
        for number, record in enumerate(self.records):
            at = place_of(number)
            times = () if isinstance(record, Cancelled) else (
                EntryView(record.batch).delivery_times_ms()
            )
            if at > self.runs.covered.record and at.ledger_id >= self.oldest_ledger:
                self.core.replay(at.ledger_id, at.entry_id, record, times)
            self.core.resume(NOTHING, record.head.first_sequence + len(times), 0)

    # -- what always holds

    def handed(self) -> set[SchedulePlace]:
        return {due.name for taken in self.log for due in taken.messages}

    def marks_grow_and_nobody_fires_twice(self) -> None:
        marks = [taken.mark for taken in self.log]
        assert marks == sorted(set(marks))
        assert len(self.fired) == len(set(self.fired))

    def the_count_is_exact(self) -> None:
        handed = self.handed()
        waiting = {
            one.place for one in self.messages.values()
            if not one.cancelled and one.place not in handed
        }
        assert self.core.count == len(waiting)
        listed = [due.name for _, due in self.core.waiting(NOTHING)]
        runs = list(self.core.runs.values())
        in_runs, more = self.run(
            self.reader.waiting(runs, self.core.handed, 10_000, lambda _mark, due: due)
        )
        listed += [due.name for mark, due in in_runs if not self.core.is_buried(mark)]
        assert more is None and sorted(listed) == sorted(waiting)

    def every_message_is_known_for_what_it_is(self) -> None:
        handed = self.handed()
        for message in self.messages.values():
            known = self.known(message.place)
            if message.cancelled:
                assert known is not None or message.place.ledger_id < self.oldest_ledger
                assert known is None or known.state is State.CANCELLED
            elif message.place in handed:
                assert known is not None or message.place.ledger_id < self.oldest_ledger
                assert known is None or known.state is State.HANDED
            else:
                assert known is not None
                expected = State.CHANGING if message.maybe else State.WAITING
                assert known.state is expected
                assert known.mark.due_ms >= message.due_ms

    def check(self) -> None:
        self.marks_grow_and_nobody_fires_twice()
        self.the_count_is_exact()
        self.every_message_is_known_for_what_it_is()

    def finish(self) -> None:
        """Once everything is stored and due, everything that was not cancelled has fired."""
        while self.stored < len(self.records):
            self.store()
        self.now_ms += 10_000
        for _ in range(10_000):
            if not self.core.count:
                break
            self.load(self.now_ms)
            if (taken := self.core.take(self.now_ms, 3, 1 << 20)) is not None:
                self.log.append(taken)
        while self.confirmed < len(self.log):
            self.confirm()
        self.marks_grow_and_nobody_fires_twice()
        expected = [one.place for one in self.messages.values() if not one.cancelled]
        assert sorted(self.fired) == sorted(expected)
        assert self.core.count == 0


STEPS = {
    Model.admit: 4, Model.store: 3, Model.cancel: 2, Model.move: 2, Model.pass_time: 3,
    Model.take: 4, Model.confirm: 3, Model.freeze: 2, Model.thaw: 2, Model.merge: 1,
    Model.tidy: 1, Model.crash: 1,
}
"""What may happen, and how often beside the rest."""


class ScheduleMachine(RuleBasedStateMachine):
    """Short lives, made shorter when one fails."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    @rule(step=st.sampled_from(list(STEPS)), chance=st.randoms(use_true_random=False))
    def step(self, step: Callable[[Model], None], chance: random.Random) -> None:
        self.model.chance = chance
        step(self.model)
        self.model.check()

    def teardown(self) -> None:
        self.model.finish()


ScheduleMachine.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
TestScheduleMachine = ScheduleMachine.TestCase


@pytest.mark.parametrize("seed", range(40))
def test_long_lives(seed: int) -> None:
    model = Model()
    model.chance = random.Random(seed)
    steps = random.Random(f"{seed}/steps").choices(list(STEPS), list(STEPS.values()), k=250)

    for step in steps:
        step(model)
        model.check()

    model.finish()


@pytest.mark.parametrize("seed", [2340, 6970, 7397])
def test_lives_after_which_cancellations_in_runs_that_are_gone_were_counted(seed: int) -> None:
    """6970: all runs were dropped; 7397: while another was being written."""
    model = Model()
    model.chance = random.Random(seed)

    for step in random.Random(f"{seed}/s").choices(list(STEPS), k=40):
        step(model)
        model.check()

    model.finish()


def test_nothing_fires_before_anything_was_stored() -> None:
    core = ScheduleCore()
    core.admit(encode_batch(
        "p", 0, [b"m"], publish_time_ms=1, columns=Columns(deliver_at_ms=[1])), [1])

    assert core.take(10, 1, 1) is None
    assert core.held_back is False and core.handed == ScheduleMark(-1, -1)


def test_what_comes_in_overdue_without_a_pause_does_not_hold_back_what_is_due() -> None:
    core = ScheduleCore()

    def admit(due_ms: int) -> None:
        core.admit(encode_batch(
            "p", 0, [b"m"], publish_time_ms=1, columns=Columns(deliver_at_ms=[due_ms])
        ), [due_ms])

    admit(5_000)
    core.stored(1, 0)
    admit(1)
    fired = []
    for number in range(1, 6):
        admit(1)
        core.stored(1, number)
        while (taken := core.take(9_000, 1, 1)) is not None:
            fired += [due.view.deliver_at_ms(due.batch_index) for due in taken.messages]

    assert 5_000 in fired
