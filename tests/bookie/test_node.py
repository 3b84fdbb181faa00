"""A whole bookie on an embedded metadata store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest

from bookie.http import BookieHttp
from bookie.identity import COOKIE_NAME, WrongIdentity
from bookie.index import MemoryIndex
from bookie.node import BookieNode
from bookie.settings import BookieSettings
from ledger.wire import AddRequest, ReadRequest, Status
from magnetar.errors import NotFound
from magnetar.ids import BookieId, EntryId, LedgerId
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.network import Address
from magnetar.runtime.tcp import TcpNetwork
from metadata.bookies import BookieRepository
from metadata.cluster import initialize_cluster
from metadata.embedded import EmbeddedSession, EmbeddedStore
from tests.bookie.house import LIMITS
from tests.bookie.memory_disk import MemoryDisk

BOOKIE = BookieId("b1")
SETTINGS = BookieSettings(
    BOOKIE, admin_listen=Address("127.0.0.1", 0), rack="r1", limits=LIMITS
)


class Place:
    """Metadata and a disk for one bookie."""

    def __init__(self) -> None:
        self.store = EmbeddedStore.open(None)
        self.session: EmbeddedSession = self.store.open_session()
        self.bookies = BookieRepository(self.store.open_session())
        self.disk = MemoryDisk()
        self.index = MemoryIndex()
        self.nodes: list[BookieNode] = []

    async def node(self, settings: BookieSettings = SETTINGS) -> BookieNode:
        node = BookieNode(
            settings, self.session, TcpNetwork(), self.disk, self.index, SystemClock(),
            random.Random(4), on_fatal=lambda _: None, admin=BookieHttp,
        )
        await node.start()
        self.nodes.append(node)
        return node


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    await initialize_cluster(
        made.session, random_bytes=random.Random(1).randbytes, clock=SystemClock()
    )
    yield made
    for node in made.nodes:
        await node.stop()
    await made.store.close()


async def add(node: BookieNode, ledger: int, entry: int = 0) -> Status:
    future: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
    request = AddRequest.make(LedgerId(ledger), EntryId(entry), EntryId(-1), b"body")
    node.storage.add(request, future.set_result)
    return await future


async def status_of(node: BookieNode, ledger: int, entry: int = 0) -> Status:
    request = ReadRequest(LedgerId(ledger), EntryId(entry), 1, 100)
    return (await node.storage.read(request)).status


async def test_a_bookie_announces_itself_and_withdraws(place: Place) -> None:
    node = await place.node()
    (registration,) = await place.bookies.list()
    assert registration.bookie_id == BOOKIE
    assert registration.address == node.address
    assert registration.admin_address == node.admin_address
    assert (registration.rack, registration.read_only) == ("r1", False)
    await place.nodes.pop().stop()
    assert await place.bookies.list() == []


async def test_without_a_cluster_it_says_what_to_do() -> None:
    place = Place()
    with pytest.raises(NotFound, match="cluster init"):
        await place.node()
    await place.store.close()


async def test_read_only_is_announced(place: Place) -> None:
    node = await place.node()
    node.storage.space.force(True)
    async with asyncio.timeout(5):
        while not (await place.bookies.list())[0].read_only:
            await asyncio.sleep(0)


async def test_after_a_lost_session_it_announces_itself_again(place: Place) -> None:
    node = await place.node()
    place.session.expire()
    async with asyncio.timeout(5):
        while node.registered:
            await asyncio.sleep(0)
        while not node.registered:
            await asyncio.sleep(0)
    assert [b.bookie_id for b in await place.bookies.list()] == [BOOKIE]
    assert await add(node, 1) is Status.OK


async def test_a_lost_disk_comes_back_in_limbo_only_by_command(place: Place) -> None:
    node = await place.node()
    assert await add(node, 1) is Status.OK
    await place.nodes.pop().stop()
    place.disk, place.index = MemoryDisk(), MemoryIndex()
    with pytest.raises(WrongIdentity):
        await place.node()
    node = await place.node(replace(SETTINGS, accept_loss=True))
    assert COOKIE_NAME in place.disk.names()
    assert await status_of(node, 0) is Status.UNKNOWN
    newer = LedgerId(node.storage.node_state.limbo_ceiling + 1)
    assert await add(node, newer) is Status.OK
    assert await status_of(node, newer) is Status.OK


async def test_http(place: Place) -> None:
    node = await place.node()
    assert await add(node, 1000) is Status.OK
    base = f"http://{node.admin_address}"
    async with aiohttp.ClientSession() as http:
        for path in ("/healthz", "/readyz"):
            assert (await http.get(base + path)).status == 200
        text = await (await http.get(base + "/metrics")).text()
        assert "magnetar_bookie_adds_total 1.0" in text
        state = await (await http.get(base + "/v1/bookie")).json()
        assert (state["bookie_id"], state["ledgers"]) == ("b1", 1)
        collected = await (await http.post(base + "/v1/bookie/gc")).json()
        assert collected["deleted_ledgers"] == 1
        refused = await http.post(base + "/v1/bookie/accept-loss", json={})
        assert refused.status == 400
        await node.storage.enter_limbo("a test")
        accepted = await http.post(base + "/v1/bookie/accept-loss", json={"reason": "known"})
        assert accepted.status == 200
        assert node.storage.node_state.limbo_ceiling == -1
        answer = await http.post(base + "/v1/bookie/read-only", json={"read_only": True})
        assert (await answer.json())["read_only"] is True
        assert (await http.post(base + "/v1/bookie/read-only", data=b"x")).status == 400


async def test_R19_metadata_begun_anew_under_a_running_bookie_delete_nothing(place: Place) -> None:
    node = await place.node()
    assert await add(node, 1) is Status.OK
    cookie, version = await place.bookies.get_cookie(BOOKIE)
    await place.bookies.delete_cookie(BOOKIE, version)
    result = await node.garbage.collect()
    assert (result.deleted_ledgers, result.complete) == (0, False)
    await place.bookies.create_cookie(BOOKIE, b"of another disk")
    assert not (await node.garbage.collect()).complete
    assert await status_of(node, 1) is Status.OK
    await place.bookies.update_cookie(BOOKIE, cookie, 0)
    assert (await node.garbage.collect()).deleted_ledgers == 1
