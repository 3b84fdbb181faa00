"""Range reads: failover, striping, and what counts as certain (R15, R16)."""

from __future__ import annotations

import pytest

from ledger.quorum import Quorums
from ledger.reader import Ask, RangeRead
from ledger.wire import ReadReply, Status
from magnetar.errors import EntryNotFound, EntryUnknown
from magnetar.ids import BookieId, EntryId
from metadata.ledgers import Fragment, LedgerMetadata
from tests.ledger.cores import bookies, metadata, stored


def found(ask: Ask, count: int | None = None) -> ReadReply:
    first = ask.request.first_entry_id
    count = ask.request.max_entries if count is None else count
    return ReadReply(Status.OK, tuple(stored(first + at) for at in range(count)))


def read(
    first: int, last: int, max_entries: int = 100, max_bytes: int = 1000,
    record: LedgerMetadata | None = None, suspects: tuple[BookieId, ...] = (),
) -> RangeRead:
    return RangeRead(
        record or metadata("a", "b", "c"), EntryId(first), EntryId(last), max_entries, max_bytes,
        suspects,
    )


def numbers(core: RangeRead) -> list[int]:
    return [entry.entry_id for entry in core.result()]


def test_one_bookie_serves_a_whole_range() -> None:
    core = read(0, 9)
    (ask,) = core.begin()
    assert ask.request.max_entries == 10
    assert core.on_reply(ask.run, found(ask)) == []
    assert core.finished and numbers(core) == list(range(10))


def test_never_beyond_what_is_confirmed() -> None:
    core = read(5, 7)
    (ask,) = core.begin()
    core.on_reply(ask.run, found(ask, 10))
    assert numbers(core) == [5, 6, 7]


def test_a_silent_bookie_is_passed_over() -> None:
    core = read(0, 3)
    (first,) = core.begin()
    (second,) = core.on_reply(first.run, ReadReply(Status.UNKNOWN))
    assert second.bookie != first.bookie
    core.on_reply(second.run, found(second))
    assert numbers(core) == [0, 1, 2, 3]


def test_suspects_are_asked_last() -> None:
    (ask,) = read(0, 3).begin()
    (other,) = read(0, 3, suspects=(ask.bookie,)).begin()
    assert other.bookie != ask.bookie


def test_denied_by_the_whole_write_set_is_not_found() -> None:
    core = read(0, 0)
    asks = core.begin()
    while asks:
        asks = core.on_reply(asks[0].run, ReadReply(Status.NO_ENTRY))
    with pytest.raises(EntryNotFound):
        core.result()


def test_one_uncertain_answer_leaves_it_unknown() -> None:
    core = read(0, 0)
    asks = core.begin()
    for status in (Status.NO_ENTRY, Status.UNKNOWN, Status.NO_LEDGER):
        asks = core.on_reply(asks[0].run, ReadReply(status))
    with pytest.raises(EntryUnknown):
        core.result()


def test_a_short_answer_is_a_short_result() -> None:
    core = read(0, 9)
    (ask,) = core.begin()
    core.on_reply(ask.run, found(ask, 4))
    assert core.finished and numbers(core) == [0, 1, 2, 3]


def test_entries_are_looked_for_in_their_own_fragment() -> None:
    fragments = (
        Fragment(EntryId(0), bookies("a", "b", "c")), Fragment(EntryId(5), bookies("d", "e", "f"))
    )
    core = read(3, 9, record=metadata("a", "b", "c", fragments=fragments))
    (ask,) = core.begin()
    assert ask.bookie in ("a", "b", "c") and ask.request.max_entries == 2
    (late,) = read(5, 9, record=metadata("a", "b", "c", fragments=fragments)).begin()
    assert late.bookie in ("d", "e", "f")


def test_a_striped_range_is_asked_in_runs_side_by_side() -> None:
    record = metadata("a", "b", "c", "d", "e", sizes=Quorums(5, 2, 2))
    core = read(0, 6, record=record)
    asks = core.begin()
    assert [(ask.request.first_entry_id, ask.request.max_entries) for ask in asks] == [
        (0, 2), (2, 2), (4, 2), (6, 1)
    ]
    assert [ask.bookie for ask in asks] == ["b", "d", "a", "c"]
    for ask in reversed(asks):
        assert not core.finished
        core.on_reply(ask.run, found(ask))
    assert core.finished and numbers(core) == list(range(7))


def test_a_striped_range_ends_where_a_run_ends_early() -> None:
    record = metadata("a", "b", "c", "d", "e", sizes=Quorums(5, 2, 2))
    core = read(0, 6, record=record)
    asks = core.begin()
    core.on_reply(asks[0].run, found(asks[0], 1))
    assert core.finished and numbers(core) == [0]


def test_bytes_bound_a_striped_range_but_never_below_one_entry() -> None:
    record = metadata("a", "b", "c", "d", "e", sizes=Quorums(5, 2, 2))
    core = read(0, 6, max_bytes=3, record=record)
    for ask in core.begin():
        core.on_reply(ask.run, found(ask))
    assert numbers(core) == [0, 1, 2]
    tiny = read(0, 6, max_bytes=0, record=record)
    for ask in tiny.begin():
        tiny.on_reply(ask.run, found(ask))
    assert numbers(tiny) == [0]
