"""The ZooKeeper store against a real server that falls silent, crashes and ends sessions."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
from kazoo.client import KazooClient

from magnetar.errors import ConnectionFailed, ConnectionLoss, NotFound
from magnetar.ids import BookieId
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.network import Address
from metadata.bookies import BookieRegistration, BookieRepository
from metadata.cas import put_settled
from metadata.open import open_store
from metadata.store import SessionState
from metadata.zookeeper import ZooKeeperStore
from tests.metadata.memory_network import MemoryNetwork
from tests.metadata.waiting import Signal, States
from tests.zookeeper_server import ZooKeeperServer

CONNECTED, SUSPENDED, LOST = SessionState.CONNECTED, SessionState.SUSPENDED, SessionState.LOST
SESSION_TIMEOUT_S = 3.0

_chroots = itertools.count()


@pytest.fixture
async def store(zookeeper: ZooKeeperServer) -> AsyncIterator[ZooKeeperStore]:
    store = await _connect(zookeeper, f"/sessions/{next(_chroots)}")
    yield store
    await store.close()


async def _connect(server: ZooKeeperServer, chroot: str) -> ZooKeeperStore:
    return await ZooKeeperStore.connect(server.address, chroot, SESSION_TIMEOUT_S)


@contextlib.contextmanager
def _paused(server: ZooKeeperServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


async def _end_session(server: ZooKeeperServer, store: ZooKeeperStore) -> None:
    """End it on the server, as its timeout would: by closing it from a second client."""

    def end() -> None:
        client = KazooClient(server.address, client_id=store._client.client_id)
        client.start()
        client.stop()
        client.close()

    await asyncio.to_thread(end)


async def test_the_negotiated_timeout_is_read_back(zookeeper: ZooKeeperServer) -> None:
    store = await ZooKeeperStore.connect(zookeeper.address, "", 0.2)

    assert store.session_timeout_s == 1.0
    await store.close()


async def test_a_chroot_is_made_and_keeps_clusters_apart(zookeeper: ZooKeeperServer) -> None:
    network, clock = MemoryNetwork(), SystemClock()
    url = f"zk://{zookeeper.address}/apart"
    one = await open_store(f"{url}/one", network=network, clock=clock)
    two = await open_store(f"{url}/two/deep/", network=network, clock=clock)

    await one.create("/a", b"")

    assert await two.children("/") == []
    await one.close()
    await two.close()


async def test_a_silent_server_suspends_and_the_session_goes_on(
    zookeeper: ZooKeeperServer, store: ZooKeeperStore
) -> None:
    states, watcher, session_id = States(store), Signal(), store.session_id
    await store.create("/live", b"", ephemeral=True)
    store.watch("/live", watcher)

    with _paused(zookeeper):
        await states.reach(SUSPENDED)
        silence_s = store.silence_s()
    await states.reach(CONNECTED)

    assert SESSION_TIMEOUT_S / 2 < silence_s < SESSION_TIMEOUT_S
    assert states.seen == [SUSPENDED, CONNECTED]
    assert store.session_id == session_id
    assert store.silence_s() == 0.0
    assert (await store.get("/live")).version == 0
    await watcher.fired()
    await store.put("/live", b"watched still", 0)
    await watcher.fired()


async def test_a_write_into_a_silent_server_is_settled_when_it_is_back(
    zookeeper: ZooKeeperServer, store: ZooKeeperStore
) -> None:
    await store.create("/a", b"")
    states = States(store)

    with _paused(zookeeper):
        putting = asyncio.create_task(put_settled(store, "/a", b"ours", 0))
        await states.reach(SUSPENDED)

    assert await putting == 1
    assert (await store.get("/a")).value == b"ours"


async def test_the_loop_runs_on_while_the_server_is_silent(
    zookeeper: ZooKeeperServer, store: ZooKeeperStore
) -> None:
    loop = asyncio.get_running_loop()
    longest_s = 0.0

    async def tick() -> None:
        nonlocal longest_s
        while True:
            begun_s = loop.time()
            await asyncio.sleep(0.01)
            longest_s = max(longest_s, loop.time() - begun_s)

    ticking = asyncio.create_task(tick())
    with _paused(zookeeper), pytest.raises(ConnectionLoss):
        await store.get("/")
    ticking.cancel()
    await asyncio.wait([ticking])

    assert longest_s < 0.5


async def test_a_crashed_server_keeps_sessions_and_its_data(
    zookeeper: ZooKeeperServer, store: ZooKeeperStore
) -> None:
    states, watcher, session_id = States(store), Signal(), store.session_id
    await store.create("/live", b"", ephemeral=True)
    store.watch("/live", watcher)

    zookeeper.kill()
    try:
        await states.reach(SUSPENDED)
    finally:
        await asyncio.to_thread(zookeeper.start)
    await states.reach(CONNECTED)

    assert store.session_id == session_id
    assert (await store.get("/live")).version == 0
    await watcher.fired()


async def test_an_ended_session_is_lost_and_renewed_and_announces_again(
    zookeeper: ZooKeeperServer, store: ZooKeeperStore
) -> None:
    states, watcher, session_id = States(store), Signal(), store.session_id
    bookies = BookieRepository(store)
    bookie = BookieRegistration(BookieId("b1"), Address("host", 1), None, incarnation="x")
    await bookies.register(bookie)
    await store.create("/kept", b"")
    store.watch("/kept", watcher)

    await _end_session(zookeeper, store)
    await states.pass_by(LOST)
    await states.reach(CONNECTED)

    assert store.session_id != session_id
    assert await bookies.list() == []
    await watcher.fired()
    await bookies.register(bookie)
    await bookies.register(bookie)
    assert await bookies.list() == [bookie]


async def test_a_new_life_replaces_the_announcement_of_an_old_session(
    zookeeper: ZooKeeperServer, store: ZooKeeperStore
) -> None:
    chroot = store._chroot
    old_life = await _connect(zookeeper, chroot)
    bookie = BookieRegistration(BookieId("b1"), Address("host", 1), None, incarnation="same")
    await BookieRepository(old_life).register(bookie)

    await BookieRepository(store).register(bookie)
    await old_life.close()

    assert await BookieRepository(store).list() == [bookie]


async def test_nobody_there_is_said() -> None:
    with pytest.raises(ConnectionFailed):
        await ZooKeeperStore.connect("127.0.0.1:1", "/x", 0.2)


async def test_absence_is_asked_for_twice(store: ZooKeeperStore) -> None:
    synced: list[str] = []
    sync = store._client.sync_async

    def recording_sync(path: str) -> object:
        synced.append(path)
        return sync(path)

    store._client.sync_async = recording_sync

    with pytest.raises(NotFound):
        await store.get("/absent")

    assert synced == [f"{store._chroot}/absent"]
