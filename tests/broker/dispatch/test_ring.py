"""Fairness among consumers: exactly, over joins, leaves and permits."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.dispatch.ring import Ring

CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("serve"), st.integers(1, 30)),
        st.tuples(st.just("join"), st.integers(0, 24)),
        st.tuples(st.just("leave"), st.integers(0, 24)),
        st.tuples(st.just("pause"), st.integers(0, 24)),
        st.tuples(st.just("ask"), st.integers(0, 24)),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(CHANGES)
def test_nobody_who_can_take_something_is_passed_over(changes: list[tuple[str, int]]) -> None:
    """Between two turns of one consumer, every other that was able all the time has had one."""
    ring: Ring[int] = Ring()
    able = set(range(20))
    for consumer in range(20):
        ring.offer(consumer)
    since: dict[int, set[int]] = {}  # who has had a turn since this one's, and who was not able
    members = set(range(20))

    for what, number in changes:
        if what == "serve":
            for _ in range(number):
                consumer = ring.first(able.__contains__)
                assert (consumer is None) == (not able & members)
                if consumer is None:
                    break
                ring.served(consumer)
                if consumer in since:
                    assert (able & members) - {consumer} <= since[consumer]
                for passed in since.values():
                    passed.add(consumer)
                since[consumer] = set()
        elif what == "join" and number not in members:
            members.add(number)
            able.add(number)
            ring.offer(number)
            for passed in since.values():
                passed.add(number)  # the last in turn: the others go before it
        elif what == "leave":
            members.discard(number)
            able.discard(number)
            since.pop(number, None)
            ring.leave(number)
        elif what == "pause":
            able.discard(number)
            for passed in since.values():
                passed.add(number)
        elif what == "ask" and number in members:
            if number not in able:
                for passed in since.values():
                    passed.add(number)
            able.add(number)
            ring.offer(number)


def test_a_join_or_leave_of_one_of_twenty_skips_none_of_the_others() -> None:
    for change in range(20):
        for turn in range(20):
            ring: Ring[int] = Ring()
            for consumer in range(20):
                ring.offer(consumer)
            served = []
            for number in range(60):
                if number == turn:
                    ring.leave(change)
                if number == turn + 7:
                    ring.offer(100)
                consumer = ring.first(lambda _: True)
                assert consumer is not None
                ring.served(consumer)
                served.append(consumer)
            for stayed in set(range(20)) - {change}:
                turns = [n for n, consumer in enumerate(served) if consumer == stayed]
                gaps = [later - earlier for earlier, later in pairwise(turns)]
                assert max(gaps) <= 20, f"{stayed} waited when {change} left at turn {turn}"


def test_idle_consumers_cost_nothing_once_their_turn_has_come() -> None:
    ring: Ring[int] = Ring()
    for consumer in range(1_000):
        ring.offer(consumer)
    asked: list[int] = []

    def able(consumer: int) -> bool:
        asked.append(consumer)
        return consumer == 999

    for _ in range(10):
        assert ring.first(able) == 999
        ring.served(999)

    assert len(asked) == 1_000 + 9
