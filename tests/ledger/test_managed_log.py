"""The managed log: order, rolls, takeovers, trimming, and fencing for good (M1-M3, M6, M10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger.driver import ReadHandle
from ledger.managed_log import LogPolicy
from ledger.position import BEFORE_FIRST, Position
from ledger.quorum import Quorums
from ledger.wire import Status
from magnetar.errors import (
    ConnectionLoss,
    LedgerClosed,
    LedgerError,
    LedgerFenced,
    LedgerNotFound,
    NotFound,
    RecoveryAborted,
)
from magnetar.ids import EntryId, LedgerId
from metadata.ledgers import LedgerState
from metadata.topic_nodes import TopicVersion
from metadata.topics import TopicRecord
from tests.ledger.cluster import TOPIC, Results, append, cluster, read_all, until

SMALL = LogPolicy(Quorums(3, 3, 2), max_ledger_entries=3)


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"entry %d" % number for number in range(start, start + count)]


async def test_a_topic_without_a_record_is_not_found() -> None:
    async with cluster("k1", "k2", "k3") as made:
        with pytest.raises(NotFound):
            await made.open_log()


async def test_no_ledger_is_made_before_the_first_append() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        assert log.record.ledgers == () and log.owner.epoch == 1
        assert log.last_confirmed == BEFORE_FIRST
        assert await log.read(log.first_position, 10, 100) == []
        await append(log, b"first")
        assert len(log.record.ledgers) == 1
        assert log.record.last_ledger_id == log.record.ledgers[0].ledger_id


async def test_positions_grow_and_bodies_come_back_across_ledgers() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log(policy=SMALL)
        positions = await append(log, *numbered(10))
        assert positions == sorted(set(positions))
        assert log.last_confirmed == positions[-1]
        assert len(log.record.ledgers) == 4
        assert await read_all(log) == numbered(10)
        assert log.entries == 10


async def test_one_read_crosses_ledgers_within_its_bounds() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log(policy=SMALL)
        await append(log, *numbered(10))
        entries = await log.read(log.first_position, 8, 1 << 20)
        assert [entry.body for entry in entries] == numbered(8)
        few = await log.read(log.first_position, 100, 30)
        assert 1 <= len(few) <= 4


async def test_a_position_past_its_ledger_reads_the_next() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        (last,) = await append(log, b"a")
        await log.roll()
        beyond = Position(last.ledger_id, EntryId(1))
        assert await log.read(beyond, 1, 100) == []
        await append(log, b"b")
        assert [entry.body for entry in await log.read(beyond, 1, 100)] == [b"b"]
        assert log.position_after(last) == log.last_confirmed


async def test_a_new_owner_continues_and_the_old_one_is_fenced() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        old, fenced = await made.open_log("b1")
        await append(old, *numbered(3))
        new, _ = await made.open_log("b2", seed=2)
        assert new.owner.epoch == 2
        assert await read_all(new) == numbered(3)
        results = Results()
        old.append(b"late", results)
        await results.wait(1)
        assert isinstance(results.all[0], LedgerFenced)
        assert len(fenced) == 1
        await append(new, b"entry 3")
        assert await read_all(new) == numbered(4)


async def test_a_fenced_log_stays_fenced_and_changes_nothing() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        old, fenced = await made.open_log("b1", policy=SMALL)
        await append(old, *numbered(4))
        new, _ = await made.open_log("b2", seed=2)
        _, version = await made.topics.get(TOPIC)
        with pytest.raises(LedgerFenced):
            await old.trim(old.last_confirmed)
        assert len(fenced) == 1, "M2: also background work notices"
        with pytest.raises(LedgerFenced):
            await old.update_record(lambda record: replace(record, terminated=True))
        with pytest.raises(LedgerFenced):
            await old.state.compact([b"snapshot"])
        results = Results()
        old.append(b"x", results)
        old.state.append(b"x", results)
        await results.wait(2)
        assert all(isinstance(one, LedgerFenced) for one in results.all)
        assert (await made.topics.get(TOPIC))[1] == version
        assert await read_all(new) == numbered(4)


async def test_a_lost_roll_cas_leaves_no_ledger_behind() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        old, fenced = await made.open_log("b1")
        await made.open_log("b2", seed=2)
        results = Results()
        old.append(b"late", results)
        await results.wait(1)
        assert isinstance(results.all[0], LedgerFenced) and fenced
        await until(lambda: True)
        assert [one async for one in made.ledgers.list()] == []


async def test_an_empty_ledger_is_dropped_at_takeover() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        old, _ = await made.open_log("b1")
        for name in made.names:
            made.bookies[name].held = True
        old.append(b"never stored", Results())
        await until(lambda: len(old.record.ledgers) == 1)
        empty = old.record.ledgers[0].ledger_id
        for name in made.names:
            made.bookies[name].held = False
        new, _ = await made.open_log("b2", seed=2)
        assert new.record.ledgers == () and new.record.last_ledger_id == empty
        await new.tidy()
        with pytest.raises(LedgerNotFound):
            await made.ledgers.get(empty)


async def test_an_unsettled_entry_seen_by_the_new_owner_is_kept() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        old, _ = await made.open_log("b1")
        await append(old, b"entry 0")
        for name in ("k1", "k2"):
            made.bookies[name].held = True
        results = Results()
        old.append(b"entry 1", results)
        await until(lambda: sum(r.entry_id == 1 for _, r in made.bookies.adds) == 3)
        for name in ("k1", "k2"):
            made.bookies[name].held = False
        new, _ = await made.open_log("b2", seed=2)
        assert await read_all(new) == numbered(2)
        await until(lambda: bool(results.errors))
        assert isinstance(results.all[0], LedgerFenced), "unknown to its sender, not failed"


async def test_an_incurable_ledger_is_closed_and_its_entries_go_to_the_next() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, fenced = await made.open_log()
        await append(log, b"entry 0")
        for name in ("k1", "k2"):
            made.bookies[name].script.append(Status.BODY_CONFLICT)
        positions = await append(log, *numbered(5, start=1))
        assert len(log.record.ledgers) == 2 and not fenced
        assert {position.ledger_id for position in positions} == {
            log.record.ledgers[1].ledger_id
        }
        assert await read_all(log) == numbered(6), "in order, each exactly once"
        first, _ = await made.ledgers.get(log.record.ledgers[0].ledger_id)
        assert (first.state, first.last_entry) == (LedgerState.CLOSED, 0)


async def test_without_bookies_appends_wait_and_say_why() -> None:
    async with cluster("k1") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        results = Results()
        log.append(b"a", results)
        await until(lambda: log.blocked_reason is not None)
        assert "ack quorum is 2" in str(log.blocked_reason)
        made.bookies.bookies.update(type(made.bookies)("k2").bookies)
        await made.register("k2")
        await results.wait(1)
        assert log.blocked_reason is None and isinstance(results.all[0], Position)


async def test_a_ledger_smaller_than_wanted_is_rolled_when_bookies_come() -> None:
    async with cluster("k1", "k2") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        await append(log, b"a")
        made.bookies.bookies.update(type(made.bookies)("k3").bookies)
        await made.register("k3")
        await append(log, b"b")
        await until(lambda: len(log.record.ledgers) == 2)
        record, _ = await made.ledgers.get(log.record.ledgers[-1].ledger_id)
        assert record.ensemble_size == 3


async def test_trimming_writes_the_list_and_deletes_ledgers() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log(policy=SMALL)
        positions = await append(log, *numbered(10))
        infos = log.record.ledgers
        assert await log.trim(positions[7]) == 2
        assert [info.ledger_id for info in log.record.ledgers] == [
            info.ledger_id for info in infos[2:]
        ]
        assert log.record.trimmed_ledgers == 2
        for info in infos[:2]:
            assert not await made.ledgers.exists(info.ledger_id)
        assert await read_all(log) == numbered(4, start=6)
        assert [entry.body for entry in await log.read(positions[0], 1, 100)] == [b"entry 6"]


async def test_a_read_that_meets_a_trim_goes_on_behind_it() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log(policy=SMALL)
        positions = await append(log, *numbered(10))
        opened = asyncio.Event()
        gone = log.record.ledgers[0].ledger_id
        open_ledger = log._ledgers.open

        async def slow_open(ledger_id: LedgerId) -> ReadHandle:
            if ledger_id == gone:
                opened.set()
                while await made.ledgers.exists(ledger_id):
                    await asyncio.sleep(0)
            return await open_ledger(ledger_id)

        log._ledgers.open = slow_open  # type: ignore[method-assign]
        reading = asyncio.ensure_future(log.read(positions[0], 1, 100))
        await opened.wait()
        assert await log.trim(positions[7]) == 2
        assert [entry.body for entry in await reading] == [b"entry 6"]


async def test_reading_what_was_trimmed_to_the_last_is_the_end_and_no_loss() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        positions = await append(log, *numbered(3))
        await log.roll()
        assert await log.trim(log.position_after(log.last_confirmed)) == 1
        assert await log.read(positions[0], 10, 100) == []
        (following,) = await append(log, b"b")
        assert [entry.position for entry in await log.read(positions[0], 10, 100)] == [following]


async def test_trimming_never_takes_the_open_ledger() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        (position,) = await append(log, b"a")
        beyond = Position(LedgerId(position.ledger_id + 5), EntryId(0))
        assert await log.trim(beyond) == 0
        await log.roll()
        assert await log.trim(Position(position.ledger_id, EntryId(1))) == 1
        assert log.record.ledgers == ()
        assert log.record.last_ledger_id == position.ledger_id, "nothing below it comes again"
        (following,) = await append(log, b"b")
        assert following > position


async def test_rolling_by_bytes_and_on_request() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log(policy=LogPolicy(Quorums(3, 3, 2), max_ledger_bytes=20))
        await append(log, b"0123456789")
        await append(log, b"0123456789")
        await append(log, b"0123456789")
        await until(lambda: len(log.record.ledgers) == 2)
        await log.roll()
        await log.roll()
        assert [info.entries for info in log.record.ledgers] == [2, 1]
        assert [info.size_bytes for info in log.record.ledgers] == [20, 10]


async def test_an_aged_ledger_is_rolled_by_the_next_append() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log(policy=LogPolicy(Quorums(3, 3, 2), max_ledger_age_ms=0))
        await append(log, b"a")
        await append(log, b"b")
        assert len(log.record.ledgers) == 2


async def test_closing_stores_what_was_appended() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, fenced = await made.open_log()
        results = Results()
        for body in numbered(3):
            log.append(body, results)
        log.state.append(b"state", results)
        await log.close()
        assert len(results.all) == 4 and not results.errors and not fenced
        assert log.record.ledgers[0].entries == 3
        log.append(b"late", results)
        await results.wait(5)
        assert isinstance(results.all[-1], LedgerClosed)
        again, _ = await made.open_log("b2")
        assert await read_all(again) == numbered(3)
        assert await again.state.replay() == [b"state"]


async def test_too_few_bookies_at_takeover_is_told_and_can_be_tried_again() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log("b1")
        await append(log, b"entry 0")
        made.bookies["k1"].down = made.bookies["k2"].down = True
        with pytest.raises(RecoveryAborted):
            await made.open_log("b2", seed=2)
        made.bookies["k1"].down = made.bookies["k2"].down = False
        new, _ = await made.open_log("b2", seed=3)
        assert await read_all(new) == [b"entry 0"] and new.owner.epoch == 3


async def test_owners_racing_for_a_topic_leave_one() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        outcomes = await asyncio.gather(
            *(made.open_log(f"b{n}", seed=n) for n in range(4)), return_exceptions=True
        )
        survivors = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, LedgerFenced)
                continue
            results = Results()
            outcome[0].append(b"mine", results)
            await results.wait(1)
            survivors += [outcome[0]] if not results.errors else []
        assert len(survivors) == 1


async def test_an_expired_session_fences_the_log() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, fenced = await made.open_log()
        await append(log, b"a")
        made.session.suspend()  # type: ignore[attr-defined]
        rolled = asyncio.ensure_future(log.roll())
        await until(lambda: made.session.silence_s() >= 0)
        made.session.expire()  # type: ignore[attr-defined]
        await asyncio.gather(rolled, return_exceptions=True)
        assert fenced or log.record.ledgers[-1].entries == 1


async def test_publishing_goes_on_while_metadata_is_silent() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, fenced = await made.open_log()
        await append(log, b"entry 0")
        made.session.suspend()  # type: ignore[attr-defined]
        await append(log, *numbered(3, start=1))
        made.session.resume()  # type: ignore[attr-defined]
        await log.roll()
        assert await read_all(log) == numbered(4) and not fenced


async def test_a_ledger_whose_recording_was_applied_but_not_answered_is_not_deleted() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, fenced = await made.open_log()
        update, tries = made.topics.update, 0

        async def applied_unanswered(record: TopicRecord, version: int) -> int:
            nonlocal tries
            if record.owner is None or record.owner.broker_id != "b1":
                return await update(record, version)
            tries += 1
            if tries == 1:
                await update(record, version)
                await made.open_log("b2", seed=2)
                raise ConnectionLoss("applied, and another owner came before the retry")
            return await update(record, version)

        made.topics.update = applied_unanswered  # type: ignore[method-assign]
        results = Results()
        log.append(b"in doubt", results)
        await results.wait(1)
        record, _ = await made.topics.get(TOPIC)

        assert fenced and isinstance(results.all[0], LedgerFenced)
        for info in record.ledgers:
            assert await made.ledgers.exists(info.ledger_id)
        await made.open_log("b3", seed=3)


@pytest.mark.parametrize("applied", [True, False])
async def test_a_record_whose_writer_was_cancelled_is_still_ours(applied: bool) -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, fenced = await made.open_log()
        update = made.topics.update

        async def unanswered(record: TopicRecord, version: TopicVersion) -> TopicVersion:
            if applied:
                await update(record, version)
            return await asyncio.get_running_loop().create_future()

        made.topics.update = unanswered  # type: ignore[method-assign]
        named = (("colour", "blue"),)
        writing = asyncio.ensure_future(
            log.update_record(lambda record: replace(record, properties=named)))
        for _ in range(5):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        made.topics.update = update  # type: ignore[method-assign]
        await append(log, b"1")

        record, _ = await made.topics.get(TOPIC)
        assert not fenced and record == log.record
        assert record.properties == (named if applied else ())


async def test_giving_up_from_within_an_answer_tells_every_append_once() -> None:
    async with cluster("k1", "k2", "k3") as made:
        await made.create_topic()
        log, _ = await made.open_log()
        await append(log, b"first")
        await made.open_log("b2", seed=2)
        told: list[int] = []

        def give_up(number: int) -> Callable[[Position | LedgerError], None]:
            def done(result: Position | LedgerError) -> None:
                assert isinstance(result, LedgerFenced)
                told.append(number)
                log.abandon("the topic failed")

            return done

        for number in range(4):
            log.append(b"late", give_up(number))
        await until(lambda: len(told) == 4)

        assert told == [0, 1, 2, 3]
