"""Ledgers that left a list are deleted in the end, whatever failed in between (M6, I20)."""

from __future__ import annotations

import pytest

from ledger.managed_log import LogPolicy, ManagedLog
from ledger.position import Position
from ledger.quorum import Quorums
from magnetar.errors import ConnectionLoss
from magnetar.ids import EntryId, LedgerId
from tests.ledger.cluster import TOPIC, Cluster, Results, append, cluster

SMALL = LogPolicy(Quorums(3, 3, 2), max_ledger_entries=2)


async def names_of(made: Cluster) -> list[LedgerId]:
    return [one async for one in made.ledgers.list()]


def silence(log: ManagedLog) -> None:
    """The metadata do not answer deletions of ledgers."""

    async def lost(_ledger_id: LedgerId) -> None:
        raise ConnectionLoss("no answer")

    log._ledgers.delete = lost  # type: ignore[method-assign]


async def test_a_trim_whose_deletions_failed_is_finished_by_the_next_owner() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log(policy=SMALL)
        await append(log, *(b"%d" % number for number in range(7)))
        ledgers = [info.ledger_id for info in log.record.ledgers]
        silence(log)

        await log.trim(Position(ledgers[2], EntryId(0)))

        assert log.record.doomed_ledgers == log.doomed_ledgers == tuple(ledgers[:2])
        assert await names_of(made) == ledgers
        new, _ = await made.open_log("b2", seed=2)
        await new.tidy()
        assert new.doomed_ledgers == ()
        assert await names_of(made) == ledgers[2:]


async def test_a_deletion_that_failed_is_tried_again_by_the_same_owner() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log(policy=SMALL)
        await append(log, *(b"%d" % number for number in range(4)))
        first = log.record.ledgers[0].ledger_id
        delete = log._ledgers.delete
        silence(log)
        await log.trim(Position(first, EntryId(2)))
        log._ledgers.delete = delete  # type: ignore[method-assign]

        await log.tidy()

        assert first not in await names_of(made)
        await append(log, b"and so on")  # opens a ledger, and so writes the record
        assert log.record.doomed_ledgers == ()


async def test_a_replaced_state_ledger_is_doomed_before_it_is_deleted() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        results = Results()
        log.state.append(b"one", results)
        await results.wait(1)
        old = log.record.state_ledgers[0]
        silence(log)

        await log.state.compact([b"snapshot"])

        assert log.record.doomed_ledgers == (old,)
        new, _ = await made.open_log("b2", seed=2)
        await new.tidy()
        assert old not in await names_of(made)
        assert await new.state.replay() == [b"snapshot"]


@pytest.mark.parametrize("deleted", [True, False])
async def test_closing_names_no_more_what_is_certainly_gone(deleted: bool) -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log(policy=SMALL)
        await append(log, *(b"%d" % number for number in range(4)))
        first = log.record.ledgers[0].ledger_id
        if not deleted:
            silence(log)
        await log.trim(Position(first, EntryId(2)))

        await log.close()

        stored, _ = await made.topics.get(TOPIC)
        assert stored.doomed_ledgers == (() if deleted else (first,))
