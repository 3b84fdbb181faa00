"""The embedded store: sessions, determinism, durability and group commit."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from magnetar.errors import ConnectionLoss, DiskFailure, NotFound, SessionExpired
from magnetar.runtime.clock import SystemClock
from metadata.embedded import Batch, EmbeddedStore, StoredState
from metadata.store import SessionState
from tests.metadata.waiting import Signal, States

CONNECTED, SUSPENDED, LOST = SessionState.CONNECTED, SessionState.SUSPENDED, SessionState.LOST


async def test_an_expired_session_loses_its_ephemerals_and_is_renewed() -> None:
    store = EmbeddedStore.open(None)
    session, other = store.open_session(), store.open_session()
    states, watcher = States(session), Signal()
    await session.create("/live", b"", ephemeral=True)
    session.watch("/kept", watcher)
    first_id = session.session_id

    session.expire()

    assert states.seen == [LOST]
    with pytest.raises(SessionExpired):
        await session.get("/")
    with pytest.raises(NotFound):
        await other.get("/live")
    await states.reach(CONNECTED)
    assert session.session_id != first_id
    await watcher.fired()
    await session.create("/live", b"again", ephemeral=True)


async def test_a_suspended_session_keeps_its_ephemerals() -> None:
    store = EmbeddedStore.open(None)
    session, other = store.open_session(), store.open_session()
    states, watcher = States(session), Signal()
    await session.create("/live", b"", ephemeral=True)
    session.watch("/live", watcher)

    session.suspend()
    with pytest.raises(ConnectionLoss):
        await session.put("/live", b"new", 0)
    session.resume()

    assert states.seen == [SUSPENDED, CONNECTED]
    assert (await other.get("/live")).version == 0
    await watcher.fired()


async def test_in_memory_nothing_suspends_and_no_thread_starts() -> None:
    threads_before = threading.active_count()
    session = EmbeddedStore.open(None).open_session()

    for call in (session.create("/a", b""), session.put("/a", b"x", 0), session.get("/a")):
        with pytest.raises(StopIteration):
            call.send(None)

    assert threading.active_count() == threads_before


def test_the_room_is_importable_without_its_heavy_libraries() -> None:
    program = (
        "import sys, metadata.embedded, metadata.served, metadata.open, metadata.cluster,"
        "metadata.ledgers, metadata.topics, metadata.bookies, metadata.brokers\n"
        "sys.exit(any(name in sys.modules for name in ('rocksdict', 'kazoo', 'grpc')))"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_what_was_answered_is_there_after_a_reopening(tmp_path: Path) -> None:
    store = EmbeddedStore.open(tmp_path)
    session = store.open_session()
    await session.create("/a/b", b"zero")
    await session.put("/a/b", b"one", 0)
    await session.create("/a/gone", b"")
    await session.delete("/a/gone")
    await store.close()

    store = EmbeddedStore.open(tmp_path)
    session = store.open_session()

    assert await session.children("/a") == ["b"]
    assert (await session.get("/a/b")).value == b"one"
    assert await session.put("/a/b", b"two", 1) == 2
    await store.close()


async def test_local_sessions_end_with_their_process(tmp_path: Path) -> None:
    store = EmbeddedStore.open(tmp_path)
    session = store.open_session()
    await session.create("/live", b"", ephemeral=True)
    await session.create("/kept", b"")
    _crash(store)

    store = EmbeddedStore.open(tmp_path)

    with pytest.raises(NotFound):
        await store.open_session().get("/live")
    await store.open_session().get("/kept")
    await store.close()


async def test_remote_sessions_outlive_a_restart_until_their_timeout(tmp_path: Path) -> None:
    store = EmbeddedStore.open(tmp_path)
    remote_id = store.open_remote_session(0.3)
    await store.change(lambda tree: tree.create("/live", b"", remote_id))
    _crash(store)

    store = EmbeddedStore.open(tmp_path)
    session, watcher = store.open_session(), Signal()
    session.watch("/live", watcher)

    assert (await session.get("/live")).value == b""
    assert store.touch(remote_id) == 0.3
    assert session.session_id > remote_id
    await watcher.fired()
    with pytest.raises(NotFound):
        await session.get("/live")
    assert store.touch(remote_id) is None
    await store.close()


def _crash(store: EmbeddedStore) -> None:
    """End without closing sessions; the file lock has to be freed within one process."""
    assert store._backend is not None
    store._backend._db.close()  # type: ignore[attr-defined]


async def test_a_directory_belongs_to_one_process(tmp_path: Path) -> None:
    store = EmbeddedStore.open(tmp_path)

    with pytest.raises(DiskFailure, match="is in use by another process"):
        EmbeddedStore.open(tmp_path)

    await store.close()


class GatedBackend:
    """Makes batches durable when told to."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Semaphore(0)
        self.fails = False

    def load(self) -> StoredState:
        return StoredState({}, {}, 1)

    async def write(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.begun.set()
        await self.gate.acquire()
        if self.fails:
            raise DiskFailure("a disk of a test")

    async def close(self) -> None:
        return


async def test_nobody_sees_what_is_not_durable() -> None:
    backend = GatedBackend()
    session = EmbeddedStore(backend, SystemClock()).open_session()
    watcher = Signal()
    session.watch("/a", watcher)

    creating = asyncio.create_task(session.create("/a", b""))
    await backend.begun.wait()
    reading = asyncio.create_task(session.get("/a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not creating.done() and not reading.done() and watcher.count == 0

    backend.gate.release()
    await asyncio.gather(creating, reading)
    await watcher.fired()


async def test_writes_that_come_during_a_sync_share_the_next() -> None:
    backend = GatedBackend()
    session = EmbeddedStore(backend, SystemClock()).open_session()
    first = asyncio.create_task(session.create("/first", b""))
    await backend.begun.wait()

    others = [asyncio.create_task(session.create(f"/{n}", b"")) for n in range(20)]
    backend.gate.release()
    backend.gate.release()
    await asyncio.gather(first, *others)

    assert [len(batch.nodes) for batch in backend.batches] == [1, 20]


async def test_a_failed_write_fails_everything_after_it() -> None:
    backend = GatedBackend()
    session = EmbeddedStore(backend, SystemClock()).open_session()
    backend.fails = True
    backend.gate.release()

    with pytest.raises(DiskFailure):
        await session.create("/a", b"")
    with pytest.raises(DiskFailure):
        await session.get("/a")
