"""Where ordinals stand in bytes: exact for what was seen, near for what was not."""

from __future__ import annotations

import random

import pytest

from broker.log_index import MAX_SAMPLED_LEDGERS, MAX_SAMPLES, LogIndex
from magnetar.ids import LedgerId
from metadata.topics import LedgerInfo, TopicRecord


class Log:
    """Ledgers with sizes, as a managed log tells them."""

    def __init__(self, *ledgers: LedgerInfo) -> None:
        self.record = TopicRecord("persistent://t/n/x", ledgers=ledgers)
        self.open_bytes: dict[LedgerId, int] = {}
        self.noted: dict[LedgerId, int] = {}

    def bytes_of(self, info: LedgerInfo) -> int:
        return info.size_bytes or self.open_bytes.get(info.ledger_id, 0)

    def entries_of(self, info: LedgerInfo) -> int:
        return info.entries

    def note_first_ordinal(self, ledger_id: LedgerId, ordinal: int) -> None:
        self.noted[ledger_id] = ordinal


def index_of(log: Log) -> LogIndex:
    return LogIndex(log)  # type: ignore[arg-type]


def filled(sizes: list[int], count: int = 2) -> tuple[Log, LogIndex]:
    """One open ledger of such entries, `count` messages each."""
    log = Log(LedgerInfo(LedgerId(7)))
    index = index_of(log)
    for entry_id, size in enumerate(sizes):
        index.stored(LedgerId(7), entry_id, entry_id * count, (entry_id + 1) * count, size)
    log.open_bytes[LedgerId(7)] = sum(sizes)
    return log, index


def test_a_short_ledger_is_known_to_the_entry() -> None:
    _, index = filled([100, 7, 50])

    assert [index.bytes_from(ordinal) for ordinal in (0, 2, 4, 6)] == [157, 57, 50, 0]
    assert [index.ordinal_with_bytes(size) for size in (157, 57, 50, 0)] == [0, 2, 4, 6]


def test_messages_of_one_entry_share_its_bytes() -> None:
    _, index = filled([100, 40], count=4)

    assert index.bytes_from(3) == 65
    assert index.bytes_from(6) == 20


@pytest.mark.parametrize("entries", [MAX_SAMPLES, MAX_SAMPLES + 1, 5_000, 100_000])
def test_a_long_ledger_keeps_few_samples_and_stays_near(entries: int) -> None:
    chance = random.Random(entries)
    sizes = [chance.randrange(1, 2_000) for _ in range(entries)]
    _, index = filled(sizes, count=1)

    samples = index._samples[LedgerId(7)]
    assert MAX_SAMPLES // 2 <= len(samples.ordinals) <= MAX_SAMPLES
    total = sum(sizes)
    for ordinal in (0, 1, entries // 3, entries // 2, entries - 1, entries):
        assert abs(index.bytes_from(ordinal) - sum(sizes[ordinal:])) <= total / 50
        at = index.ordinal_with_bytes(sum(sizes[ordinal:]))
        assert abs(at - ordinal) <= entries / 50


def test_ledgers_of_earlier_owners_count_by_what_the_record_says() -> None:
    log = Log(
        LedgerInfo(LedgerId(1), 10, 1_000, 0, 1, 1), LedgerInfo(LedgerId(2), 10, 3_000, 10, 1, 1),
        LedgerInfo(LedgerId(3)),
    )
    index = index_of(log)
    index.begins(LedgerId(1), 0)
    index.stored(LedgerId(3), 0, 40, 41, 500)
    log.open_bytes[LedgerId(3)] = 500

    assert index.bytes_from(0) == 4_500
    assert index.bytes_from(5) == 4_000
    assert index.bytes_from(25) == 2_000
    assert index.bytes_from(40) == 500
    assert index.ordinal_with_bytes(4_000) == 5
    assert index.ordinal_with_bytes(3_500) == 10
    assert index.ordinal_with_bytes(2_000) == 25
    assert index.bytes_consumed(log.record.ledgers[1], 25) == 1_500


def test_a_ledger_of_which_nothing_is_known_counts_whole() -> None:
    log = Log(LedgerInfo(LedgerId(1), 10, 1_000, 0, 1, 1), LedgerInfo(LedgerId(2), 5, 700, 0, 1, 1))
    index = index_of(log)
    index.begins(LedgerId(1), 0)
    index.end_ordinal = 15

    assert index.unknown_first() == LedgerId(2)
    assert index.bytes_from(12) >= 700
    index.begins(LedgerId(2), 10)
    assert index.unknown_first() is None
    assert index.bytes_from(10) == 700


def test_entries_told_twice_count_once() -> None:
    log = Log(LedgerInfo(LedgerId(7)))
    index = index_of(log)
    index.goes_on(LedgerId(7), 3, 100, 106, 600)
    for entry_id in range(1, 5):
        index.stored(LedgerId(7), entry_id, 100 + 2 * entry_id, 102 + 2 * entry_id, 200)

    assert index.told_of(LedgerId(7)) == (100, 1_000)
    assert log.noted == {LedgerId(7): 100}


def test_a_ledger_seen_from_its_middle_on_tells_nothing_wrong() -> None:
    log = Log(LedgerInfo(LedgerId(7), 10, 1_000, 0, 1, 1))
    index = index_of(log)
    index.stored(LedgerId(7), 8, 80, 90, 100)

    assert index.told_of(LedgerId(7)) is None
    assert index.first_ordinal_of(LedgerId(7)) is None


def test_only_the_newest_ledgers_have_samples() -> None:
    count = MAX_SAMPLED_LEDGERS + 5
    log = Log(*(LedgerInfo(LedgerId(number), 1, 100, 0, 1, 1) for number in range(count)))
    index = index_of(log)
    for number in range(count):
        index.stored(LedgerId(number), 0, number, number + 1, 100)

    assert len(index._samples) == MAX_SAMPLED_LEDGERS
    assert index.bytes_from(2) == 100 * (count - 2)


def test_what_is_gone_is_forgotten() -> None:
    _, index = filled([10, 10])
    index.forget([])

    assert index.told_of(LedgerId(7)) is None


def test_thousands_of_ledgers_are_summed_in_one_walk() -> None:
    ledgers = tuple(
        LedgerInfo(LedgerId(number), 10, 1_000, number * 10, 1, 1) for number in range(20_000)
    )
    log = Log(*ledgers)
    index = index_of(log)
    index.begins(LedgerId(0), 0)
    index.end_ordinal = 200_000
    walks = 0

    class Counted(tuple):  # type: ignore[type-arg]
        def __iter__(self):  # type: ignore[no-untyped-def]
            nonlocal walks
            walks += 1
            return super().__iter__()

    log.record = TopicRecord("persistent://t/n/x", ledgers=Counted(ledgers))

    assert index.bytes_from(5) == 20_000 * 1_000 - 500
    assert index.unknown_first() is None
    assert index.ordinal_with_bytes(1_000_000) == 190_000
    assert walks <= 1
