"""What is remembered of messages that failed."""

from __future__ import annotations

from broker.redelivery import (
    NEVER_FAILED,
    REASONS_BYTES,
    RECORD_BYTES,
    SHORT_REASON_BYTES,
    History,
    RedeliveryCounts,
    records_of,
)
from broker.state_records import RedeliveryCount, encode


def test_messages_of_one_history_are_one_part_however_they_came_by_it() -> None:
    counts = RedeliveryCounts()
    for index in range(1_000):
        counts.set(0, 1 << index, History(1, reason="no"))
    counts.set(0, 0b101, History(2, 77, 7, "never"))

    assert counts.split(0, 0b11111) == [
        (0b00101, History(2, 77, 7, "never")), (0b11010, History(1, reason="no"))]
    assert len(counts.snapshot()) == 2
    assert counts.split(7, 0b1) == [(0b1, NEVER_FAILED)]


def test_what_holds_its_key_goes_on_doing_so_until_it_is_acknowledged() -> None:
    counts = RedeliveryCounts()
    counts.set(0, 0b01, History(1, holds=True))
    counts.set(0, 0b11, History(2))

    assert counts.split(0, 0b11) == [(0b01, History(2, holds=True)), (0b10, History(2))]


def test_changes_are_told_once_and_only_of_what_is_not_acknowledged() -> None:
    counts = RedeliveryCounts()
    counts.set(0, 0b1, History(1))
    counts.set(0, 0b1, History(2, 9, 9, "b"))
    counts.set(8, 0b11, History(1))
    counts.forget(8)

    assert counts.changed
    assert counts.take_changes() == [RedeliveryCount(0, 0b1, 2, 9, 9, "b")]
    assert not counts.changed
    assert counts.take_changes() == []


def test_changes_do_not_grow_with_the_failures_of_one_message() -> None:
    counts = RedeliveryCounts()
    for count in range(10_000):
        counts.set(0, 0b1, History(count))

    assert len(counts.take_changes()) == 1


def test_reasons_beyond_the_bound_are_cut_short_until_others_are_forgotten() -> None:
    counts = RedeliveryCounts()
    reasons = [f"{number:08} " + "é" * 500 for number in range(REASONS_BYTES // 1_009 + 2)]
    for number, reason in enumerate(reasons):
        counts.set(number, 0b1, History(1, reason=reason))

    def kept(number: int) -> str:
        [(_, history)] = counts.split(number, 0b1)
        return history.reason

    last = len(reasons) - 1
    assert kept(0) == reasons[0]
    assert reasons[last].startswith(kept(last))
    assert SHORT_REASON_BYTES - 2 < len(kept(last).encode()) <= SHORT_REASON_BYTES
    assert counts.reasons_full
    assert counts.shortened_reasons == sum(kept(n) != reason for n, reason in enumerate(reasons))
    counts.set(last, 0b1, History(2, reason=reasons[0]))
    assert kept(last) == reasons[0]

    counts.forget_below(10)
    assert not counts.reasons_full
    counts.set(last, 0b1, History(3, reason=reasons[last]))
    assert kept(last) == reasons[last]


def test_records_are_of_a_bounded_size_and_hold_each_reason_once() -> None:
    counts = RedeliveryCounts()
    for number in range(2_000):
        counts.set(number * 8, 0b11, History(1, 1_700_000_000_000 + number, 60_000, "no" * 300))
    changes = counts.take_changes()

    records = list(records_of("s", changes))

    assert [one for record in records for one in record.counts] == changes
    assert len(records) > 1
    assert sum(len(encode(record)) for record in records) < 2_000 * 22
    assert all(len(encode(record)) < 2 * RECORD_BYTES for record in records)


def test_a_delay_is_no_longer_than_it_was_whatever_the_clocks_say() -> None:
    history = History(1, due_ms=100_000, delay_ms=60_000)

    assert [history.left_s(now_ms) for now_ms in (0, 40_000, 70_000, 200_000)] == [60, 60, 30, 0]
