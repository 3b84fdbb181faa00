"""The writer's rules R2, R5, R6, R7, R14, one by one, without I/O."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.wire import Status
from ledger.writer import TRANSITIONS, WriterState
from magnetar.errors import LedgerClosed, LedgerFenced
from magnetar.ids import EntryId
from metadata.ledgers import Fragment, LedgerState
from tests.ledger.cores import WriterRun, bookies, writer


def run(*names: str, slow_limit_bytes: int = 1 << 20) -> WriterRun:
    return WriterRun(writer(*names, slow_limit_bytes=slow_limit_bytes))


def failed_slot(entries: int = 2, confirmed: int = 0) -> WriterRun:
    """Entries sent; those below `confirmed` stored by a and b; then c fails."""
    made = run("a", "b", "c")
    made.add(*(b"x" for _ in range(entries)))
    for entry in range(confirmed):
        made.reply(0, entry)
        made.reply(1, entry)
    made.reply(2, entries - 1, Status.UNKNOWN)
    return made


def test_an_add_goes_to_its_write_set_with_the_lac_of_the_moment() -> None:
    made = run("a", "b", "c")
    made.add(b"x")
    made.reply(0, 0)
    made.reply(1, 0)
    made.add(b"y")
    first, second = made.sent
    assert [target.bookie for target in second.targets] == ["b", "c", "a"]
    assert (first.request.last_add_confirmed, second.request.last_add_confirmed) == (-1, 0)


def test_completion_is_in_order_and_counts_bytes() -> None:
    made = run("a", "b", "c")
    made.add(b"xx", b"yyy")
    for slot in (0, 1):
        made.reply(slot, 1)
    assert made.completed == -1
    for slot in (0, 1):
        made.reply(slot, 0)
    assert made.completed == 1
    assert made.core.length_bytes == 5
    assert made.core.pending_bytes == 0


def test_a_fence_stops_the_writer_for_good() -> None:
    made = run("a", "b", "c")
    made.add(b"x")
    made.reply(0, 0)
    made.reply(1, 0, Status.FENCED)
    made.reply(2, 0)
    assert made.stopped is not None and isinstance(made.stopped.error, LedgerFenced)
    assert made.completed == -1, "R7: what is in flight is unknown, not stored"
    with pytest.raises(LedgerClosed):
        made.core.add(b"y")


def test_a_failed_bookie_is_replaced_from_lac_plus_one() -> None:
    made = failed_slot(entries=3, confirmed=2)
    write = made.repair("a", "b", "d")
    assert write is not None
    assert write.metadata.fragments == (
        Fragment(EntryId(0), bookies("a", "b", "c"), under_replicated=True),
        Fragment(EntryId(2), bookies("a", "b", "d")),
    )
    sent_before = len(made.sent)
    made.win()
    resent = made.sent[sent_before:]
    assert [(send.request.entry_id, [t.bookie for t in send.targets]) for send in resent] == [
        (2, ["d"])
    ]


def test_a_fragment_without_entries_is_replaced_not_followed() -> None:
    made = failed_slot(entries=1)
    write = made.repair("a", "b", "d")
    assert write is not None
    assert write.metadata.fragments == (Fragment(EntryId(0), bookies("a", "b", "d")),)


def test_answers_of_the_replaced_bookie_count_no_more() -> None:
    made = failed_slot(entries=1)
    made.reply(0, 0)
    old_generation = made.generation(2)
    made.repair("a", "b", "d")
    made.win()
    made.reply(2, 0, generation=old_generation)
    assert made.completed == -1
    made.reply(2, 0)
    assert made.completed == 0


def test_with_no_replacement_the_fragment_is_marked_once_and_two_copies_do() -> None:
    made = failed_slot(entries=1)
    write = made.repair("a", "b")
    assert write is not None
    assert write.metadata.fragments == (
        Fragment(EntryId(0), bookies("a", "b", "c"), under_replicated=True),
    )
    made.reply(0, 0)
    made.reply(1, 0)
    assert made.completed == 0, "marking freezes nothing"
    made.win()
    assert made.repair("a", "b") is None
    made.add(b"y")
    assert [target.bookie for target in made.sent[-1].targets] == ["b", "a"]


def test_the_same_bookie_come_back_gets_a_new_fragment_and_the_entries_again() -> None:
    made = failed_slot(entries=2, confirmed=1)
    made.repair("a", "b")
    made.win()
    write = made.repair("a", "b", "c")
    assert write is not None
    assert write.metadata.fragments[-1] == Fragment(EntryId(1), bookies("a", "b", "c"))
    assert write.metadata.fragments[0].under_replicated
    before = len(made.sent)
    made.win()
    assert [(send.request.entry_id, send.targets[0].bookie) for send in made.sent[before:]] == [
        (1, "c")
    ]
    made.reply(2, 1)
    made.reply(0, 1)
    assert made.completed == 1


def test_two_failed_bookies_are_replaced_together() -> None:
    made = run("a", "b", "c")
    made.add(b"x")
    made.reply(1, 0, Status.UNKNOWN)
    made.reply(2, 0, Status.READ_ONLY)
    write = made.repair("a", "d", "e")
    assert write is not None
    assert sorted(write.metadata.fragments[-1].ensemble) == ["a", "d", "e"]


def test_one_replacement_for_two_failures_leaves_the_mark() -> None:
    made = run("a", "b", "c")
    made.add(b"x")
    made.reply(1, 0, Status.UNKNOWN)
    made.reply(2, 0, Status.UNKNOWN)
    assert not made.core.reaches_quorum
    write = made.repair("a", "d")
    assert write is not None
    fragment = write.metadata.fragments[-1]
    assert fragment.under_replicated and "d" in fragment.ensemble
    made.win()
    assert made.core.reaches_quorum
    assert len(made.core.failed_slots) == 1


def test_a_bookie_with_another_body_never_serves_the_ledger_again() -> None:
    made = run("a", "b", "c")
    made.add(b"x")
    made.reply(2, 0, Status.BODY_CONFLICT)
    write = made.repair("a", "b", "c")
    assert write is not None and write.metadata.fragments[-1].ensemble == bookies("a", "b", "c")
    assert write.metadata.fragments[-1].under_replicated, "only a mark"
    made.win()
    assert made.core.banned == {"c"}
    assert made.repair("a", "b", "c") is None


def test_a_bookie_too_far_behind_the_lac_counts_as_failed() -> None:
    made = run("a", "b", "c", slow_limit_bytes=20)
    made.add(*(b"0123456789" for _ in range(3)))
    for entry in range(3):
        made.reply(0, entry)
        made.reply(1, entry)
    assert made.completed == 2
    assert [(failed.slot, failed.bookie) for failed in made.failed] == [(2, "c")]


def test_bytes_not_yet_at_the_ack_quorum_fail_nobody() -> None:
    made = run("a", "b", "c", slow_limit_bytes=20)
    made.add(*(b"0123456789" for _ in range(30)))
    for entry in range(30):
        made.reply(0, entry)
    assert made.failed == []


def test_a_lost_cas_over_older_fragments_is_tried_again() -> None:
    made = failed_slot(entries=2, confirmed=1)
    made.repair("a", "b", "d")
    made.win()
    made.reply(0, 1, Status.UNKNOWN)
    first = made.repair("b", "d", "e")
    assert first is not None and first.metadata.fragments[-1].first_entry == 1
    moved = replace(
        made.core.metadata,
        fragments=(Fragment(EntryId(0), bookies("a", "b", "e")), made.core.metadata.fragments[1]),
    )
    made.lose(moved, version=9)
    assert made.core.state is WriterState.OPEN
    again = made.repair("b", "d", "e")
    assert again is not None and again.version == 9
    made.win()
    assert made.core.metadata.fragments[0].ensemble == bookies("a", "b", "e"), "nothing is lost"


def test_a_lost_cas_against_a_closed_ledger_stops_the_writer() -> None:
    made = failed_slot(entries=1)
    made.repair("a", "b", "d")
    closed = replace(made.core.metadata, state=LedgerState.CLOSED)
    made.lose(closed, version=5)
    assert made.stopped is not None and isinstance(made.stopped.error, LedgerFenced)


def test_a_cas_whose_answer_was_lost_counts_when_it_applied() -> None:
    made = failed_slot(entries=1)
    made.reply(0, 0)
    write = made.repair("a", "b", "d")
    assert write is not None
    made.lose(write.metadata, version=1)
    made.reply(2, 0)
    assert made.core.state is WriterState.OPEN
    assert made.completed == 0


def test_another_change_of_the_last_ensemble_stops_the_writer() -> None:
    made = run("a", "b", "c")
    foreign = replace(
        made.core.metadata, fragments=(Fragment(EntryId(0), bookies("a", "b", "z")),)
    )
    made.take(made.core.metadata_seen(foreign, 3))
    assert made.stopped is not None


def test_closing_writes_the_lac_and_freezes() -> None:
    made = run("a", "b", "c")
    made.add(b"xx", b"y")
    made.reply(0, 0)
    made.reply(1, 0)
    made.take(made.core.begin_close(made.core.metadata, made.version))
    assert made.write is not None
    ended = made.write.metadata
    assert (ended.state, ended.last_entry, ended.length_bytes) == (LedgerState.CLOSED, 0, 2)
    made.reply(0, 1)
    made.reply(1, 1)
    assert made.completed == 0, "nothing completes above the end"
    made.win()
    assert made.stopped is not None and isinstance(made.stopped.error, LedgerClosed)


def test_a_close_found_done_with_the_same_end_is_success() -> None:
    made = run("a", "b", "c")
    made.add(b"x")
    made.reply(0, 0)
    made.reply(1, 0)
    made.take(made.core.begin_close(made.core.metadata, made.version))
    assert made.write is not None
    made.lose(made.write.metadata, version=2)
    assert made.core.state is WriterState.CLOSED


def test_a_close_found_done_with_another_end_is_fenced() -> None:
    made = run("a", "b", "c")
    made.add(b"x")
    made.take(made.core.begin_close(made.core.metadata, made.version))
    assert made.write is not None
    made.lose(replace(made.write.metadata, last_entry=EntryId(0)), version=2)
    assert made.core.state is WriterState.STOPPED
    assert made.stopped is not None and isinstance(made.stopped.error, LedgerFenced)


def test_a_close_beside_re_replication_is_written_again() -> None:
    made = run("a", "b", "c")
    made.take(made.core.begin_close(made.core.metadata, made.version))
    made.lose(made.core.metadata, version=4)
    assert made.write is not None and made.write.version == 4
    made.win()
    assert made.core.state is WriterState.CLOSED


def test_terminal_states_have_no_way_out() -> None:
    leaving = {state for state, _ in TRANSITIONS}
    assert WriterState.CLOSED not in leaving
    assert WriterState.STOPPED not in leaving


def test_entries_confirmed_by_a_change_go_to_the_replacement_too() -> None:
    """The new fragment says that they are on d; nobody would ever copy them there."""
    made = failed_slot(entries=2)
    made.repair("a", "b", "d")
    for slot in (0, 1):
        made.reply(slot, 0)
        made.reply(slot, 1)
    sent_before = len(made.sent)
    made.win()
    assert made.completed == 1
    to_d = [
        send.request.entry_id for send in made.sent[sent_before:]
        if [target.bookie for target in send.targets] == ["d"]
    ]
    assert to_d == [0, 1]
    for entry in (0, 1):
        made.reply(2, entry)
    assert made.core._acks.behind_bytes == [0, 0, 0]


def test_a_bookie_missing_for_long_costs_no_memory() -> None:
    made = failed_slot(entries=1, confirmed=1)
    made.add(*(b"x" for _ in range(200)))
    for entry in range(1, 201):
        made.reply(0, entry)
        made.reply(1, entry)
    assert made.completed == 200
    acks = made.core._acks
    assert (len(acks._late), len(acks._sizes)) == (0, 0)
    assert acks.behind_bytes[2] == 201, "and yet it is known that copies are missing"
