"""R5: what is confirmed, against a model that counts naively."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.ack_tracker import AckTracker
from ledger.distribution import write_set
from ledger.invariant import ProtocolViolation
from ledger.quorum import Quorums
from magnetar.ids import EntryId


def tracker(entries: int = 0, sizes: Quorums | None = None) -> AckTracker:
    acks = AckTracker(sizes or Quorums(3, 3, 2))
    for _ in range(entries):
        acks.push(10)
    return acks


def test_an_entry_is_confirmed_by_its_ack_quorum() -> None:
    acks = tracker(1)
    acks.acknowledge(0, 0)
    assert acks.advance() == -1
    acks.acknowledge(0, 0)
    assert acks.advance() == -1, "the same bookie twice is one"
    acks.acknowledge(2, 0)
    assert acks.advance() == 0


def test_confirmation_is_in_order() -> None:
    acks = tracker(2)
    acks.acknowledge(0, 1)
    acks.acknowledge(1, 1)
    assert acks.advance() == -1
    acks.acknowledge(0, 0)
    assert acks.acknowledge(1, 0)
    assert acks.advance() == 1


def test_nothing_is_confirmed_while_frozen() -> None:
    acks = tracker(1)
    acks.frozen = True
    acks.acknowledge(0, 0)
    acks.acknowledge(1, 0)
    assert acks.advance() == -1
    acks.frozen = False
    assert acks.advance() == 0


def test_answers_from_outside_the_write_set_do_not_count() -> None:
    acks = tracker(1, Quorums(5, 3, 2))
    acks.acknowledge(0, 0)
    acks.acknowledge(4, 0)
    assert acks.advance() == -1


def test_answers_of_a_replaced_bookie_are_dropped_above_the_lac() -> None:
    acks = tracker(2)
    for slot, entry in ((0, 0), (1, 0), (1, 1)):
        acks.acknowledge(slot, entry)
    acks.advance()
    acks.frozen = True
    acks.replace_slot(1)
    acks.frozen = False
    acks.acknowledge(0, 1)
    assert acks.advance() == 0
    acks.acknowledge(1, 1)
    assert acks.advance() == 1


def test_a_slot_is_replaced_only_while_frozen() -> None:
    with pytest.raises(ProtocolViolation):
        tracker(1).replace_slot(0)


def test_what_a_bookie_lacks_of_the_confirmed_is_counted() -> None:
    acks = tracker(3)
    for entry in range(3):
        acks.acknowledge(0, entry)
        acks.acknowledge(1, entry)
    acks.advance()
    assert acks.behind_bytes == [0, 0, 30]
    acks.acknowledge(2, 1)
    assert acks.behind_bytes == [0, 0, 20]


@st.composite
def runs(draw: st.DrawFn) -> tuple[Quorums, list[tuple[str, int, int]]]:
    ensemble = draw(st.integers(1, 5))
    write = draw(st.integers(1, ensemble))
    sizes = Quorums(ensemble, write, draw(st.integers(1, write)))
    step = st.tuples(
        st.sampled_from(["push", "ack", "ack", "ack", "ack", "replace"]),
        st.integers(0, ensemble - 1), st.integers(0, 8),
    )
    return sizes, draw(st.lists(step, max_size=60))


@given(runs())
def test_it_agrees_with_a_naive_count(run: tuple[Quorums, list[tuple[str, int, int]]]) -> None:
    sizes, steps = run
    acks = AckTracker(sizes)
    answers: list[set[int]] = []
    confirmed = -1
    for what, slot, entry in steps:
        if what == "push":
            acks.push(7)
            answers.append(set())
        elif what == "ack" and entry < len(answers):
            acks.acknowledge(slot, entry)
            answers[entry].add(slot)
        elif what == "replace":
            acks.frozen = True
            acks.replace_slot(slot)
            acks.frozen = False
            for acked in answers[confirmed + 1:]:
                acked.discard(slot)
        acks.advance()
        while confirmed + 1 < len(answers):
            wanted = write_set(
                EntryId(confirmed + 1), sizes.ensemble_size, sizes.write_quorum
            )
            if len(answers[confirmed + 1] & set(wanted)) < sizes.ack_quorum:
                break
            confirmed += 1
        assert acks.last_add_confirmed == confirmed
        assert acks.pending_bytes == 7 * (len(answers) - 1 - confirmed)
        assert min(acks.behind_bytes) >= 0
