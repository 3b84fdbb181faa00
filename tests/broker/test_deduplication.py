"""Sources of deduplication, without a log."""

from __future__ import annotations

import pytest

from broker.deduplication import Deduplication
from broker.state_records import StoredBatch
from magnetar.errors import InvalidArgument, SequenceOverlap


def stored_up_to(sources: Deduplication, name: str, last: int) -> None:
    source = sources.open(name, 0)
    for number in range(last + 1):
        sources.stored(source, source.push(number, number), 1, number)


def test_known_batches_come_back_with_their_ids() -> None:
    sources = Deduplication(remembered_batches=3, automatic_sources=10)
    stored_up_to(sources, "p", 5)
    source = sources.open("p", 1)
    flying = source.push(6, 9)

    assert source.check(10, 10) is None
    assert source.check(7, 8) is flying
    assert source.check(4, 4) == StoredBatch(4, 4, 1, 4)
    assert source.check(0, 0) == StoredBatch(0, 0, 0, -1)
    assert source.check(5, 7) is flying  # cut differently: stored once its last part is
    with pytest.raises(SequenceOverlap):
        source.check(9, 10)


def test_what_was_refused_is_not_taken_for_stored() -> None:
    sources = Deduplication(remembered_batches=10, automatic_sources=10)
    source = sources.open("p", 0)
    for first, last in ((2, 3), (6, 9)):
        sources.stored(source, source.push(first, last), 1, first)
    source.push(12, 20)  # in flight

    for first, last in ((0, 1), (4, 5), (1, 2), (3, 6), (5, 12), (10, 11), (11, 12), (11, 25)):
        with pytest.raises(InvalidArgument, match="is not stored, while later ones are"):
            source.check(first, last)
    assert source.check(7, 8) == StoredBatch(6, 9, 1, 6)
    assert source.check(2, 9, [2, 3, 6, 9]) == StoredBatch(2, 9, 0, -1)
    with pytest.raises(InvalidArgument):
        source.check(2, 9, [2, 4, 9])
    with pytest.raises(SequenceOverlap):
        source.check(12, 25)


def test_what_is_forgotten_counts_as_stored_at_every_owner() -> None:
    sources = Deduplication(remembered_batches=3, automatic_sources=10)
    stored_up_to(sources, "p", 9)
    successor = Deduplication(remembered_batches=3, automatic_sources=10)
    for progress in sources.snapshot():
        successor.restore(progress)

    for one in (sources, successor):
        source = one.open("p", 1)
        assert source.check(0, 0) == StoredBatch(0, 0, 0, -1)
        assert source.check(5, 8) == StoredBatch(5, 8, 0, -1)


def test_changes_and_snapshots_make_the_same_map() -> None:
    sources = Deduplication(remembered_batches=10, automatic_sources=10)
    by_changes = Deduplication(remembered_batches=10, automatic_sources=10)
    for last in (3, 4):
        stored_up_to(sources, f"p{last}", last)
        for progress in sources.take_changes():
            by_changes.restore(progress)
    by_snapshot = Deduplication(remembered_batches=10, automatic_sources=10)
    for progress in sources.snapshot():
        by_snapshot.restore(progress)

    assert by_changes.snapshot() == by_snapshot.snapshot() == sources.snapshot()
    assert sources.take_changes() == []


def test_what_is_in_flight_is_in_no_record() -> None:
    sources = Deduplication(remembered_batches=10, automatic_sources=10)
    source = sources.open("p", 0)
    source.push(0, 5)

    (progress,) = sources.take_changes()

    assert progress.last_sequence_id == -1 and progress.batches == ()


def test_replaying_an_entry_twice_changes_nothing() -> None:
    sources = Deduplication(remembered_batches=10, automatic_sources=10)
    for _ in range(2):
        sources.replay("p", 0, 4, 1, 0)
        sources.replay("p", 5, 6, 1, 1)

    (progress,) = sources.snapshot()

    assert progress.batches == (StoredBatch(0, 4, 1, 0), StoredBatch(5, 6, 1, 1))


def test_the_oldest_automatic_names_above_the_limit_go_and_are_counted() -> None:
    sources = Deduplication(remembered_batches=10, automatic_sources=2)
    for number in range(4):
        source = sources.open(f"~{number}", 0, new_name=True)
        sources.closed(source, 100 + number)
    stored_up_to(sources, "chosen", 1)

    assert sources.expire(200, idle_ms=1_000) == ("~0", "~1")
    assert sources.forgotten_total == 2
    assert sources.expire(1_103, idle_ms=1_000) == ("~2", "~3")
    assert len(sources) == 1
