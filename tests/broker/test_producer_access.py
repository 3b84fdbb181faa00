"""The rules for who may publish, without a broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.conversation import AccessMode
from broker.producer_access import (
    OPENINGS,
    Admission,
    Answer,
    Coming,
    ProducerAccess,
    Seat,
)
from magnetar.errors import ConnectionFailed, InvalidArgument, ProducerBusy, ProducerFenced

SHARED, EXCLUSIVE = AccessMode.SHARED, AccessMode.EXCLUSIVE
WAIT, FENCING = AccessMode.WAIT_FOR_EXCLUSIVE, AccessMode.EXCLUSIVE_WITH_FENCING


def entered(access: ProducerAccess, name: str, mode: AccessMode, epoch: int = 0) -> Admission:
    admission = Admission(name, mode, epoch)
    access.enter(admission)
    return admission


def at_the_next_owner(access: ProducerAccess) -> ProducerAccess:
    successor = ProducerAccess(10)
    successor.restore(access.record)
    return successor


def test_the_rule_is_whole() -> None:
    assert set(OPENINGS) == set(Seat)
    assert all(set(row) == set(Coming) for row in OPENINGS.values())


def test_only_what_fences_puts_anybody_out() -> None:
    access = ProducerAccess(10)
    shared = [entered(access, name, SHARED) for name in "ab"]
    waiting = entered(access, "w", WAIT)
    with pytest.raises(ProducerBusy, match="waits to be"):
        access.enter(Admission("x", EXCLUSIVE))
    with pytest.raises(ProducerBusy, match="'w' waits"):
        access.enter(Admission("c", SHARED))

    winner = Admission("f", FENCING)
    out = access.enter(winner)

    assert out.answer is Answer.GRANTED and set(out.fenced) == {*shared, waiting}
    assert all(isinstance(one.fenced, ProducerFenced) for one in out.fenced)
    assert access.holder is winner and winner.topic_epoch == 1 and not access.waiting


def test_a_link_lost_may_come_back_until_somebody_else_came() -> None:
    access = ProducerAccess(10)
    first = entered(access, "e", EXCLUSIVE)
    access.leave(first, for_good=False)

    again = entered(access, "e", EXCLUSIVE, first.topic_epoch)
    assert again.topic_epoch == 1 and access.holder is again
    access.leave(again, for_good=False)
    shared = entered(access, "s", SHARED)
    access.leave(shared, for_good=True)

    with pytest.raises(ProducerFenced, match="others published since"):
        access.enter(Admission("e", EXCLUSIVE, 1))


def test_who_said_goodbye_does_not_come_back() -> None:
    access = ProducerAccess(10)
    first = entered(access, "e", EXCLUSIVE)
    access.leave(first, for_good=True)

    with pytest.raises(ProducerFenced):
        access.enter(Admission("e", EXCLUSIVE, first.topic_epoch))
    assert entered(access, "e", EXCLUSIVE).topic_epoch == 2


def test_a_second_stream_of_the_same_one_ends_the_first() -> None:
    access = ProducerAccess(10)
    first = entered(access, "e", EXCLUSIVE)

    second = entered(access, "e", EXCLUSIVE, first.topic_epoch)

    assert isinstance(first.fenced, ConnectionFailed)
    access.leave(first, for_good=True)
    assert access.holder is second


def test_a_name_is_not_enough_to_come_back_with() -> None:
    access = ProducerAccess(10)
    entered(access, "e", EXCLUSIVE)

    with pytest.raises(ProducerBusy):
        access.enter(Admission("e", EXCLUSIVE))
    with pytest.raises(ProducerFenced):
        access.enter(Admission("other", EXCLUSIVE, 1))
    with pytest.raises(ProducerFenced):
        access.enter(Admission("e", FENCING, 7))
    with pytest.raises(InvalidArgument):
        access.enter(Admission("e", SHARED, 1))


@pytest.mark.parametrize("mode", [SHARED, EXCLUSIVE])
def test_after_a_change_of_owner_the_exclusive_one_is_expected(mode: AccessMode) -> None:
    before = ProducerAccess(10)
    first = entered(before, "e", EXCLUSIVE)
    access = at_the_next_owner(before)

    with pytest.raises(ProducerBusy, match="a moment to come back"):
        access.enter(Admission("x", mode))
    waiting = Admission("w", WAIT)
    assert access.enter(waiting).answer is Answer.QUEUED
    back = Admission("e", EXCLUSIVE, first.topic_epoch)
    assert access.enter(back).answer is Answer.REGAINED
    assert access.leave(back, for_good=True) is waiting and waiting.topic_epoch == 2


def test_who_waits_has_the_topic_when_nobody_came_back() -> None:
    before = ProducerAccess(10)
    first = entered(before, "e", EXCLUSIVE)
    access = at_the_next_owner(before)
    waiting = entered(access, "w", WAIT)

    assert access.expect_no_more() is waiting

    with pytest.raises(ProducerFenced):
        access.enter(Admission("e", EXCLUSIVE, first.topic_epoch))


def test_the_queue_is_bounded() -> None:
    access = ProducerAccess(2)
    entered(access, "e", EXCLUSIVE)
    entered(access, "a", WAIT)
    entered(access, "b", WAIT)

    with pytest.raises(ProducerBusy, match="2 producers wait"):
        access.enter(Admission("c", WAIT))


class Doors(RuleBasedStateMachine):
    """Anybody comes and goes in any order, and owners change; what was promised holds."""

    def __init__(self) -> None:
        super().__init__()
        self.access = ProducerAccess(5)
        self.inside: set[Admission] = set()
        self.queue: list[Admission] = []
        self.granted: list[Admission] = []
        self.epochs: list[int] = []
        self.told: dict[tuple[str, int], int] = {}
        """When each epoch was last known to be its producer's alone; others came later."""
        self.others_came = 0

    def _changed(self, work: Callable[[], Admission | None]) -> None:
        promoted = work()
        if promoted is not None:
            assert promoted is self.queue.pop(0), "in the order of their coming"
            self._granted(promoted)

    def _granted(self, admission: Admission) -> None:
        assert not self.inside, "alone"
        assert admission.topic_epoch > max(self.epochs, default=0), "above all before"
        self.epochs.append(admission.topic_epoch)
        self.granted.append(admission)
        self.inside = {admission}
        self.others_came += 1
        self.told[admission.name, admission.topic_epoch] = self.others_came

    @rule(name=st.sampled_from("abc"), mode=st.sampled_from(AccessMode))
    def comes(self, name: str, mode: AccessMode) -> None:
        admission = Admission(name, mode)
        try:
            found = self.access.enter(admission)
        except ProducerBusy:
            assert mode is not FENCING
            return
        match found.answer:
            case Answer.GRANTED:
                assert set(found.fenced) == self.inside | set(self.queue)
                assert not found.fenced or mode is FENCING
                self.inside, self.queue = set(), []
                self._granted(admission)
            case Answer.QUEUED:
                self.queue.append(admission)
            case Answer.ADMITTED:
                assert all(one.mode is SHARED for one in self.inside)
                self.inside.add(admission)
                self.others_came += 1
            case other:
                raise AssertionError(other)

    @precondition(lambda self: self.granted)
    @rule(which=st.integers(1, 3))
    def comes_back(self, which: int) -> None:
        before = self.granted[-min(which, len(self.granted))]
        again = Admission(before.name, before.mode, before.topic_epoch)
        try:
            found = self.access.enter(again)
        except ProducerFenced:
            return
        assert found.answer is Answer.REGAINED
        assert again.topic_epoch == self.epochs[-1]
        assert self.told[again.name, again.topic_epoch] == self.others_came, "nobody in between"
        assert self.inside == set(found.fenced)
        self.inside = {again}

    @precondition(lambda self: self.inside or self.queue)
    @rule(which=st.integers(0, 9), for_good=st.booleans())
    def leaves(self, which: int, for_good: bool) -> None:
        there = [*sorted(self.inside, key=lambda one: one.name), *self.queue]
        admission = there[which % len(there)]
        self.inside.discard(admission)
        if admission in self.queue:
            self.queue.remove(admission)
        self._changed(lambda: self.access.leave(admission, for_good=for_good))

    @rule()
    def the_owner_changes(self) -> None:
        self.access = at_the_next_owner(self.access)
        self.inside, self.queue = set(), []

    @rule()
    def time_is_up(self) -> None:
        self._changed(self.access.expect_no_more)

    @invariant()
    def exclusive_is_alone(self) -> None:
        exclusive = [one for one in self.inside if one.mode is not SHARED]
        assert not exclusive or len(self.inside) == 1
        assert self.access.waiting == len(self.queue)
        assert (self.access.holder in self.inside) == bool(exclusive)
        assert self.access.epoch == max(self.epochs, default=0)
        assert not self.queue or self.access.seat in (Seat.SHARED, Seat.HELD, Seat.EXPECTED)


Doors.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestDoors = Doors.TestCase
