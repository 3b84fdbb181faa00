"""What crashes, rot, full and failing disks do, and do not do."""

from __future__ import annotations

import asyncio
import dataclasses
import random

import pytest

from bookie.ledger_state import ALL_LEDGERS, NO_LEDGERS
from bookie.record import FILE_HEADER_BYTES
from bookie.replay import Replay, ReplayOutcome
from ledger.wire import Status
from magnetar.ids import LedgerId
from tests.bookie.house import LEDGER, LIMITS, House, house, request
from tests.bookie.memory_disk import MemoryDisk

SMALL_FILES = dataclasses.replace(LIMITS, file_bytes=1500, cache_bytes=0)


async def marked(it: House) -> None:
    """Until the log went idle and its last entries lie under a mark."""
    while not it.storage.log._marked:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    await it.indexed()


def entry_offset(disk: MemoryDisk, entry: int) -> tuple[str, int]:
    """Where the body of an entry lies."""
    body = request(entry).body
    for name in disk.names("log-"):
        at = disk.files[name].content.find(bytes(body))
        if at >= 0:
            return name, at
    raise AssertionError(f"entry {entry} is nowhere")


@pytest.mark.parametrize("seed", range(40))
async def test_I26_acknowledged_adds_survive_any_crash(seed: int) -> None:
    chance = random.Random(seed)
    acked: dict[int, bytes] = {}
    refused_after_fence = False
    async with house(SMALL_FILES) as it:
        entry = 0
        for _ in range(6):
            futures: dict[int, asyncio.Future[Status]] = {}
            for _ in range(chance.randrange(1, 30)):
                futures[entry] = it.add_nowait(request(entry, bytes([entry % 256]) * 40))
                entry += 1
                if chance.random() < 0.3:
                    await asyncio.sleep(0)
            if chance.random() < 0.5:
                it.disk.gate.clear()
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
            acked |= {
                n: bytes([n % 256]) * 40
                for n, f in futures.items() if f.done() and f.result() is Status.OK
            }
            kept = chance.randrange(-1, it.index.unflushed_batches + 1)
            await it.crash(kept_batches=kept, chance=chance)
            assert it.storage.outcome.corrupt == []
            assert it.storage.node_state.limbo_epoch == 0, "a torn tail is no limbo"
            for number, body in acked.items():
                assert await it.bodies(number, 1) == [body], number
            for number in futures:
                if number not in acked:
                    reply = await it.read(number)
                    assert reply.status in (Status.OK, Status.NO_ENTRY, Status.NO_LEDGER)
        if chance.random() < 0.5:
            assert (await it.read(entry, fence=True)).status is not Status.OK
            await it.crash(kept_batches=-1, chance=chance)
            refused_after_fence = await it.add(request(entry)) is Status.FENCED
            assert refused_after_fence


async def test_I12_what_a_fenced_read_denied_never_comes_back() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        async with house() as it:
            await it.fill(3)
            it.disk.gate.clear()
            it.add_nowait(request(3))
            for _ in range(4):
                await asyncio.sleep(0)
            await it.crash(chance=chance)
            before = await it.read(3, fence=True)
            await it.crash(chance=chance, kept_batches=0)
            assert (await it.read(3, fence=True)).status is before.status
            assert await it.add(request(3)) is Status.FENCED


async def test_the_tail_behind_the_mark_is_carried_into_a_synced_file() -> None:
    async with house(dataclasses.replace(LIMITS, idle_mark_s=60)) as it:
        await it.fill(5)
        old = it.disk.names("log-")
        await it.crash(kept_batches=0)
        assert [r.entry_id for r in it.storage.outcome.carried] == [0, 1, 2, 3, 4]
        created = it.disk.journal.index("create log-000000000002")
        cut = next(n for n, line in enumerate(it.disk.journal) if line.startswith("truncate"))
        assert created < cut
        assert it.disk.names("log-") == [*old, "log-000000000002"]
        await it.crash(kept_batches=-1)
        assert len(await it.bodies(0, 5)) == 5


async def test_an_idle_log_marks_its_last_entries() -> None:
    async with house() as it:
        await it.fill(3)
        await marked(it)
        await it.crash()
        assert it.storage.outcome.carried == []
        assert len(await it.bodies(0, 3)) == 3


async def test_R16_a_damaged_entry_is_unknown_and_its_neighbours_are_served() -> None:
    async with house(SMALL_FILES) as it:
        await it.fill(10)
        await marked(it)
        it.disk.rot(*entry_offset(it.disk, 4))
        assert (await it.read(4)).status is Status.UNKNOWN
        assert [e.entry_id for e in (await it.read(0, 10)).entries] in ([], [0, 1, 2, 3])
        assert len((await it.read(5, 10)).entries) == 5
        assert (await it.read(4, fence=True)).status is Status.UNKNOWN


async def test_I24_a_damaged_body_found_by_a_rebuild_is_that_entry_and_no_limbo() -> None:
    async with house(SMALL_FILES) as it:
        await it.fill(10)
        await marked(it)
        await it.crash(
            kept_batches=-1, damage=lambda disk: disk.rot(*entry_offset(disk, 4))
        )
        assert it.storage.outcome.corrupt_entries == [(LEDGER, 4)]
        assert it.storage.node_state.limbo_epoch == 0
        assert (await it.read(4)).status is Status.UNKNOWN
        assert (await it.read(10)).status is Status.NO_ENTRY
        assert await it.add(request(4, recovery=True)) is Status.OK, "a good copy repairs it"
        await it.indexed()
        assert len(await it.bodies(0, 10)) == 10
        await it.crash(kept_batches=-1)
        assert len(await it.bodies(0, 10)) == 10


async def test_a_damaged_record_header_before_the_mark_is_limbo() -> None:
    async with house(SMALL_FILES) as it:
        await it.fill(10)
        await marked(it)

        def damage(disk: MemoryDisk) -> None:
            name, at = entry_offset(disk, 4)
            disk.rot(name, at - 20)

        await it.crash(kept_batches=-1, damage=damage)
        assert it.storage.node_state.limbo_ceiling == ALL_LEDGERS
        assert (await it.read(4)).status is Status.UNKNOWN
        assert (await it.read(99)).status is Status.UNKNOWN, "a negative is not certain"
        assert (await it.read(0, ledger=1234)).status is Status.UNKNOWN
        assert (await it.read_lac()).status is Status.UNKNOWN
        assert await it.bodies(0, 1) == [request(0).body], "what is there is served"
        assert await it.add(request(10)) is Status.FENCED, "a fence may have been lost"


async def test_a_damaged_commit_header_is_scanned_past() -> None:
    async with house() as it:
        for number in range(5):
            await it.fill(1, first=number)
        await marked(it)

        def damage(disk: MemoryDisk) -> None:
            name, at = entry_offset(disk, 2)
            disk.rot(name, at - 40 - 30)

        await it.crash(kept_batches=-1, damage=damage)
        assert it.storage.node_state.limbo_epoch == 1
        for number in (0, 1, 3, 4):
            assert await it.bodies(number, 1) == [request(number).body]
        assert (await it.read(2)).status is Status.UNKNOWN


async def test_a_damaged_file_header_loses_no_entry() -> None:
    async with house() as it:
        await it.fill(5)
        await marked(it)
        name = it.disk.names("log-")[0]
        await it.crash(kept_batches=-1, damage=lambda disk: disk.rot(name, 3))
        assert len(await it.bodies(0, 5)) == 5
        assert it.storage.node_state.limbo_epoch == 1


async def test_a_crash_before_the_limbo_is_recorded_finds_the_damage_again() -> None:
    """Simulator, seed 785: the index had gone past the damage, and the limbo was forgotten."""
    async with house() as it:
        for entry in range(10):
            await it.fill(1, first=entry)
        it.storage.kill()
        await asyncio.sleep(0)
        disk = it.disk = it.disk.crash()
        it.index = it.index.crash(0)
        name = disk.names("log")[-1]
        disk.rot(name, len(disk.read(name)) // 2 - 40)
        storage = it._new()
        await storage.files.open_present()
        first = await Replay(storage.files, it.index).run()
        assert first.limbo

        again = await Replay(storage.files, it.index).run()

        assert again.limbo


async def test_accepting_the_loss_ends_the_limbo_and_is_written_down() -> None:
    async with house(SMALL_FILES) as it:
        await it.fill(10)
        await marked(it)

        def damage(disk: MemoryDisk) -> None:
            name, at = entry_offset(disk, 4)
            disk.rot(name, at - 20)

        await it.crash(kept_batches=-1, damage=damage)
        assert await it.storage.bound_limbo(LedgerId(50))
        assert await it.add(request(0, ledger=51)) is Status.OK, "made after the loss"
        assert await it.storage.accept_loss("the disk is gone", LEDGER)
        assert (await it.read(99)).status is Status.NO_ENTRY
        assert (await it.read(0, ledger=8)).status is Status.UNKNOWN
        assert await it.storage.accept_loss("all of it")
        assert (await it.read(0, ledger=8)).status is Status.NO_LEDGER
        assert await it.add(request(99)) is Status.FENCED, "fenced stays fenced"
        await it.crash(kept_batches=-1)
        assert it.storage.node_state.limbo_ceiling == NO_LEDGERS
        assert it.storage.node_state.limbo_epoch == 1, "known damage begins no second limbo"
        assert (await it.read(99)).status is Status.NO_ENTRY
        assert any(b"the disk is gone" in file.content for file in it.disk.files.values())


async def test_a_lost_file_is_limbo() -> None:
    async with house(SMALL_FILES) as it:
        for start in range(0, 100, 10):
            await it.fill(10, first=start)
        await marked(it)
        it.index.flush()

        def lose(disk: MemoryDisk) -> None:
            del disk.files[disk.names("log-")[1]]

        await it.crash(damage=lose)
        assert it.storage.node_state.limbo_epoch == 1
        statuses = {(await it.read(n)).status for n in range(100)}
        assert statuses == {Status.OK, Status.UNKNOWN}
        await it.crash()
        assert it.storage.node_state.limbo_epoch == 1


async def test_a_log_cut_short_before_its_mark_is_limbo() -> None:
    async with house(dataclasses.replace(LIMITS, file_bytes=1500)) as it:
        for start in range(0, 60, 10):
            await it.fill(10, first=start)
        await marked(it)

        def cut(disk: MemoryDisk) -> None:
            content = disk.files[disk.names("log-")[0]].content
            del content[len(content) - 100 :]

        await it.crash(kept_batches=-1, damage=cut)
        assert it.storage.node_state.limbo_epoch == 1


async def test_I25_a_full_disk_is_read_only_and_writable_again() -> None:
    limits = dataclasses.replace(
        LIMITS, read_only_below_bytes=100, reserve_bytes=0, space_check_interval_s=0.001
    )
    async with house(limits, MemoryDisk(capacity_bytes=20_000)) as it:
        entry = 0
        while (status := await it.add(request(entry, bytes(500)))) is Status.OK:
            entry += 1
        assert status is Status.READ_ONLY
        assert it.storage.space.read_only
        assert (await it.read(entry)).status is Status.NO_ENTRY
        assert len(await it.bodies(0, 100)) == entry
        it.disk.capacity_bytes = 200_000
        async with asyncio.timeout(5):
            while it.storage.space.read_only:
                await asyncio.sleep(0.001)
        assert await it.add(request(entry, bytes(500))) is Status.OK
        assert it.read_only == [True, False]
        await it.crash(kept_batches=0)
        assert len(await it.bodies(0, 100)) == entry + 1
        assert it.storage.node_state.limbo_epoch == 0


async def test_below_the_threshold_recovery_adds_and_fences_still_pass() -> None:
    limits = dataclasses.replace(LIMITS, read_only_below_bytes=50_000, reserve_bytes=2000)
    async with house(limits, MemoryDisk(capacity_bytes=1_000_000)) as it:
        await it.fill(1)
        it.disk.ballast_bytes = 960_000
        it.storage.space.check()
        assert await it.add(request(1)) is Status.READ_ONLY
        assert await it.add(request(1, recovery=True)) is Status.OK
        it.disk.ballast_bytes = it.disk.free_bytes() + 960_000 - 1500
        it.storage.space.check()
        assert await it.add(request(2, recovery=True)) is Status.READ_ONLY
        assert (await it.read(5, fence=True)).status is Status.NO_ENTRY


async def test_a_failed_sync_ends_the_bookie_and_answers_nothing_but_unknown() -> None:
    async with house() as it:
        await it.fill(2)
        it.disk.gate.clear()
        futures = [it.add_nowait(request(n)) for n in range(2, 6)]
        it.disk.failing = True
        it.disk.gate.set()
        assert set(await asyncio.gather(*futures)) == {Status.UNKNOWN}
        assert len(it.fatal) == 1
        assert await it.add(request(9)) is Status.UNKNOWN
        assert (await it.read(0)).status is Status.UNKNOWN
        assert (await it.read_lac(fence=True)).status is Status.UNKNOWN


async def test_a_device_that_does_not_read_is_unknown() -> None:
    async with house(SMALL_FILES) as it:
        await it.fill(3)
        await it.indexed()
        it.disk.unreadable = True
        assert (await it.read(1)).status is Status.UNKNOWN


async def test_an_index_entry_without_data_is_unknown() -> None:
    async with house(SMALL_FILES) as it:
        await it.fill(3)
        await it.indexed()
        content = it.disk.files[it.disk.names("log-")[0]].content
        del content[FILE_HEADER_BYTES:]
        assert (await it.read(1)).status is Status.UNKNOWN


async def test_a_crash_between_carrying_and_cutting_is_repeated_safely() -> None:
    async with house(dataclasses.replace(LIMITS, idle_mark_s=60)) as it:
        await it.fill(5)
        for _ in range(3):
            it.storage.kill()
            await asyncio.sleep(0)
            it.disk = it.disk.crash(random.Random(3))
            it.index = it.index.crash(0)
            it.storage = it._new()

            async def crash(_: ReplayOutcome) -> None:
                raise RuntimeError("power cut")

            it.storage._cut_tail = crash  # type: ignore[assignment, method-assign]
            with pytest.raises(RuntimeError):
                await it.storage.start()
        await it.crash(kept_batches=0)
        assert len(await it.bodies(0, 5)) == 5
        assert it.storage.node_state.limbo_epoch == 0
        assert len(it.disk.names("log-")) == 2


async def test_a_torn_tail_stays_a_tail_when_its_rescue_is_cut_short() -> None:
    async with house(dataclasses.replace(LIMITS, idle_mark_s=60)) as it:
        await it.fill(6)
        it.storage.kill()
        it.limits = dataclasses.replace(it.limits, max_commit_bytes=20)
        await asyncio.sleep(0)
        it.disk = it.disk.crash()
        it.disk.files[it.disk.names("log-")[0]].content += b"torn" * 20
        it.index = it.index.crash(0)
        it.storage = it._new()

        async def crash(_: ReplayOutcome) -> None:
            raise RuntimeError("power cut")

        it.storage._cut_tail = crash  # type: ignore[assignment, method-assign]
        with pytest.raises(RuntimeError):
            await it.storage.start()
        await it.crash(kept_batches=0)
        assert it.storage.node_state.limbo_epoch == 0
        assert len(await it.bodies(0, 6)) == 6
