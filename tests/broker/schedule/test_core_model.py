"""The schedule's core beside the plainest model, across crashes.

What the model keeps is what the bookies would: the records that were stored, and the fired
entries that the log has. A crash keeps any prefix of what is in flight to either.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.schedule.core import NOTHING, ScheduleCore, State, Taken
from broker.schedule.records import (
    BatchScheduled,
    Cancelled,
    Head,
    Moved,
    ScheduleRecord,
    Target,
)
from magnetar.entry import Columns, EntryView, ScheduleMark, SchedulePlace, encode_batch

LEDGER = 7


@dataclass
class Message:
    place: SchedulePlace
    due_ms: int
    cancelled: bool = False
    maybe: list[int | None] = field(default_factory=list)
    """Changes without an answer: another due time, or None for a cancellation."""


class ScheduleModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = ScheduleCore()
        self.now_ms = 1_000
        self.records: list[ScheduleRecord] = []
        self.stored = 0
        self.log: list[tuple[Taken, int]] = []
        self.confirmed = 0
        self.messages: dict[SchedulePlace, Message] = {}
        self.fired: list[SchedulePlace] = []

    # -- what is asked for

    def head(self) -> Head:
        return Head(1, self.now_ms, self.core.next_sequence, self.core.floor_ms)

    @rule(offsets=st.lists(st.integers(-50, 50), min_size=1, max_size=4))
    def admit(self, offsets: list[int]) -> None:
        times = [max(self.now_ms + offset, 1) for offset in offsets]
        batch = encode_batch(
            "p", 0, [b"m"] * len(times), publish_time_ms=1, columns=Columns(deliver_at_ms=times)
        )
        head = self.head()
        self.core.admit(batch, times)
        self.records.append(BatchScheduled(head, batch))

    def waiting(self) -> list[Message]:
        found = []
        for message in self.messages.values():
            known = self.core.look_up(message.place)
            if known is not None and known.state is State.WAITING:
                found.append(message)
        return found

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(
            st.sampled_from(self.waiting()), min_size=1, max_size=3, unique_by=id
        ))
        targets = []
        for message in chosen:
            known = self.core.look_up(message.place)
            assert known is not None
            targets.append(Target(known.mark, message.place))
            message.maybe.append(None)
        head = self.head()
        self.core.cancel(tuple(targets))
        self.records.append(Cancelled(head, tuple(targets)))

    @precondition(lambda self: self.waiting())
    @rule(data=st.data(), offset=st.integers(-50, 80))
    def move(self, data: st.DataObject, offset: int) -> None:
        message = data.draw(st.sampled_from(self.waiting()))
        known = self.core.look_up(message.place)
        assert known is not None
        due_ms = max(self.now_ms + offset, 1)
        batch = encode_batch(
            "p", 0, [b"m"], publish_time_ms=1, columns=Columns(deliver_at_ms=[due_ms])
        )
        target = Target(known.mark, message.place)
        head = self.head()
        self.core.move(target, batch, due_ms)
        self.records.append(Moved(head, target, batch))
        message.maybe.append(due_ms)

    # -- what the bookies answer

    @precondition(lambda self: self.stored < len(self.records))
    @rule()
    def store(self) -> None:
        record = self.records[self.stored]
        entry_id = self.stored
        self.stored += 1
        self.core.stored(LEDGER, entry_id)
        self.apply(entry_id, record)

    def apply(self, entry_id: int, record: ScheduleRecord) -> None:
        match record:
            case BatchScheduled(_, batch):
                for index, due_ms in enumerate(EntryView(batch).delivery_times_ms()):
                    place = SchedulePlace(LEDGER, entry_id, index)
                    self.messages[place] = Message(place, due_ms)
            case Cancelled(_, targets):
                for target in targets:
                    self.messages[target.place].cancelled = True
                    self.messages[target.place].maybe.pop(0)
            case Moved(_, target, batch):
                self.messages[target.place].due_ms = EntryView(batch).deliver_at_ms(0)
                self.messages[target.place].maybe.pop(0)

    @rule(milliseconds=st.integers(-20, 60))
    def pass_time(self, milliseconds: int) -> None:
        self.now_ms += milliseconds

    @rule(count=st.integers(1, 4))
    def take(self, count: int) -> None:
        taken = self.core.take(self.now_ms, count, 1 << 20)
        if taken is None:
            return
        for due in taken.messages:
            message = self.messages[due.place]
            assert not message.cancelled, "a cancelled message fires"
            assert not message.maybe, "a message fires while a change of it is in flight"
            assert message.due_ms <= self.now_ms, "a message fires early"
        self.log.append((taken, self.now_ms))

    @precondition(lambda self: self.confirmed < len(self.log))
    @rule()
    def confirm(self) -> None:
        taken, _ = self.log[self.confirmed]
        self.confirmed += 1
        self.fired += [due.place for due in taken.messages]

    # -- a crash

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        kept = data.draw(st.integers(self.stored, len(self.records)))
        for entry_id in range(self.stored, kept):
            self.apply(entry_id, self.records[entry_id])
        del self.records[kept:]
        self.stored = kept
        logged = data.draw(st.integers(self.confirmed, len(self.log)))
        while self.confirmed < logged:
            self.confirm()
        del self.log[logged:]
        for message in self.messages.values():
            message.maybe.clear()
        self.core = ScheduleCore()
        self.core.resume(self.log[-1][0].mark if self.log else NOTHING, 0)
        for entry_id, record in enumerate(self.records):
            times = () if isinstance(record, Cancelled) else (
                EntryView(record.batch).delivery_times_ms()
            )
            self.core.replay(LEDGER, entry_id, record, times)

    # -- what always holds

    def handed(self) -> set[SchedulePlace]:
        return {due.place for taken, _ in self.log for due in taken.messages}

    @invariant()
    def marks_grow_and_nobody_fires_twice(self) -> None:
        marks = [taken.mark for taken, _ in self.log]
        assert marks == sorted(set(marks))
        assert len(self.fired) == len(set(self.fired))

    @invariant()
    def the_count_is_exact(self) -> None:
        handed = self.handed()
        waiting = [
            one.place for one in self.messages.values()
            if not one.cancelled and one.place not in handed
        ]
        assert self.core.count == len(waiting)
        listed = [due.place for _, due in self.core.waiting(NOTHING, 1_000)]
        assert sorted(listed) == sorted(waiting)

    @invariant()
    def every_message_is_known_for_what_it_is(self) -> None:
        handed = self.handed()
        for message in self.messages.values():
            known = self.core.look_up(message.place)
            if message.cancelled:
                assert known is not None and known.state is State.CANCELLED
            elif message.place in handed:
                assert known is None or known.state is State.HANDED
            else:
                assert known is not None
                expected = State.CHANGING if message.maybe else State.WAITING
                assert known.state is expected
                assert known.mark.due_ms >= message.due_ms

    def teardown(self) -> None:
        """Once everything is stored and due, everything that was not cancelled has fired."""
        while self.stored < len(self.records):
            self.store()
        self.now_ms += 10_000
        while (taken := self.core.take(self.now_ms, 3, 1 << 20)) is not None:
            self.log.append((taken, self.now_ms))
        while self.confirmed < len(self.log):
            self.confirm()
        self.marks_grow_and_nobody_fires_twice()
        expected = [one.place for one in self.messages.values() if not one.cancelled]
        assert sorted(self.fired) == sorted(expected)
        assert self.core.count == 0


ScheduleModel.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
TestScheduleModel = ScheduleModel.TestCase


def test_nothing_fires_before_anything_was_stored() -> None:
    core = ScheduleCore()
    core.admit(b"", [1])

    assert core.take(10, 1, 1) is None
    assert core.held_back is False and core.handed == ScheduleMark(-1, -1)
