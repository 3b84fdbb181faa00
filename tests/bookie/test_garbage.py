"""Deleting and compacting: nothing living is lost, nothing dead comes back."""

from __future__ import annotations

import asyncio
import dataclasses
import random

import pytest

from bookie.compaction import Compactor
from bookie.garbage import TOMBSTONE_AGE_MS, GarbageCollector
from bookie.log import files_record
from bookie.storage import BookieStorage
from ledger.wire import Status
from magnetar.errors import ConnectionLoss
from magnetar.ids import LedgerId
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.disk import DiskFull
from tests.bookie.house import LIMITS, House, house, request
from tests.bookie.memory_disk import MemoryDisk

SMALL_FILES = dataclasses.replace(LIMITS, file_bytes=2000, cache_bytes=0)


class Metadata:
    """Which ledgers exist, and whether it answers."""

    def __init__(self, *ledgers: int) -> None:
        self.ledgers = set(ledgers)
        self.silent = False
        self.lying = False
        """Lists are empty, as after a reconnect to a server that lags."""
        self.lists_read = 0
        self.asked: list[int] = []

    async def exists(self, ledger_id: LedgerId) -> bool:
        await asyncio.sleep(0)
        if self.silent:
            raise ConnectionLoss("no answer")
        self.asked.append(ledger_id)
        return ledger_id in self.ledgers

    async def listed_beside(self, ledger_id: LedgerId) -> frozenset[LedgerId]:
        await asyncio.sleep(0)
        if self.silent:
            raise ConnectionLoss("no answer")
        self.lists_read += 1
        if self.lying:
            return frozenset()
        return frozenset(
            LedgerId(one) for one in self.ledgers if one >> 12 == ledger_id >> 12
        )


def collector(it: House, metadata: Metadata, live_ratio: float = 0.6) -> GarbageCollector:
    compactor = Compactor(it.storage, random.Random(2), live_ratio=live_ratio, max_victims=100)
    return GarbageCollector(
        it.storage, metadata.exists, metadata.listed_beside, compactor, SystemClock()
    )


async def two_ledgers(it: House, entries: int = 60) -> None:
    """Ledgers 1 and 2, interleaved over several files, all indexed."""
    for start in range(0, entries, 10):
        await it.fill(10, ledger=1, first=start)
        await it.fill(10, ledger=2, first=start)
    await it.indexed()


async def test_R19_only_provably_absent_ledgers_are_deleted() -> None:
    async with house() as it:
        await two_ledgers(it)
        metadata = Metadata(2)
        metadata.silent = True
        result = await collector(it, metadata).collect()
        assert (result.deleted_ledgers, result.complete) == (0, False)
        assert len(await it.bodies(0, 100, ledger=1)) == 60
        metadata.silent = False
        result = await collector(it, metadata).collect()
        assert (result.deleted_ledgers, result.complete) == (1, True)
        assert (await it.read(0, ledger=1)).status is Status.NO_LEDGER
        assert len(await it.bodies(0, 100, ledger=2)) == 60


async def test_R19_a_list_that_lacks_a_ledger_deletes_nothing() -> None:
    async with house() as it:
        await two_ledgers(it)
        metadata = Metadata(1, 2)
        metadata.lying = True

        result = await collector(it, metadata).collect()

        assert (result.deleted_ledgers, result.complete) == (0, True)
        assert len(await it.bodies(0, 100, ledger=1)) == 60
        assert metadata.asked == [1, 2]


async def test_ledgers_that_are_listed_are_not_asked_for_one_by_one() -> None:
    async with house() as it:
        for ledger in range(50):
            await it.fill(1, ledger=ledger)
        await it.indexed()
        metadata = Metadata(*range(49))

        result = await collector(it, metadata).collect(whole=False)

        assert result.deleted_ledgers == 1
        assert (metadata.lists_read, metadata.asked) == (1, [49])


async def test_scattered_ledgers_are_looked_at_in_turn_the_newest_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bookie.garbage.NEWEST_LISTS", 2)
    monkeypatch.setattr("bookie.garbage.OTHER_LISTS", 3)
    async with house() as it:
        ledgers = [number << 12 for number in range(12)]
        for ledger in ledgers:
            await it.fill(1, ledger=ledger)
        await it.indexed()
        metadata = Metadata(*ledgers)
        gc = collector(it, metadata)
        await gc.collect(whole=False)
        assert metadata.lists_read == 5
        metadata.ledgers = set(ledgers[:-1])
        assert (await gc.collect(whole=False)).deleted_ledgers == 1
        metadata.ledgers = set()

        rounds = 0
        while it.storage.files.usage.ledgers():
            await gc.collect(whole=False)
            await it.indexed()
            rounds += 1
            assert rounds <= 4


async def test_a_late_add_does_not_bring_a_deleted_ledger_back() -> None:
    async with house() as it:
        await it.fill(3, ledger=1)
        await collector(it, Metadata()).collect()
        for kept in (None, 0, -1):
            assert await it.add(request(3, ledger=1)) is Status.FENCED
            assert await it.add(request(0, ledger=1, recovery=True)) is Status.NO_LEDGER
            await it.crash(kept_batches=kept)
            assert (await it.read(0, ledger=1)).status is Status.NO_LEDGER


async def test_an_add_during_the_deletion_is_refused() -> None:
    async with house() as it:
        await it.fill(3, ledger=1)
        it.disk.gate.clear()
        deleting = asyncio.create_task(it.storage.delete_ledger(LedgerId(1)))
        await asyncio.sleep(0)
        assert await it.add(request(3, ledger=1)) is Status.FENCED
        assert await it.add(request(3, ledger=1, recovery=True)) is Status.NO_LEDGER
        it.disk.gate.set()
        assert await deleting
        await it.indexed()
        assert list(it.index.ledgers()) == []


async def test_compaction_moves_the_living_and_frees_the_rest() -> None:
    async with house(SMALL_FILES) as it:
        await two_ledgers(it)
        before = it.storage.files.total_bytes()
        result = await collector(it, Metadata(2)).collect()
        assert result.compaction.moved_entries > 0
        assert it.storage.files.total_bytes() < before
        assert it.disk.names("run-")
        assert await it.bodies(0, 100, ledger=2) == [
            request(n, ledger=2).body for n in range(60)
        ]
        for kept in (None, 0, -1):
            await it.crash(kept_batches=kept)
            assert it.storage.node_state.limbo_epoch == 0
            assert len(await it.bodies(0, 100, ledger=2)) == 60
            assert (await it.read(0, ledger=1)).status is Status.NO_LEDGER


async def test_a_fence_older_than_the_compacted_files_survives() -> None:
    async with house(SMALL_FILES) as it:
        await it.read(0, ledger=2, fence=True)
        await it.read(0, ledger=77, fence=True)
        for start in range(0, 60, 10):
            await it.fill(10, ledger=1, first=start)
        await it.indexed()
        first = it.disk.names("log-")[0]
        await collector(it, Metadata(2, 77)).collect()
        assert first not in it.disk.names()
        await it.crash(kept_batches=-1)
        assert await it.add(request(0, ledger=2)) is Status.FENCED
        assert await it.add(request(0, ledger=77)) is Status.FENCED


async def test_the_unlinking_is_recorded_after_the_moved_places_are_flushed() -> None:
    async with house(SMALL_FILES) as it:
        await two_ledgers(it)
        events: list[str] = []
        flush, unlink = it.index.flush, it.disk.unlink

        def flushed() -> None:
            events.append("flush")
            flush()

        async def unlinked(name: str) -> None:
            events.append("unlink")
            assert it.storage.log.durable.offset > 0
            await unlink(name)

        it.index.flush = flushed  # type: ignore[method-assign]
        it.disk.unlink = unlinked  # type: ignore[method-assign]
        await collector(it, Metadata(2)).collect()
        assert events[0] == "flush"
        assert "unlink" in events


@pytest.mark.parametrize("seed", range(25))
async def test_a_crash_anywhere_in_a_compaction_loses_nothing(seed: int) -> None:
    chance = random.Random(seed)
    async with house(SMALL_FILES) as it:
        await two_ledgers(it)
        task = asyncio.create_task(collector(it, Metadata(2)).collect())
        for _ in range(chance.randrange(400)):
            await asyncio.sleep(0)
            if task.done():
                break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await it.crash(
            chance=chance, kept_batches=chance.randrange(-1, it.index.unflushed_batches + 1)
        )
        assert it.storage.node_state.limbo_epoch == 0
        assert await it.bodies(0, 100, ledger=2) == [
            request(n, ledger=2).body for n in range(60)
        ]
        await collector(it, Metadata(2)).collect()
        assert len(await it.bodies(0, 100, ledger=2)) == 60
        present = {name for name in it.disk.names() if name[:4] in ("log-", "run-")}
        assert len(present) == len(it.storage.files.listed)


async def test_a_file_with_a_damaged_living_entry_is_never_unlinked() -> None:
    async with house(SMALL_FILES) as it:
        await two_ledgers(it)
        name = it.disk.names("log-")[0]
        body = bytes(request(3, ledger=2).body)
        at = it.disk.files[name].content.find(body)
        it.disk.rot(name, at)
        await collector(it, Metadata(2)).collect()
        assert name in it.disk.names()
        assert (await it.read(3, ledger=2)).status is Status.UNKNOWN


@pytest.mark.parametrize("kept_batches", [None, -1])
async def test_a_file_of_before_the_start_with_an_unreadable_region_is_never_unlinked(
    kept_batches: int | None,
) -> None:
    """Something living may lie there that the index never had."""
    async with house(SMALL_FILES) as it:
        await two_ledgers(it)
        name = it.disk.names("log-")[0]
        at = it.disk.files[name].content.find(bytes(request(3, ledger=2).body))
        it.disk.rot(name, at - 20)
        await it.crash(kept_batches=kept_batches)
        await collector(it, Metadata()).collect()
        assert name in it.disk.names()


async def test_a_read_during_compaction_sees_every_entry() -> None:
    async with house(SMALL_FILES) as it:
        await two_ledgers(it)
        task = asyncio.create_task(collector(it, Metadata(2)).collect())
        while not task.done():
            assert len(await it.bodies(0, 100, ledger=2)) == 60
            await asyncio.sleep(0)
        assert (await task).compaction.moved_entries


async def test_old_tombstones_are_pruned() -> None:
    class Later(SystemClock):
        def wall_ms(self) -> int:
            return super().wall_ms() + TOMBSTONE_AGE_MS + 60_000

    it = House()
    await it.storage.start()
    await it.fill(1, ledger=1)
    gc = collector(it, Metadata())
    await gc.collect()
    await it.indexed()
    while it.index.state(LedgerId(1)) is None:
        await asyncio.sleep(0)
    assert isinstance(it.storage, BookieStorage)
    assert isinstance(it.disk, MemoryDisk)
    gc._clock = Later()
    await gc.collect()
    assert it.index.state(LedgerId(1)) is None
    await it.storage.stop()


async def test_a_repaired_entry_wins_over_its_damaged_copy_in_a_run() -> None:
    async with house(SMALL_FILES) as it:
        await two_ledgers(it)
        await collector(it, Metadata(2)).collect()
        body = bytes(request(3, ledger=2).body)
        (run,) = [n for n in it.disk.names("run-") if body in it.disk.files[n].content]
        it.disk.rot(run, it.disk.files[run].content.find(body))
        assert (await it.read(3, ledger=2)).status is Status.UNKNOWN
        assert await it.add(request(3, ledger=2, recovery=True)) is Status.OK
        while not it.storage.log._marked:
            await asyncio.sleep(0)
        await it.indexed()
        await it.crash(kept_batches=-1)
        assert len(await it.bodies(0, 100, ledger=2)) == 60


async def test_a_full_disk_is_compacted_as_far_as_there_is_room() -> None:
    async with house(SMALL_FILES, MemoryDisk(capacity_bytes=200_000)) as it:
        await two_ledgers(it)
        before = it.storage.files.total_bytes()
        it.disk.ballast_bytes += it.disk.free_bytes() - LIMITS.reserve_bytes - 1
        result = await collector(it, Metadata(2)).collect()
        assert result.compaction.moved_entries == 0
        assert result.compaction.short_of_bytes > 0
        assert it.disk.names("run-") == []

        it.disk.ballast_bytes -= 2_500  # room for one file, which makes more room
        result = await collector(it, Metadata(2)).collect()

        assert result.compaction.moved_entries > 0 and not result.compaction.short_of_bytes
        assert it.storage.files.total_bytes() < before
        assert await it.bodies(0, 100, ledger=2) == [
            request(n, ledger=2).body for n in range(60)
        ]


async def test_files_in_which_nothing_lives_go_without_any_room() -> None:
    async with house(SMALL_FILES, MemoryDisk(capacity_bytes=200_000)) as it:
        for start in range(0, 100, 10):
            await it.fill(10, ledger=1, first=start)
        await it.fill(1, ledger=2)
        await it.indexed()
        it.disk.ballast_bytes += it.disk.free_bytes() - 600
        before = len(it.disk.names("log-"))

        result = await collector(it, Metadata(2)).collect()

        assert len(result.compaction.victims) >= before - 2
        assert await it.bodies(0, 1, ledger=2) == [request(0, ledger=2).body]


async def test_files_in_which_nothing_lives_are_not_read() -> None:
    async with house(SMALL_FILES) as it:
        await it.read(0, ledger=3, fence=True)
        for start in range(0, 100, 10):
            await it.fill(10, ledger=1, first=start)
        await it.indexed()
        for file in list(it.storage.files._open.values()):
            file.read_at = None  # type: ignore[assignment, method-assign]

        result = await collector(it, Metadata(3)).collect()

        assert len(result.compaction.victims) >= 2
        await it.crash(kept_batches=-1)
        assert await it.add(request(0, ledger=3)) is Status.FENCED
        assert (await it.read(0, ledger=1)).status is Status.NO_LEDGER


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.9])
async def test_files_stay_near_what_lives_in_them_however_it_is_spread(share: float) -> None:
    """However much of each file lives, never more than 1.3 times that, and a file."""
    chance = random.Random(str(share))
    async with house(dataclasses.replace(SMALL_FILES, file_bytes=8_000)) as it:
        kept, entries = set(), dict[int, int]()
        for _ in range(2_000):
            ledger = chance.randrange(1, 60)
            await it.fill(1, ledger=ledger, first=entries.get(ledger, 0))
            entries[ledger] = entries.get(ledger, 0) + 1
        kept = {ledger for ledger in entries if chance.random() < share}
        await it.indexed()

        for _ in range(3):
            await collector(it, Metadata(*kept), live_ratio=0.5).collect()

        files = it.storage.files
        assert files.total_bytes() <= 1.3 * files.usage.total_bytes + 8_000 + 2_000
        for ledger in kept:
            assert len(await it.bodies(0, 10_000, ledger=ledger)) == entries[ledger]


async def test_a_run_that_fills_the_disk_is_unlinked() -> None:
    async with house(SMALL_FILES, MemoryDisk(capacity_bytes=200_000)) as it:
        await two_ledgers(it)
        gc = collector(it, Metadata(2))
        gc._compactor._room = lambda: 1 << 40  # type: ignore[method-assign]
        it.disk.ballast_bytes += it.disk.free_bytes() - 800
        with pytest.raises(DiskFull):
            await gc.collect()
        assert it.disk.names("run-") == []
        assert len(await it.bodies(0, 100, ledger=2)) == 60


async def test_a_list_of_files_made_before_a_new_file_began_does_not_unlink_it() -> None:
    """Simulator, seed 226: compaction's list met the roll of the log, and came after its own."""
    async with house(SMALL_FILES) as it:
        entries = 0
        while it.storage.files[it.storage.log.active_file_id].size_bytes < SMALL_FILES.file_bytes:
            await it.fill(1, first=entries)
            entries += 1
        full = it.storage.log.active_file_id
        assert await it.storage.write_records([files_record(it.storage.files)])
        assert it.storage.log.active_file_id > full
        await it.fill(5, first=entries)
        await it.fill(5, first=entries + 5)
        await it.indexed()
        assert it.storage.pending_bytes == 0

        await it.crash()

        assert len(await it.bodies(0, 1000)) == entries + 10


@pytest.mark.parametrize("seed", range(30))
async def test_crashes_between_many_rounds_lose_neither_entries_nor_fences(seed: int) -> None:
    """Files that are dead, half dead and alive, of before and after the last start."""
    chance = random.Random(seed)
    limits = dataclasses.replace(SMALL_FILES, file_bytes=4_000)
    async with house(limits) as it:
        stored: dict[int, int] = {}
        metadata = Metadata()
        fenced: set[int] = set()
        for round_number in range(8):
            for _ in range(25):
                ledger = chance.randrange(round_number * 6 + 1, round_number * 6 + 7)
                if ledger in fenced:
                    continue
                await it.fill(3, ledger=ledger, first=stored.get(ledger, 0))
                stored[ledger] = stored.get(ledger, 0) + 3
                metadata.ledgers.add(ledger)
            for ledger in sorted(metadata.ledgers - fenced):
                if chance.random() < 0.2:
                    await it.read(0, ledger=ledger, fence=True)
                    fenced.add(ledger)
            await it.fill(40, ledger=10_000 + round_number)  # nothing but this and fences
            await it.indexed()
            for ledger in sorted(metadata.ledgers):
                if chance.random() < 0.4:
                    metadata.ledgers.discard(ledger)
            task = asyncio.create_task(collector(it, metadata).collect())
            for _ in range(chance.choice((3, 30, 300, 100_000))):
                await asyncio.sleep(0)
                if task.done():
                    break
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if chance.random() < 0.5:
                unflushed = it.index.unflushed_batches
                kept = chance.choice((-1, chance.randrange(unflushed + 1)))
                await it.crash(chance=chance, kept_batches=kept)
            assert it.storage.node_state.limbo_epoch == 0
            for ledger in metadata.ledgers:
                assert len(await it.bodies(0, 10_000, ledger=ledger)) == stored[ledger]
            for ledger in fenced & metadata.ledgers:
                late = request(stored[ledger], ledger=ledger)
                assert await it.add(late) is Status.FENCED
        await it.indexed()
        await collector(it, metadata).collect()
        await it.indexed()
        files, commit_bytes = it.storage.files, 6_000  # the file being written ends with one
        assert files.total_bytes() <= 1.3 * files.usage.total_bytes + 4_000 + commit_bytes
