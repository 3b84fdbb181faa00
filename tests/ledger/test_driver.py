"""Ledgers over bookies: the shells around the cores, with real metadata."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ledger.quorum import Quorums
from ledger.wire import Status
from ledger.writer_handle import LedgerWriterHandle
from magnetar.errors import (
    EntryNotFound,
    EntryUnknown,
    LedgerClosed,
    LedgerFenced,
    LedgerNotFound,
    NotEnoughBookies,
    RecoveryAborted,
)
from magnetar.ids import EntryId, LedgerId
from metadata import paths
from metadata.ledgers import LedgerState
from tests.ledger.cluster import LIMITS, Cluster, Results, cluster, until

THREE = Quorums(3, 3, 2)


async def fill(writer: LedgerWriterHandle, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        assert await writer.add(b"entry %d" % number) == number


async def bodies(made: Cluster, ledger_id: LedgerId) -> list[bytes]:
    reader = await made.store.open(ledger_id)
    found: list[bytes] = []
    while len(found) <= reader.last_entry:
        entries = await reader.read(EntryId(len(found)), 1000, 1 << 20)
        found += [entry.body for entry in entries]
    return found


def outsider(made: Cluster, writer: LedgerWriterHandle) -> str:
    return next(name for name in made.names if name not in writer.metadata.fragments[-1].ensemble)


async def test_a_closed_ledger_reads_back() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE, (("topic", "orders"),))
        await fill(writer, 10)
        assert await writer.close() == 9
        assert await writer.close() == 9, "closing twice is fine"
        record, _ = await made.ledgers.get(writer.ledger_id)
        assert (record.state, record.last_entry, record.length_bytes) == (
            LedgerState.CLOSED, 9, 70
        )
        assert await bodies(made, writer.ledger_id) == [b"entry %d" % n for n in range(10)]
        with pytest.raises(LedgerClosed):
            writer.add_nowait(b"late", Results())


async def test_callbacks_come_in_order() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        made.bookies["k1"].held = made.bookies["k2"].held = True
        results = Results()
        for number in range(5):
            writer.add_nowait(b"%d" % number, results)
        made.bookies["k2"].waiting.reverse()
        made.bookies["k2"].release()
        await results.wait(5)
        assert results.all == [0, 1, 2, 3, 4]


async def test_adds_in_flight_at_a_close_are_certainly_not_stored() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 1)
        for name in made.names:
            made.bookies[name].held = True
        results = Results()
        writer.add_nowait(b"in flight", results)
        assert await writer.close() == 0
        assert isinstance(results.all[0], LedgerClosed)
        for name in made.names:
            made.bookies[name].release()
        assert await bodies(made, writer.ledger_id) == [b"entry 0"]


async def test_a_failed_bookie_is_replaced_without_an_error() -> None:
    async with cluster("k1", "k2", "k3", "k4") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 3)
        spare = outsider(made, writer)
        victim = writer.metadata.fragments[0].ensemble[0]
        made.bookies[victim].down = True
        await fill(writer, 3, start=3)
        await until(lambda: spare in writer.metadata.fragments[-1].ensemble)
        await fill(writer, 3, start=6)
        await writer.close()
        assert await bodies(made, writer.ledger_id) == [b"entry %d" % n for n in range(9)]


async def test_with_three_bookies_one_may_die_and_come_back() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 2)
        made.bookies["k3"].down = True
        await made.unregister("k3")
        await fill(writer, 2, start=2)
        await until(lambda: writer.metadata.fragments[-1].under_replicated)
        made.bookies["k3"].down = False
        await made.register("k3", incarnation="2")
        await until(lambda: not writer.metadata.fragments[-1].under_replicated)
        await fill(writer, 2, start=4)
        record, _ = await made.ledgers.get(writer.ledger_id)
        assert [fragment.under_replicated for fragment in record.fragments] == [True, False]
        assert 5 in made.bookies["k3"].ledgers[writer.ledger_id].entries


async def test_below_the_ack_quorum_adds_wait_and_say_why() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 1)
        made.bookies["k2"].down = made.bookies["k3"].down = True
        await made.unregister("k2")
        await made.unregister("k3")
        results = Results()
        writer.add_nowait(b"entry 1", results)
        await until(lambda: writer.blocked_reason is not None)
        assert "k2" in str(writer.blocked_reason) and not results.all
        made.bookies["k2"].down = False
        await made.register("k2", incarnation="2")
        await results.wait(1)
        assert results.all == [1] and writer.blocked_reason is None


async def test_a_read_only_bookie_is_replaced() -> None:
    async with cluster("k1", "k2", "k3", "k4") as made:
        writer = await made.store.create(THREE)
        spare = outsider(made, writer)
        victim = writer.metadata.fragments[0].ensemble[1]
        made.bookies[victim].add_status = Status.READ_ONLY
        await made.register(victim, read_only=True)
        await fill(writer, 2)
        await until(lambda: spare in writer.metadata.fragments[-1].ensemble)


async def test_a_slow_bookie_is_replaced_by_bytes() -> None:
    async with cluster("k1", "k2", "k3", "k4") as made:
        store = made.new_store(limits=replace(LIMITS, slow_bookie_bytes=100))
        writer = await store.create(THREE)
        slow = writer.metadata.fragments[0].ensemble[2]
        made.bookies[slow].held = True
        for number in range(30):
            assert await writer.add(b"0123456789") == number
        await until(lambda: slow not in writer.metadata.fragments[-1].ensemble)


async def test_a_small_cluster_makes_small_ledgers() -> None:
    async with cluster("k1", "k2") as made:
        writer = await made.store.create(THREE)
        record = writer.metadata
        assert (record.ensemble_size, record.write_quorum, record.ack_quorum) == (2, 2, 2)
        assert (record.wanted_ensemble_size, record.wanted_write_quorum) == (3, 3)
        await fill(writer, 1)


async def test_one_bookie_is_too_few_for_two_acks() -> None:
    async with cluster("k1") as made:
        with pytest.raises(NotEnoughBookies):
            await made.store.create(THREE)
        writer = await made.store.create(Quorums(1, 1, 1))
        await fill(writer, 3)


async def test_recovery_keeps_every_acknowledged_entry_and_fences() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 5)
        reader = await made.new_store(2).recover(writer.ledger_id)
        assert reader.last_entry == 4
        with pytest.raises(LedgerFenced):
            await writer.add(b"late")
        with pytest.raises(LedgerFenced):
            await writer.close()
        assert await bodies(made, writer.ledger_id) == [b"entry %d" % n for n in range(5)]


async def test_the_writer_learns_of_a_recovery_from_the_record() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 1)
        stopped: list[Exception] = []
        writer.on_stopped = stopped.append
        await made.new_store(2).recover(writer.ledger_id)
        await until(lambda: bool(stopped))
        assert isinstance(stopped[0], LedgerFenced)


async def test_recoveries_side_by_side_agree() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 5)
        limits = replace(LIMITS, recovery_attempts=10)
        readers = await asyncio.gather(
            *(made.new_store(seed, limits).recover(writer.ledger_id) for seed in (2, 3, 4))
        )
        assert [reader.last_entry for reader in readers] == [4, 4, 4]


async def test_recovery_with_two_of_three_down_gives_up() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 1)
        made.bookies["k1"].down = made.bookies["k2"].down = True
        with pytest.raises(RecoveryAborted):
            await made.new_store(2).recover(writer.ledger_id)
        made.bookies["k1"].down = made.bookies["k2"].down = False
        assert (await made.new_store(2).recover(writer.ledger_id)).last_entry == 0


async def test_a_striped_ledger_reads_back_with_one_bookie_down() -> None:
    async with cluster("k1", "k2", "k3", "k4", "k5") as made:
        writer = await made.store.create(Quorums(5, 3, 2))
        await fill(writer, 40)
        await writer.close()
        made.bookies["k2"].down = True
        assert await bodies(made, writer.ledger_id) == [b"entry %d" % n for n in range(40)]


async def test_an_open_ledger_is_read_up_to_a_known_lac_without_harm() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 5)
        reader = await made.new_store(2).open(writer.ledger_id)
        assert reader.last_entry == 3, "the LAC travels with the next entry"
        with pytest.raises(EntryUnknown):
            await reader.read(EntryId(4), 1, 100)
        await fill(writer, 1, start=5)


async def test_beyond_the_end_of_a_closed_ledger_is_certain() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 1)
        await writer.close()
        reader = await made.store.open(writer.ledger_id)
        with pytest.raises(EntryNotFound):
            await reader.read(EntryId(1), 1, 100)


async def test_a_deleted_ledger_is_not_found() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        await writer.close()
        await made.store.delete(writer.ledger_id)
        await made.store.delete(writer.ledger_id)
        with pytest.raises(LedgerNotFound):
            await made.store.open(writer.ledger_id)
        assert not await made.store.exists(writer.ledger_id)


async def test_metadata_out_of_reach_delays_changes_and_not_adds() -> None:
    async with cluster("k1", "k2", "k3", "k4") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 1)
        spare = outsider(made, writer)
        made.session.suspend()  # type: ignore[attr-defined]
        victim = writer.metadata.fragments[0].ensemble[0]
        made.bookies[victim].down = True
        await fill(writer, 5, start=1)
        assert len(writer.metadata.fragments) == 1
        made.session.resume()  # type: ignore[attr-defined]
        await until(lambda: spare in writer.metadata.fragments[-1].ensemble)
        await fill(writer, 1, start=6)


async def test_a_record_that_cannot_be_read_stops_the_writer_instead_of_hanging_it() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 1)
        path = f"{paths.ledger(writer.ledger_id)}"
        record = await made.session.get(path)
        await made.session.put(path, b"rot", record.version)
        async with asyncio.timeout(5):
            with pytest.raises(LedgerFenced):
                await writer.close()


async def test_bookies_without_room_are_not_failed_but_asked_again() -> None:
    async with cluster("k1", "k2", "k3") as made:
        writer = await made.store.create(THREE)
        await fill(writer, 1)
        for name in made.names:
            made.bookies[name].add_status = Status.OVERLOADED
        results = Results()
        writer.add_nowait(b"entry 1", results)
        writer.add_nowait(b"entry 2", results)
        await until(lambda: len(made.bookies.adds) >= 3 + 12)
        assert writer.blocked_reason is None and not results.all
        for name in made.names:
            made.bookies[name].add_status = None
        await results.wait(2)
        assert results.all == [1, 2]
        assert len(writer.metadata.fragments) == 1
        await until(lambda: len(made.bookies["k1"].ledgers[writer.ledger_id].entries) == 3)
        await writer.close()


async def test_a_bookie_without_room_for_too_long_is_replaced() -> None:
    async with cluster("k1", "k2", "k3", "k4") as made:
        made.store = made.new_store(limits=replace(LIMITS, overload_patience_s=0.01))
        writer = await made.store.create(THREE)
        spare = outsider(made, writer)
        made.bookies[writer.metadata.fragments[0].ensemble[0]].add_status = Status.OVERLOADED
        await fill(writer, 3)
        await until(lambda: spare in writer.metadata.fragments[-1].ensemble)
        await writer.close()
        assert await bodies(made, writer.ledger_id) == [b"entry %d" % n for n in range(3)]
