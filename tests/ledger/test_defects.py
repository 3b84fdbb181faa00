"""Defects that BookKeeper and Pulsar had, each as a scenario that must end well here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.quorum import Quorums
from ledger.recovery import RecoveryState, SendRead
from ledger.wire import AddRequest, ReadLacReply, ReadReply, Status
from ledger.writer import WriterState
from magnetar.errors import EntryUnknown, RecoveryAborted
from magnetar.ids import BookieId, EntryId
from metadata.ledgers import Fragment
from tests.ledger.cluster import Results, cluster, until
from tests.ledger.cores import WriterRun, bookies, metadata, writer
from tests.ledger.test_recovery import NO_ENTRY, OK_LAC, RecoveryRun, found

THREE = Quorums(3, 3, 2)


async def test_defect_2614_recovery_reads_fence() -> None:
    """A bookie that the fencing LAC read missed must not take the writer's late add after it
    told recovery that it has no such entry; else that add completes above the end."""
    async with cluster("k1", "k2", "k3") as made:
        old = await made.store.create(THREE)
        await old.add(b"entry 0")
        for name in made.names:
            made.bookies[name].held = True
        results = Results()
        old.add_nowait(b"half written", results)
        made.bookies["k1"].held = made.bookies["k2"].held = False
        late = {name: made.bookies[name].waiting for name in made.names}
        for name in made.names:
            made.bookies[name].waiting = []
            made.bookies[name].held = False
        reader = await made.new_store(2).recover(old.ledger_id)
        assert all(made.bookies[name].ledgers[old.ledger_id].fenced for name in made.names)
        for answers in late.values():
            for answer in answers:
                answer()
        await until(lambda: bool(results.all))
        assert reader.last_entry == 0 and results.errors, "not stored, and not said to be"


def test_defect_2614_every_recovery_read_carries_the_fence() -> None:
    run = RecoveryRun()
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, found(0))
    reads = run.new(SendRead)
    assert len(reads) == 6
    assert all(isinstance(one, SendRead) and one.request.fence for one in reads)


def test_defect_2615_2654_a_fresh_last_fragment_knows_no_lac() -> None:
    """Recovery that trusts the -1 of fresh bookies re-adds from 0 into the wrong fragment."""
    fragments = (
        Fragment(EntryId(0), bookies("a", "b", "c")), Fragment(EntryId(10), bookies("d", "e", "f"))
    )
    run = RecoveryRun(metadata("a", "b", "c", fragments=fragments))
    run.fenced(ReadLacReply(Status.NO_LEDGER), OK_LAC)
    asked = run.new(SendRead)
    assert {one.request.first_entry_id for one in asked if isinstance(one, SendRead)} == {10}
    run.read(10, NO_ENTRY, NO_ENTRY)
    ended = run.win()
    assert (ended.last_entry, ended.fragments) == (9, fragments)


async def test_defect_bp46_a_bookie_in_limbo_cannot_truncate_a_ledger() -> None:
    """A bookie that lost entries answers UNKNOWN in limbo; with a second one silent, recovery
    gives up rather than take the absence for the end."""
    async with cluster("k1", "k2", "k3") as made:
        old = await made.store.create(THREE)
        for name in ("k3",):
            made.bookies[name].add_status = Status.UNKNOWN
        await old.add(b"entry 0")
        made.bookies["k1"].ledgers.clear()
        made.bookies["k1"].limbo = True
        made.bookies["k2"].down = True
        with pytest.raises(RecoveryAborted):
            await made.new_store(2).recover(old.ledger_id)
        made.bookies["k2"].down = False
        made.bookies["k3"].add_status = None
        reader = await made.new_store(3).recover(old.ledger_id)
        assert reader.last_entry == 0


def test_defect_1591_no_entry_completes_on_an_ensemble_that_is_only_in_memory() -> None:
    """While the CAS stalls, the replacement is sent nothing and nothing completes."""
    run = WriterRun(writer("a", "b", "c"))
    run.add(b"x")
    run.reply(2, 0, Status.UNKNOWN)
    run.repair("a", "b", "d")
    assert run.core.state is WriterState.CHANGING
    run.reply(0, 0)
    run.reply(1, 0)
    run.add(b"y")
    assert run.completed == -1
    assert not [t for send in run.sent for t in send.targets if t.bookie == "d"]
    run.win()
    assert run.completed == 0, "a and b are of the new ensemble too"


def test_defect_4097_acks_during_the_cas_do_not_move_the_lac_past_the_fragment() -> None:
    """The new fragment begins at LAC + 1; an entry confirmed by old acks meanwhile would be
    looked for on a bookie that never had it."""
    run = WriterRun(writer("a", "b", "c"))
    run.add(b"x", b"y")
    run.reply(2, 0)
    run.reply(1, 0, Status.UNKNOWN)
    write = run.repair("a", "c", "d")
    assert write is not None and write.metadata.fragments[-1].first_entry == 0
    run.reply(0, 0)
    assert run.core.last_add_confirmed == -1
    run.win()
    assert run.core.last_add_confirmed == 0
    run.reply(1, 1)
    run.reply(0, 1)
    assert run.core.last_add_confirmed == 1


def test_defect_4651_4660_an_old_ack_of_the_replaced_bookie_never_counts() -> None:
    run = WriterRun(writer("a", "b", "c"))
    run.add(b"x")
    run.reply(1, 0)
    run.take(run.core.add_reply(1, 0, 0, Status.UNKNOWN))
    run.repair("a", "c", "d")
    run.win()
    run.reply(0, 0)
    assert run.completed == -1, "b's copy is not in the ensemble any more"
    run.reply(2, 0)
    assert run.completed == 0


def test_defect_4194_a_bookie_failing_during_the_cas_is_seen_to_after_it() -> None:
    run = WriterRun(writer("a", "b", "c"))
    run.add(b"x")
    run.reply(2, 0, Status.UNKNOWN)
    run.repair("a", "b", "d")
    run.reply(1, 0, Status.UNKNOWN)
    run.win()
    assert run.core.failed_slots == (1,)
    write = run.repair("a", "d", "e")
    assert write is not None and write.metadata.fragments[-1].ensemble == bookies("a", "e", "d")


async def test_defect_2612_one_ignorant_bookie_does_not_make_a_ledger_look_empty() -> None:
    async with cluster("k1", "k2", "k3") as made:
        old = await made.store.create(THREE)
        made.bookies["k3"].add_status = Status.UNKNOWN
        for number in range(3):
            await old.add(b"%d" % number)
        made.bookies["k1"].down = made.bookies["k2"].down = True
        with pytest.raises(EntryUnknown):
            await made.new_store(2).open(old.ledger_id)
        made.bookies["k1"].down = False
        assert (await made.new_store(2).open(old.ledger_id)).last_entry == 1


def test_defect_2908_2909_corruption_is_not_absence() -> None:
    """Rotten copies are UNKNOWN, so the end is not found where they are."""
    run = RecoveryRun()
    run.fenced(OK_LAC, OK_LAC)
    run.read(0, ReadReply(Status.UNKNOWN), NO_ENTRY, ReadReply(Status.UNKNOWN))
    assert run.core.state is RecoveryState.ABORTED


async def test_defect_1579_13693_an_open_writer_sees_re_replication() -> None:
    """Reads through the writer go where its older fragments were copied to."""
    async with cluster("k1", "k2", "k3", "k4", "k5", "k6") as made:
        live = await made.store.create(THREE)
        first = live.metadata.fragments[0].ensemble
        await live.add(b"entry 0")
        made.bookies[first[0]].down = True
        await live.add(b"entry 1")
        await until(lambda: len(live.metadata.fragments) == 2)
        spare = next(BookieId(name) for name in made.names if all(
            name not in fragment.ensemble for fragment in live.metadata.fragments
        ))
        entry = made.bookies[first[1]].ledgers[live.ledger_id].entries[0]
        made.bookies[spare].add(AddRequest.make(
            live.ledger_id, EntryId(0), entry.last_add_confirmed, entry.body, recovery=True
        ))
        record, version = await made.ledgers.get(live.ledger_id)
        moved = (Fragment(EntryId(0), (spare, *first[1:])), *record.fragments[1:])
        await made.ledgers.update(replace(record, fragments=moved), version)
        await until(lambda: live.metadata.fragments[0].ensemble[0] == spare)
        for name in first[1:]:
            made.bookies[name].ledgers[live.ledger_id].entries.pop(0)
        assert [one.body for one in await live.read(EntryId(0), 1, 100)] == [b"entry 0"]
        assert await live.add(b"entry 2") == 2, "and it writes on"


async def test_defect_1067_one_hung_bookie_does_not_block_recovery() -> None:
    async with cluster("k1", "k2", "k3") as made:
        old = await made.store.create(THREE)
        for number in range(3):
            await old.add(b"%d" % number)
        made.bookies["k2"].held = True
        reader = await made.new_store(2).recover(old.ledger_id)
        assert reader.last_entry == 2
