"""Rules of adds, reads and fences."""

from __future__ import annotations

import asyncio
import dataclasses

from bookie.index import IndexBatch
from ledger.wire import Status
from magnetar.errors import StorageError
from magnetar.ids import EntryId, LedgerId
from tests.bookie.house import LEDGER, LIMITS, House, house, request


async def test_what_was_added_is_read_back_in_ranges() -> None:
    async with house() as it:
        await it.fill(10)
        reply = await it.read(3, 4)
        assert reply.status is Status.OK
        assert [e.entry_id for e in reply.entries] == [3, 4, 5, 6]
        assert all(e.verify(LEDGER) for e in reply.entries)
        assert (await it.read(8, 100)).entries[-1].entry_id == 9
        assert (await it.read(10)).status is Status.NO_ENTRY
        assert (await it.read(0, ledger=99)).status is Status.NO_LEDGER


async def test_a_gap_ends_the_range_and_bytes_limit_it() -> None:
    async with house() as it:
        await it.fill(3)
        await it.fill(3, first=5)
        assert len((await it.read(0, 100)).entries) == 3
        assert len((await it.read(0, 100, max_bytes=20)).entries) == 1
        assert len((await it.read(0, 100, max_bytes=1)).entries) == 1


async def test_R4_no_acknowledgement_before_the_sync() -> None:
    async with house() as it:
        it.disk.gate.clear()
        future = it.add_nowait(request(0))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not future.done()
        it.disk.gate.set()
        assert await future is Status.OK


async def test_adds_during_a_sync_share_the_next_commit() -> None:
    async with house() as it:
        it.disk.gate.clear()
        first = it.add_nowait(request(0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        before = it.storage.log.commits
        rest = [it.add_nowait(request(entry)) for entry in range(1, 50)]
        it.disk.gate.set()
        await asyncio.gather(first, *rest)
        assert it.storage.log.commits == before + 2


async def test_reads_see_what_is_logged_and_not_yet_indexed() -> None:
    async with house() as it:
        future = it.add_nowait(request(0))
        answers: list[int] = []
        future.add_done_callback(lambda _: answers.append(it.storage.indexer.waiting_bytes))
        it.index.write = lambda batch: None  # type: ignore[method-assign]
        assert await future is Status.OK
        assert await it.bodies(0, 1) == [request(0).body]


async def test_a_bad_digest_is_a_bad_request() -> None:
    async with house() as it:
        bad = dataclasses.replace(request(0), digest=1)
        assert await it.add(bad) is Status.BAD_REQUEST
        assert (await it.read(0)).status is Status.NO_LEDGER


async def test_adding_again_with_the_same_body_is_ok_whatever_the_lac() -> None:
    async with house() as it:
        body = b"x" * 100
        assert await it.add(request(5, body, lac=1)) is Status.OK
        assert await it.add(request(5, body, lac=4)) is Status.OK
        assert (await it.read_lac()).last_add_confirmed == 4
        it.disk.gate.clear()
        both = [it.add_nowait(request(6, body)), it.add_nowait(request(6, body, recovery=True))]
        it.disk.gate.set()
        assert await asyncio.gather(*both) == [Status.OK, Status.OK]


async def test_I3_another_body_is_a_conflict_pending_cached_or_stored() -> None:
    limits = dataclasses.replace(LIMITS, cache_bytes=0)
    async with house(limits) as it:
        it.disk.gate.clear()
        first = it.add_nowait(request(0, b"one"))
        assert await it.add(request(0, b"two")) is Status.BODY_CONFLICT
        it.disk.gate.set()
        await first
        await it.indexed()
        assert await it.add(request(0, b"two", recovery=True)) is Status.BODY_CONFLICT
        assert await it.bodies(0, 1) == [b"one"]


async def test_R9_a_fence_refuses_adds_from_its_arrival_and_answers_after_its_commit() -> None:
    async with house() as it:
        await it.fill(2)
        it.disk.gate.clear()
        fencing = asyncio.create_task(it.read_lac(fence=True))
        await asyncio.sleep(0)
        assert await it.add(request(2)) is Status.FENCED
        for _ in range(20):
            await asyncio.sleep(0)
        assert not fencing.done()
        it.disk.gate.set()
        reply = await fencing
        assert (reply.status, reply.last_add_confirmed, reply.last_entry_id) == (Status.OK, 0, 1)


async def test_R9_recovery_adds_pass_a_fence() -> None:
    async with house() as it:
        await it.read(0, fence=True)
        assert await it.add(request(0)) is Status.FENCED
        assert await it.add(request(0, recovery=True)) is Status.OK


async def test_R9_fencing_a_ledger_never_seen_holds() -> None:
    async with house() as it:
        assert (await it.read(0, fence=True)).status is Status.NO_ENTRY
        await it.crash()
        assert await it.add(request(0)) is Status.FENCED


async def test_I12_an_add_under_way_is_settled_before_a_fenced_read_says_no() -> None:
    async with house() as it:
        it.disk.gate.clear()
        adding = it.add_nowait(request(0))
        reading = asyncio.create_task(it.read(0, fence=True))
        await asyncio.sleep(0)
        it.disk.gate.set()
        assert await adding is Status.OK
        assert (await reading).status is Status.OK
        assert (await reading).entries[0].body == request(0).body


async def test_I12_a_recovery_add_under_way_is_settled_too() -> None:
    async with house() as it:
        await it.read(0, fence=True)
        it.disk.gate.clear()
        adding = it.add_nowait(request(0, recovery=True))
        reading = asyncio.create_task(it.read(0, fence=True))
        await asyncio.sleep(0)
        assert not reading.done()
        it.disk.gate.set()
        assert await adding is Status.OK
        assert (await reading).status is Status.OK


async def test_I13_a_fence_survives_restarts_and_the_loss_of_the_index() -> None:
    async with house() as it:
        await it.fill(1)
        await it.read_lac(fence=True)
        for kept in (None, 0, -1):
            await it.crash(kept_batches=kept)
            assert await it.add(request(1)) is Status.FENCED
            assert await it.bodies(0, 1) == [request(0).body]


async def test_a_fence_that_is_not_durable_is_answered_unknown() -> None:
    async with house() as it:
        it.disk.gate.clear()
        fencing = asyncio.create_task(it.read(0, fence=True))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        it.disk.failing = True
        it.disk.gate.set()
        assert (await fencing).status is Status.UNKNOWN


async def test_too_much_pending_is_overloaded() -> None:
    limits = dataclasses.replace(LIMITS, max_pending_bytes=1000)
    async with house(limits) as it:
        it.disk.gate.clear()
        first = it.add_nowait(request(0, bytes(900)))
        assert await it.add(request(1, bytes(200))) is Status.OVERLOADED
        it.disk.gate.set()
        assert await first is Status.OK
        assert await it.add(request(1, bytes(200))) is Status.OK


async def test_a_memoryview_body_is_copied() -> None:
    async with house() as it:
        buffer = bytearray(b"before")
        add = dataclasses.replace(request(0, b"before"), body=memoryview(buffer))
        future = it.add_nowait(add)
        buffer[:] = b"after!"
        assert await future is Status.OK
        assert await it.bodies(0, 1) == [b"before"]


async def test_the_cache_is_bounded_and_cold_reads_are_right() -> None:
    limits = dataclasses.replace(LIMITS, cache_bytes=2000)
    async with house(limits) as it:
        await it.fill(500)
        await it.indexed()
        assert it.storage.indexer.cached_bytes <= 2000
        assert await it.bodies(0, 500) == [request(n).body for n in range(500)]


async def test_an_index_that_cannot_be_written_loses_nothing() -> None:
    async with house() as it:
        real = it.index.write

        def fail(batch: IndexBatch) -> None:
            raise StorageError("no room for the index")

        it.index.write = fail  # type: ignore[method-assign]
        assert await it.add(request(0)) is Status.OK
        await asyncio.sleep(0)
        assert it.storage.space.read_only
        assert await it.bodies(0, 1) == [request(0).body]
        it.index.write = real  # type: ignore[method-assign]
        it.storage.indexer.retry()
        await it.indexed()
        assert not it.storage.space.read_only


async def test_files_are_rolled_and_read_across() -> None:
    limits = dataclasses.replace(LIMITS, file_bytes=2000, cache_bytes=0)
    async with house(limits) as it:
        for start in range(0, 200, 10):
            await it.fill(10, first=start)
        await it.indexed()
        assert len(it.disk.names("log-")) > 3
        assert await it.bodies(0, 200) == [request(n).body for n in range(200)]
        await it.crash(kept_batches=-1)
        assert await it.bodies(0, 200) == [request(n).body for n in range(200)]


async def test_stop_and_start_keep_everything() -> None:
    it = House()
    await it.storage.start()
    await it.fill(20)
    await it.storage.stop()
    assert await it.add(request(20)) is Status.UNKNOWN
    it.storage = it._new()
    await it.storage.start()
    assert len(await it.bodies(0, 20)) == 20
    assert (await it.read_lac()).last_entry_id == EntryId(19)
    await it.storage.stop()


async def test_stopping_answers_what_was_accepted() -> None:
    it = House()
    await it.storage.start()
    futures = [it.add_nowait(request(entry)) for entry in range(5)]
    await it.storage.stop()
    assert [future.result() for future in futures] == [Status.OK] * 5


async def test_R9_a_fence_is_not_forgotten_when_its_ledger_leaves_memory_before_it_is_indexed(
) -> None:
    limits = dataclasses.replace(LIMITS, max_ledgers_in_memory=2, cache_bytes=0)
    async with house(limits) as it:
        await it.fill(1)
        await it.indexed()
        it.storage.indexer._scheduled = True  # the index is busy with something else
        assert (await it.read(5, fence=True)).status is Status.NO_ENTRY
        for other in range(100, 110):
            it.storage._table.get(LedgerId(other))
        assert await it.add(request(1)) is Status.FENCED
        it.storage.indexer.write_all()
        for other in range(200, 210):
            it.storage._table.get(LedgerId(other))
        assert it.storage._table.loaded(LEDGER) is None, "now it may leave"
        assert await it.add(request(1)) is Status.FENCED
