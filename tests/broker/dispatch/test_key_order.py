"""The order of keys against a naive model: every message's fate in one dictionary."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from broker.dispatch.key_order import KeyOrder
from broker.dispatch.key_phase import TRANSITIONS, Phase, Step
from broker.dispatch.sticky_slots import slot_of

KEYS = ["a", "a", "b", "c", None]
CONSUMERS = ["c0", "c1", "c2", "c3"]


@dataclass
class Message:
    """One message of the model. `place`: unread, waiting, later, settled, or its consumer."""

    ordinal: int
    key: str | None
    place: str = "unread"
    failed: bool = False
    deliveries: list[str] = field(default_factory=list)

    @property
    def out(self) -> bool:
        return self.place in CONSUMERS


class KeyOrderMachine(RuleBasedStateMachine):
    """Drives a `KeyOrder` as the dispatcher does, and checks each message it lets go."""

    @initialize(sticky=st.booleans(), hold=st.booleans())
    def begin(self, sticky: bool, hold: bool) -> None:
        self.sticky, self.hold = sticky, hold or not sticky
        self.order: KeyOrder[str, int] = KeyOrder(sticky=sticky, hold=self.hold)
        self.messages: list[Message] = []
        self.permits: dict[str, int] = {}

    # --- the model

    def of_key(self, key: str | None) -> list[Message]:
        return [one for one in self.messages if one.key == key]

    def owner(self, key: str) -> str | None:
        return self.order._slots.owner(slot_of(key))

    def may_go(self, message: Message, consumer: str, *, rescue: bool = False) -> bool:
        """What the promises say, looked up the slow way."""
        assert message.key is not None
        of_key = self.of_key(message.key)
        if any(one.place in ("waiting", "unread") and one.ordinal < message.ordinal
               for one in of_key):
            return False
        if self.hold and any(one.failed and one.place != "settled"
                             and one.ordinal < message.ordinal for one in of_key):
            return False
        if not self.sticky:
            return True
        holders = {one.place for one in of_key if one.out}
        if rescue:
            return not holders
        return holders <= {consumer} and self.owner(message.key) == consumer

    def give(self, message: Message, consumer: str) -> None:
        message.place = consumer
        message.deliveries.append(consumer)
        self.permits[consumer] -= 1

    # --- what happens

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=6))
    def publish(self, keys: list[str | None]) -> None:
        first = len(self.messages)
        self.messages += [Message(first + n, key) for n, key in enumerate(keys)]

    @precondition(lambda self: self.permits)
    @rule(most=st.integers(1, 6))
    def read(self, most: int) -> None:
        """The next entry of the log, as the dispatcher sorts it."""
        entry = [one for one in self.messages if one.place == "unread"][:most]
        if not entry:
            return
        first, keys = entry[0].ordinal, [one.key for one in entry]
        found = self.order.sort(keys, (1 << len(entry)) - 1, self.permits.__getitem__)
        together = found.anybody | found.aside
        for mask in found.sent.values():
            assert not together & mask
            together |= mask
        assert together == (1 << len(entry)) - 1
        for consumer, mask in found.sent.items():
            for n, message in enumerate(entry):
                if mask >> n & 1:
                    assert self.permits[consumer] > 0
                    assert self.may_go(message, consumer)
                    self.give(message, consumer)
        for n, message in enumerate(entry):
            if found.anybody >> n & 1:
                if message.key is not None:
                    assert not self.sticky and self.may_go(message, "")
                    self.give(message, min(self.permits))
                else:
                    message.place = "settled"  # what has no order is none of its business
        for n, message in enumerate(entry):
            if found.aside >> n & 1:
                message.place = "waiting"
        self.order.set_aside(first, keys, found.aside, 0, fresh=True)

    @rule(data=st.data())
    def hand_out(self, data: st.DataObject) -> None:
        """To one consumer, as much as it takes."""
        if self.permits:
            consumer = data.draw(st.sampled_from(sorted(self.permits)))
            self.permits[consumer] += data.draw(st.integers(0, 3))
            self.serve(consumer, data.draw(st.integers(1, 4)))

    def serve(self, consumer: str, most: int = 1_000) -> int:
        served = 0
        while self.permits[consumer] > 0 and served < most:
            state = self.order.first(consumer if self.sticky else None)
            eligible = [
                one for one in self.messages
                if one.place == "waiting" and one.key and self.may_go(one, consumer)
            ]
            if state is None:
                assert not eligible, f"{eligible[0]} could go to {consumer}"
                break
            ordinal = self.order.send(state, consumer)
            first = min(eligible, key=lambda one: (not one.deliveries, one.ordinal))
            assert self.messages[ordinal] is first
            self.give(self.messages[ordinal], consumer)
            served += 1
        return served

    def draw_out(self, data: st.DataObject) -> Message | None:
        out = [one for one in self.messages if one.out]
        return data.draw(st.sampled_from(out)) if out else None

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        message = self.draw_out(data)
        if message is not None:
            message.place = "settled"
            self.order.settled(message.ordinal, [message.key], 1)

    @rule(data=st.data(), delayed=st.booleans(), failed=st.booleans())
    def fail(self, data: st.DataObject, delayed: bool, failed: bool) -> None:
        """A negative acknowledgement, or messages given back unused."""
        message = self.draw_out(data)
        if message is not None:
            failed = failed or delayed
            message.place = "later" if delayed else "waiting"
            message.failed = message.failed or failed
            self.order.returned(
                message.ordinal, [message.key], 1, 0, failed=failed, now=not delayed
            )

    @rule(data=st.data())
    def time_passes(self, data: st.DataObject) -> None:
        later = [one for one in self.messages if one.place == "later"]
        if later:
            message = data.draw(st.sampled_from(later))
            message.place = "waiting"
            self.order.set_aside(message.ordinal, [message.key], 1, 0, fresh=False)

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """What waits is acknowledged from elsewhere, or expires."""
        waiting = [one for one in self.messages if one.place in ("waiting", "later")]
        if waiting:
            message = data.draw(st.sampled_from(waiting))
            waits = message.place == "waiting"
            message.place = "settled"
            self.order.withdrawn(message.ordinal, [message.key], 1, waits=waits)

    @rule(consumer=st.sampled_from(CONSUMERS), permits=st.integers(0, 5))
    def join(self, consumer: str, permits: int) -> None:
        if consumer not in self.permits:
            self.permits[consumer] = permits
            self.order.join(consumer)

    @rule(consumer=st.sampled_from(CONSUMERS), permits=st.integers(1, 5))
    def ask(self, consumer: str, permits: int) -> None:
        if consumer in self.permits:
            self.permits[consumer] += permits

    @rule(consumer=st.sampled_from(CONSUMERS))
    def leave(self, consumer: str) -> None:
        if self.permits.pop(consumer, None) is None:
            return
        self.order.leave(consumer)
        for message in self.messages:
            if message.place == consumer:
                message.place = "waiting"
                self.order.returned(message.ordinal, [message.key], 1, 0, failed=False, now=True)

    # --- what always holds

    @invariant()
    def a_key_is_at_one_consumer_at_a_time(self) -> None:
        if not getattr(self, "sticky", False):
            return
        for key in KEYS:
            if key is not None:
                assert len({one.place for one in self.of_key(key) if one.out}) <= 1

    @invariant()
    def nothing_is_remembered_for_nothing(self) -> None:
        if hasattr(self, "order"):
            busy = {
                one.key for one in self.messages if one.key is not None
                and (one.place == "waiting" or (self.sticky and one.out)
                     or (self.hold and one.failed and one.place != "settled"))
            }
            assert set(self.order._states) <= busy
            held = {one.key for one in self.messages
                    if self.hold and one.failed and one.place != "settled"}
            assert self.order.held_keys == len(held)

    @rule()
    def nothing_sticks(self) -> None:
        """Once all that is out is settled, whoever asks gets something until nothing is left."""
        for message in self.messages:
            if message.out:
                message.place = "settled"
                self.order.settled(message.ordinal, [message.key], 1)
            elif message.place == "later":
                message.place = "waiting"
                self.order.set_aside(message.ordinal, [message.key], 1, 0, fresh=False)
        if not any(permits > 0 for permits in self.permits.values()):
            return
        if not any(one.place == "waiting" for one in self.messages):
            return
        for consumer in sorted(self.permits):
            self.serve(consumer)
        if any(one.out for one in self.messages):
            return
        state = self.order.first_of_all()
        assert state is not None, "nothing goes, though nothing is out"
        consumer = max(sorted(self.permits), key=self.permits.__getitem__)
        ordinal = self.order.send(state, consumer)
        assert self.may_go(self.messages[ordinal], consumer, rescue=True)
        self.give(self.messages[ordinal], consumer)


TestKeyOrder = KeyOrderMachine.TestCase
TestKeyOrder.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_every_transition_is_possible_and_every_other_is_refused() -> None:
    assert {phase for phase, _ in TRANSITIONS} == set(Phase)
    assert {step for _, step in TRANSITIONS} == set(Step)
    impossible = {(phase, step) for phase in Phase for step in Step} - set(TRANSITIONS)
    assert impossible == {
        (Phase.IDLE, Step.LAST_SETTLED), (Phase.IDLE, Step.MOVED_AWAY),
        (Phase.IDLE, Step.MOVED_BACK), (Phase.FLOWING, Step.SENT_TO_ANOTHER),
        (Phase.FLOWING, Step.MOVED_BACK), (Phase.DRAINING, Step.SENT_TO_OWNER),
        (Phase.DRAINING, Step.SENT_TO_ANOTHER), (Phase.DRAINING, Step.MOVED_AWAY),
    }
    for pair in impossible:
        with pytest.raises(KeyError):
            TRANSITIONS[pair]


def test_keys_of_one_slot_do_not_wait_for_each_other() -> None:
    by_slot: dict[int, str] = {}
    number = 0
    while (slot := slot_of(f"k{number}")) not in by_slot:
        by_slot[slot] = f"k{number}"
        number += 1
    one, other = by_slot[slot], f"k{number}"
    order: KeyOrder[str, None] = KeyOrder(sticky=True, hold=True)
    order.join("c")
    order.sort([one], 1, lambda _: 1)
    order.returned(0, [one], 1, None, failed=True, now=False)

    found = order.sort([one, other], 0b11, lambda _: 10)

    assert found.sent == {"c": 0b10}
    assert found.aside == 0b01


@pytest.mark.parametrize("sticky", [True, False])
def test_later_messages_go_once_the_failed_one_is_settled(sticky: bool) -> None:
    order: KeyOrder[str, None] = KeyOrder(sticky=sticky, hold=True)
    order.join("c")
    keys = ["k"] * 4
    order.sort(keys, 0b0011, lambda _: 9)
    order.returned(0, keys, 0b0001, None, failed=True, now=True)
    found = order.sort(keys, 0b1100, lambda _: 9)
    assert found.aside == 0b1100
    order.set_aside(0, keys, found.aside, None, fresh=True)
    whose = "c" if sticky else None

    failed = order.first(whose)
    assert failed is not None
    assert order.send(failed, "c") == 0
    assert order.first(whose) is None
    order.settled(0, keys, 0b0001)

    freed = order.first(whose)
    assert freed is not None
    assert [order.send(freed, "c") for _ in range(2)] == [2, 3]
    assert order.held_keys == 0


def test_a_moved_key_goes_to_its_new_owner_when_the_old_one_has_settled_it() -> None:
    order: KeyOrder[str, None] = KeyOrder(sticky=True, hold=False)
    order.join("old")
    keys = [f"k{number}" for number in range(100)]
    everything = (1 << 100) - 1
    assert order.sort(keys, everything, lambda _: 100).sent == {"old": everything}
    order.join("new")

    found = order.sort(keys, everything, lambda _: 100)
    order.set_aside(100, keys, found.aside, None, fresh=True)

    assert set(found.sent) == {"old"}
    assert 35 < found.aside.bit_count() < 65
    assert order.first("new") is None
    moved = found.aside.bit_length() - 1
    order.settled(0, keys, 1 << moved)
    state = order.first("new")
    assert state is not None
    assert state.key == f"k{moved}"


def test_a_key_that_moves_away_and_back_need_not_be_drained() -> None:
    order: KeyOrder[str, None] = KeyOrder(sticky=True, hold=False)
    order.join("old")
    keys = [f"k{number}" for number in range(50)]
    everything = (1 << 50) - 1
    order.sort(keys, everything, lambda _: 100)
    order.join("new")
    aside = order.sort(keys, everything, lambda _: 100).aside
    order.set_aside(50, keys, aside, None, fresh=True)

    order.leave("new")

    back = []
    while (state := order.first("old")) is not None:
        back.append(order.send(state, "old"))
    assert back == [50 + index for index in range(50) if aside >> index & 1]
