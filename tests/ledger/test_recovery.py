"""Recovery's rules R8-R14, one by one, without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ledger.quorum import Quorums
from ledger.recovery import (
    TRANSITIONS,
    Aborted,
    Closed,
    LedgerRecovery,
    RecoveryState,
    SendRead,
    SendReadLac,
)
from ledger.wire import ReadLacReply, ReadReply, Status
from ledger.writer import SendAdd, WriteMetadata
from magnetar.errors import RecoveryAborted
from magnetar.ids import EntryId
from metadata.ledgers import Fragment, LedgerMetadata, LedgerState
from tests.ledger.cores import bookies, candidates, metadata, placement, stored

OK_LAC = ReadLacReply(Status.OK, EntryId(-1), EntryId(-1))
NO_LEDGER = ReadLacReply(Status.NO_LEDGER)
SILENT_LAC = ReadLacReply(Status.UNKNOWN)
NO_ENTRY = ReadReply(Status.NO_ENTRY)
SILENT = ReadReply(Status.UNKNOWN)


class RecoveryRun:
    """A recovery with its effects collected."""

    def __init__(
        self, found: LedgerMetadata | None = None, version: int = 3, spare: Sequence[str] = ()
    ) -> None:
        found = found or metadata("a", "b", "c")
        self.core = LedgerRecovery(found, version, placement(), candidates(*spare))
        self.effects: list[object] = []
        self.take(self.core.begin())

    def take(self, effects: Sequence[object]) -> None:
        self.effects += effects

    def new(self, kind: type) -> list[object]:
        found = [effect for effect in self.effects if isinstance(effect, kind)]
        self.effects = [effect for effect in self.effects if not isinstance(effect, kind)]
        return found

    def write(self) -> WriteMetadata:
        (write,) = self.new(WriteMetadata)
        assert isinstance(write, WriteMetadata)
        return write

    def win(self) -> LedgerMetadata:
        write = self.write()
        self.take(self.core.metadata_written(write.metadata, write.version + 1))
        return write.metadata

    def fenced(self, *replies: ReadLacReply) -> None:
        """Mark, then these answers of slots 0, 1, .. to the fence."""
        self.win()
        for slot, reply in enumerate(replies):
            self.take(self.core.lac_reply(slot, reply))

    def read(self, entry: int, *replies: ReadReply) -> None:
        for reply in replies:
            self.take(self.core.read_reply(entry, reply))

    def acked(self, *slots: int) -> None:
        for send in self.new(SendAdd):
            assert isinstance(send, SendAdd)
            for target in send.targets:
                if target.slot in slots:
                    self.take(self.core.add_reply(
                        target.slot, target.generation, send.request.entry_id, Status.OK
                    ))

    def aborted(self) -> bool:
        return self.core.state is RecoveryState.ABORTED


def found(*entries: int) -> ReadReply:
    return ReadReply(Status.OK, tuple(stored(entry) for entry in entries))


def test_a_closed_ledger_is_taken_as_it_is() -> None:
    run = RecoveryRun(replace(metadata("a", "b", "c"), state=LedgerState.CLOSED))
    assert run.core.state is RecoveryState.CLOSED
    assert len(run.new(Closed)) == 1


def test_the_record_is_marked_before_anyone_is_fenced() -> None:
    run = RecoveryRun()
    assert not run.new(SendReadLac)
    assert run.win().state is LedgerState.IN_RECOVERY
    requests = run.new(SendReadLac)
    assert len(requests) == 3
    assert all(isinstance(one, SendReadLac) and one.request.fence for one in requests)


def test_a_record_already_in_recovery_is_written_again() -> None:
    run = RecoveryRun(metadata("a", "b", "c", state=LedgerState.IN_RECOVERY), version=8)
    write = run.write()
    assert (write.version, write.metadata.state) == (8, LedgerState.IN_RECOVERY)


def test_fencing_goes_on_with_coverage_and_not_before() -> None:
    run = RecoveryRun()
    run.fenced(OK_LAC)
    assert not run.new(SendRead)
    run.take(run.core.lac_reply(1, NO_LEDGER))
    assert len(run.new(SendRead)) == 3


def test_silence_is_no_answer_to_the_fence() -> None:
    run = RecoveryRun()
    run.fenced(OK_LAC, SILENT_LAC, SILENT_LAC)
    assert run.aborted()
    (aborted,) = run.new(Aborted)
    assert isinstance(aborted, Aborted) and isinstance(aborted.error, RecoveryAborted)


def test_an_empty_ledger_closes_empty() -> None:
    run = RecoveryRun()
    run.fenced(NO_LEDGER, NO_LEDGER)
    run.read(0, NO_ENTRY, NO_ENTRY)
    ended = run.win()
    assert (ended.state, ended.last_entry) == (LedgerState.CLOSED, -1)
    assert run.core.state is RecoveryState.CLOSED


def test_reading_starts_after_the_highest_lac_seen() -> None:
    run = RecoveryRun()
    run.fenced(ReadLacReply(Status.OK, EntryId(4), EntryId(6)), OK_LAC)
    reads = run.new(SendRead)
    assert {one.request.first_entry_id for one in reads if isinstance(one, SendRead)} == {5}
    assert all(isinstance(one, SendRead) and one.request.fence for one in reads)


def test_one_copy_is_enough_and_is_copied_to_the_ack_quorum_before_the_end() -> None:
    run = RecoveryRun()
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, found(0))
    run.read(1, NO_ENTRY, NO_ENTRY)
    assert not [effect for effect in run.effects if isinstance(effect, WriteMetadata)]
    sends = [effect for effect in run.effects if isinstance(effect, SendAdd)]
    assert sends and all(send.request.recovery for send in sends)
    run.acked(0, 2)
    assert run.win().last_entry == 0


def test_a_range_brings_later_entries_without_asking_again() -> None:
    run = RecoveryRun()
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, found(0, 1, 2))
    run.read(3, NO_ENTRY, SILENT, NO_ENTRY)
    run.acked(0, 1)
    assert run.win().last_entry == 2


def test_too_few_certain_answers_abort_and_never_close() -> None:
    run = RecoveryRun()
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, NO_ENTRY, SILENT, SILENT)
    assert run.aborted()
    assert not run.new(WriteMetadata)


def test_a_replacement_stays_local_until_the_end() -> None:
    run = RecoveryRun(spare=("d",))
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, found(0))
    run.take(run.core.add_reply(1, 0, 0, Status.UNKNOWN))
    assert not [effect for effect in run.effects if isinstance(effect, WriteMetadata)], "R13"
    resend = run.new(SendAdd)[-1]
    assert isinstance(resend, SendAdd)
    assert [target.bookie for target in resend.targets] == ["d"]
    run.take(run.core.add_reply(1, 1, 0, Status.OK))
    run.take(run.core.add_reply(0, 0, 0, Status.OK))
    run.read(1, NO_ENTRY, NO_ENTRY)
    ended = run.win()
    assert ended.fragments == (Fragment(EntryId(0), bookies("a", "d", "c")),)
    assert ended.last_entry == 0


def test_reads_go_to_the_ensemble_recovery_started_with() -> None:
    run = RecoveryRun(spare=("d",))
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, found(0))
    run.take(run.core.add_reply(1, 0, 0, Status.UNKNOWN))
    run.new(SendRead)
    run.read(1, found(1))
    asked = [one.bookie for one in run.new(SendRead) if isinstance(one, SendRead)]
    assert sorted(asked) == ["a", "b", "c"], "R11: d knows nothing and must not deny"


def test_without_a_replacement_two_of_three_do_and_the_lack_is_marked() -> None:
    run = RecoveryRun()
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, found(0))
    run.take(run.core.add_reply(1, 0, 0, Status.UNKNOWN))
    run.acked(0, 2)
    run.read(1, NO_ENTRY, NO_ENTRY)
    assert run.win().fragments[-1].under_replicated


def test_too_few_bookies_for_the_copies_abort() -> None:
    run = RecoveryRun()
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, found(0))
    run.take(run.core.add_reply(1, 0, 0, Status.UNKNOWN))
    run.take(run.core.add_reply(0, 0, 0, Status.UNKNOWN))
    assert run.aborted()


def test_an_end_written_by_another_is_adopted() -> None:
    run = RecoveryRun()
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, NO_ENTRY, NO_ENTRY)
    write = run.write()
    theirs = replace(write.metadata, last_entry=EntryId(2))
    run.take(run.core.metadata_conflict(theirs, 9))
    (closed,) = run.new(Closed)
    assert isinstance(closed, Closed) and closed.metadata.last_entry == 2


def test_a_recovery_overtaken_by_another_gives_up() -> None:
    run = RecoveryRun()
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, NO_ENTRY, NO_ENTRY)
    write = run.write()
    run.take(run.core.metadata_conflict(
        replace(write.metadata, state=LedgerState.IN_RECOVERY, last_entry=EntryId(-1)), 9
    ))
    assert run.aborted()


def test_striped_ledgers_ask_each_entrys_own_write_set() -> None:
    wide = metadata("a", "b", "c", "d", "e", sizes=Quorums(5, 3, 2))
    run = RecoveryRun(wide)
    run.fenced(NO_LEDGER, NO_LEDGER, NO_LEDGER)
    assert run.core.state is RecoveryState.FENCING, "d and e could still complete an entry"
    run.take(run.core.lac_reply(3, NO_LEDGER))
    asked = [one.bookie for one in run.new(SendRead) if isinstance(one, SendRead)]
    assert asked == ["a", "b", "c"]


@pytest.mark.parametrize("status", [
    Status.UNKNOWN, Status.OVERLOADED, Status.READ_ONLY, Status.UNAUTHORIZED, Status.BAD_REQUEST,
    Status.FENCED,
])
def test_only_certain_denials_deny(status: Status) -> None:
    run = RecoveryRun()
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, *(ReadReply(status) for _ in range(3)))
    assert run.aborted()


def test_terminal_states_have_no_way_out() -> None:
    leaving = {state for state, _ in TRANSITIONS}
    assert leaving.isdisjoint({RecoveryState.CLOSED, RecoveryState.ABORTED})


def test_recovered_entries_do_not_tell_a_lac_that_only_this_recovery_knows() -> None:
    """b and c are replaced in memory only. Told LAC 0, the next recovery would begin at entry 1
    and leave entry 0 with a single copy in the ensemble that the record names."""
    run = RecoveryRun(spare=("d", "e"))
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, found(0))
    run.take(run.core.add_reply(1, 0, 0, Status.UNKNOWN))
    run.take(run.core.add_reply(2, 0, 0, Status.UNKNOWN))
    run.take(run.core.add_reply(1, 1, 0, Status.OK))
    run.take(run.core.add_reply(2, 1, 0, Status.OK))
    run.new(SendAdd)
    run.read(1, found(1))
    (send,) = run.new(SendAdd)
    assert isinstance(send, SendAdd)
    assert (send.request.entry_id, send.request.last_add_confirmed) == (1, -1)
