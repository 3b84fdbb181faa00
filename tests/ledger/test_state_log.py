"""The topic's state: replay, snapshots, and no moment at which either is lost (M4)."""

from __future__ import annotations

import asyncio

import pytest

from magnetar.errors import LedgerClosed, LedgerFenced
from tests.ledger.cluster import TOPIC, Cluster, Results, cluster, until


async def state_of(made: Cluster, broker: str = "next") -> list[bytes]:
    log, _ = await made.open_log(broker, seed=9)
    return await log.state.replay()


async def test_state_is_replayed_in_order_across_owners() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        for owner in range(3):
            log, _ = await made.open_log(f"b{owner}", seed=owner)
            assert await log.state.replay() == [b"%d" % n for n in range(owner)]
            results = Results()
            log.state.append(b"%d" % owner, results)
            await results.wait(1)
            assert not results.errors


async def test_a_snapshot_replaces_everything_before_it() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        results = Results()
        for number in range(5):
            log.state.append(b"delta %d" % number, results)
        await results.wait(5)
        old = log.record.state_ledgers
        await log.state.compact([b"snapshot", b"more"])
        assert len(log.record.state_ledgers) == 1 and log.record.state_ledgers != old
        assert not await made.ledgers.exists(old[0])
        assert log.state.size_bytes == len(b"snapshot" + b"more")
        log.state.append(b"delta 5", results)
        await results.wait(6)
        assert await state_of(made) == [b"snapshot", b"more", b"delta 5"]


async def test_appends_around_a_snapshot_keep_their_side() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        before, after = Results(), Results()
        log.state.append(b"before", before)
        compacted = asyncio.ensure_future(log.state.compact([b"snapshot"]))
        await asyncio.sleep(0)
        log.state.append(b"after", after)
        await compacted
        await before.wait(1)
        await after.wait(1)
        assert not before.errors and not after.errors
        assert await state_of(made) == [b"snapshot", b"after"]


async def test_an_empty_snapshot_leaves_nothing() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        results = Results()
        log.state.append(b"delta", results)
        await results.wait(1)
        await log.state.compact([])
        assert log.record.state_ledgers == ()
        log.state.append(b"again", results)
        await results.wait(2)
        assert await state_of(made) == [b"again"]


async def test_a_snapshot_of_a_fenced_owner_changes_nothing() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        old, _ = await made.open_log("b1")
        results = Results()
        old.state.append(b"delta", results)
        await results.wait(1)
        await made.open_log("b2", seed=2)
        record, version = await made.topics.get(TOPIC)
        outcome = await asyncio.gather(old.state.compact([b"zombie"]), return_exceptions=True)
        assert isinstance(outcome[0], LedgerFenced)
        assert (await made.topics.get(TOPIC)) == (record, version)
        assert await state_of(made) == [b"delta"]


async def test_a_fenced_delta_is_an_error() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        old, fenced = await made.open_log("b1")
        results = Results()
        old.state.append(b"kept", results)
        await results.wait(1)
        await made.open_log("b2", seed=2)
        old.state.append(b"lost", results)
        await results.wait(2)
        assert isinstance(results.all[1], LedgerFenced) and fenced


async def test_closing_does_not_wait_for_ever_for_a_snapshot_without_bookies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ledger.chain.CLOSE_PATIENCE_S", 0.05)
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        made.bookies["k1"].held = made.bookies["k2"].held = True
        compacting = asyncio.ensure_future(log.state.compact([b"snapshot"]))
        await until(lambda: len(made.bookies.adds) == 3)
        async with asyncio.timeout(5):
            await log.close()
            with pytest.raises(LedgerClosed):
                await compacting
        assert await state_of(made) == []


async def test_a_fence_ends_a_snapshot_that_waits_for_bookies() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        made.bookies["k1"].held = made.bookies["k2"].held = True
        compacting = asyncio.ensure_future(log.state.compact([b"snapshot"]))
        await until(lambda: len(made.bookies.adds) == 3)
        log.state.fence(LedgerFenced("another owner"))
        with pytest.raises(LedgerFenced):
            await compacting
        await until(lambda: log.state._chain._task is None)
