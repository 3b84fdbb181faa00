"""Real files, real RocksDB, a real kill -9."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest

from bookie.index import Index
from bookie.limits import BookieLimits
from bookie.rocks_index import RocksIndex
from bookie.storage import BookieStorage
from ledger.wire import AddRequest, ReadRequest, Status
from magnetar.errors import StorageError
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.file_disk import FileDisk

ROOT = Path(__file__).parents[2]
LIMITS = BookieLimits(read_only_below_bytes=0, reserve_bytes=0, file_bytes=1 << 20, cache_bytes=0)

VICTIM = """
import asyncio, sys
from pathlib import Path
from tests.bookie.test_real_disk import write_for_ever
asyncio.run(write_for_ever(Path(sys.argv[1])))
"""


def body(entry: int) -> bytes:
    return entry.to_bytes(8, "big") * (16 + entry % 100)


def make(folder: Path) -> tuple[FileDisk, Index, BookieStorage]:
    disk, index = FileDisk(folder / "log"), RocksIndex(folder / "index")
    storage = BookieStorage(disk, index, SystemClock(), random.Random(1), LIMITS)
    return disk, index, storage


async def write_for_ever(folder: Path) -> None:
    """Print the number of each entry once it is acknowledged."""
    _, _, storage = make(folder)
    await storage.start()
    entry, in_flight = 0, asyncio.Semaphore(50)

    def acknowledged(status: Status, number: int) -> None:
        assert status is Status.OK
        in_flight.release()
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()

    while True:
        await in_flight.acquire()
        number = entry
        request = AddRequest.make(LedgerId(1), EntryId(number), EntryId(-1), body(number))
        storage.add(request, lambda status, number=number: acknowledged(status, number))  # type: ignore[misc]
        entry += 1


async def test_I26_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, str(tmp_path),
        stdout=asyncio.subprocess.PIPE, env=environment,
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        for _ in range(3000):
            assert await process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = await process.stdout.read()
        await process.wait()
    acknowledged = 3000 + rest.count(b"\n")
    for round_ in ("index kept", "index deleted"):
        if round_ == "index deleted":
            shutil.rmtree(tmp_path / "index")
        disk, index, storage = make(tmp_path)
        await storage.start()
        assert storage.outcome.corrupt == []
        if round_ == "index deleted":
            assert storage.outcome.index_rebuilt
        entry = 0
        while entry < acknowledged:
            reply = await storage.read(
                ReadRequest(LedgerId(1), EntryId(entry), 1000, 1 << 20)
            )
            assert reply.status is Status.OK, (round_, entry, acknowledged)
            for stored in reply.entries:
                assert stored.body == body(stored.entry_id)
            entry += len(reply.entries)
        await storage.stop()
        index.close()
        disk.close()


async def test_a_restart_on_real_files(tmp_path: Path) -> None:
    for start in (0, 100):
        disk, index, storage = make(tmp_path)
        await storage.start()
        futures = []
        for number in range(start, start + 100):
            future: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
            request = AddRequest.make(LedgerId(1), EntryId(number), EntryId(-1), body(number))
            storage.add(request, future.set_result)
            futures.append(future)
        assert set(await asyncio.gather(*futures)) == {Status.OK}
        reply = await storage.read(ReadRequest(LedgerId(1), EntryId(0), 1000, 1 << 20))
        assert [e.body for e in reply.entries] == [body(n) for n in range(start + 100)]
        await storage.stop()
        index.close()
        disk.close()


def test_an_index_in_use_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    """A second bookie on the same folder once moved the index away and cut the log's tail."""
    index = RocksIndex(tmp_path / "index")
    with pytest.raises(StorageError, match="in use"):
        RocksIndex(tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    index.close()
