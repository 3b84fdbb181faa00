"""Quorums, write sets, coverage and placement."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.distribution import QuorumCoverage, write_set
from ledger.placement import Candidate, Placement
from ledger.quorum import Quorums
from magnetar.errors import InvalidArgument, NotEnoughBookies
from magnetar.ids import BookieId, EntryId


@st.composite
def quorums(draw: st.DrawFn) -> Quorums:
    ensemble = draw(st.integers(1, 7))
    write = draw(st.integers(1, ensemble))
    return Quorums(ensemble, write, draw(st.integers(1, write)))


def test_quorums_out_of_order_are_refused() -> None:
    with pytest.raises(InvalidArgument):
        Quorums(3, 2, 3)
    with pytest.raises(InvalidArgument):
        Quorums(2, 3, 2)


def test_the_ack_quorum_is_never_lowered() -> None:
    assert Quorums(3, 3, 2).fitted(2) == Quorums(2, 2, 2)
    assert Quorums(5, 3, 2).fitted(4) == Quorums(4, 3, 2)
    with pytest.raises(NotEnoughBookies):
        Quorums(3, 3, 2).fitted(1)


def test_an_entry_is_striped_from_its_number_on() -> None:
    assert write_set(EntryId(0), 5, 3) == (0, 1, 2)
    assert write_set(EntryId(4), 5, 3) == (4, 0, 1)
    assert write_set(EntryId(7), 3, 3) == (1, 2, 0)


@given(quorums(), st.data())
def test_coverage_leaves_no_write_set_an_ack_quorum(sizes: Quorums, data: st.DataObject) -> None:
    answered = data.draw(st.sets(st.integers(0, sizes.ensemble_size - 1)))
    coverage = QuorumCoverage(sizes)
    for slot in sorted(answered):
        coverage.answered(slot)
    silent_quorum_possible = any(
        len(set(write_set(EntryId(entry), sizes.ensemble_size, sizes.write_quorum)) - answered)
        >= sizes.ack_quorum
        for entry in range(sizes.ensemble_size)
    )
    assert coverage.covered is not silent_quorum_possible


def test_coverage_of_three_needs_two() -> None:
    for pair in combinations(range(3), 2):
        coverage = QuorumCoverage(Quorums(3, 3, 2))
        coverage.answered(pair[0])
        assert not coverage.covered
        coverage.answered(pair[1])
        assert coverage.covered


def candidates(*names: str, racks: tuple[str, ...] = ()) -> list[Candidate]:
    return [
        Candidate(BookieId(name), racks[at] if racks else "") for at, name in enumerate(names)
    ]


def test_ensembles_go_round() -> None:
    placement = Placement(random.Random(1))
    chosen = [placement.ensemble(candidates("a", "b", "c", "d"), 2) for _ in range(4)]
    counts = {name: sum(name in ensemble for ensemble in chosen) for name in "abcd"}
    assert set(counts.values()) == {2}


def test_racks_differ_while_they_can() -> None:
    placement = Placement(random.Random(1))
    pool = candidates("a", "b", "c", "d", racks=("r1", "r1", "r2", "r3"))
    rack_of = {one.bookie_id: one.rack for one in pool}
    for _ in range(8):
        ensemble = placement.ensemble(pool, 3)
        assert sorted(rack_of[bookie] for bookie in ensemble) == ["r1", "r2", "r3"]


def test_a_replacement_avoids_the_racks_in_use() -> None:
    placement = Placement(random.Random(3))
    kept = candidates("a", "b", racks=("r1", "r2"))
    pool = candidates("c", "d", "e", racks=("r1", "r2", "r3"))
    assert [one.bookie_id for one in placement.extend(kept, pool, 1)] == ["e"]


def test_the_same_chance_makes_the_same_choices() -> None:
    pool = candidates("a", "b", "c", "d", "e")
    runs = [
        [placement.ensemble(pool, 3) for _ in range(5)]
        for placement in (Placement(random.Random(7)), Placement(random.Random(7)))
    ]
    assert runs[0] == runs[1]


def test_too_few_bookies_are_refused() -> None:
    with pytest.raises(NotEnoughBookies):
        Placement(random.Random(1)).ensemble(candidates("a"), 2)
