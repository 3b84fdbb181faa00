"""The served store: its session through broken, silent and restarted servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from magnetar.errors import (
    ConnectionFailed,
    ConnectionLoss,
    InvalidFrame,
    MagnetarError,
    NotFound,
    NotSupported,
    SessionExpired,
)
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.network import Address, FrameLink, Network
from magnetar.runtime.tcp import TcpNetwork
from metadata.cas import put_settled
from metadata.embedded import EmbeddedStore
from metadata.open import open_store
from metadata.served import MetadataServer, ServedStore
from metadata.served_wire import (
    MAGIC,
    PROTOCOL_VERSION,
    Reply,
    ReplyKind,
    Request,
    RequestKind,
    decode_names,
    decode_reply,
    decode_request,
    encode_names,
    encode_reply,
    encode_request,
    error_of,
    error_reply,
)
from metadata.store import Guard, SessionState
from tests.metadata.memory_network import MemoryNetwork
from tests.metadata.waiting import PATIENCE_S, Signal, States

CONNECTED, SUSPENDED, LOST = SessionState.CONNECTED, SessionState.SUSPENDED, SessionState.LOST
ADDRESS = Address("memory", 7)


@dataclass
class Served:
    network: MemoryNetwork
    embedded: EmbeddedStore
    server: MetadataServer

    async def connect(self, session_timeout_s: float = 6.0) -> ServedStore:
        return await ServedStore.connect(self.network, ADDRESS, SystemClock(), session_timeout_s)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    network, embedded = MemoryNetwork(), EmbeddedStore.open(None)
    server = MetadataServer(embedded, network)
    await server.start(ADDRESS)
    yield Served(network, embedded, server)
    await server.stop()
    await embedded.close()


async def test_a_broken_link_keeps_the_session_and_fires_the_watches(served: Served) -> None:
    store = await served.connect()
    states, watcher = States(store), Signal()
    session_id = store.session_id
    await store.create("/live", b"", ephemeral=True)
    store.watch("/live", watcher)

    served.network.break_links()
    await states.reach(SUSPENDED)
    await served.embedded.open_session().put("/live", b"changed meanwhile", 0)
    await states.reach(CONNECTED)

    await watcher.fired()
    assert store.session_id == session_id
    assert (await store.get("/live")).version == 1
    await store.put("/live", b"watched still", 1)
    await watcher.fired()
    await store.close()


async def test_a_call_whose_link_breaks_is_unknown_and_may_be_applied(served: Served) -> None:
    store = await served.connect()
    await store.create("/a", b"")
    applied = Signal()
    served.embedded.open_session().watch("/a", applied)
    served.network.is_mute = True
    putting = asyncio.create_task(store.put("/a", b"applied", 0))
    await applied.fired()

    served.network.break_links()
    with pytest.raises(ConnectionLoss):
        await putting

    served.network.is_mute = False
    assert (await store.get("/a")).version == 1
    await store.close()


async def test_an_applied_write_without_an_answer_is_settled(served: Served) -> None:
    store = await served.connect()
    await store.create("/a", b"")
    applied = Signal()
    served.embedded.open_session().watch("/a", applied)
    served.network.is_mute = True
    putting = asyncio.create_task(put_settled(store, "/a", b"applied", 0))
    await applied.fired()

    served.network.break_links()
    served.network.is_mute = False

    assert await putting == 1
    await store.close()


async def test_a_silent_server_suspends_before_the_session_ends(served: Served) -> None:
    store = await served.connect(1.0)
    states, session_id = States(store), store.session_id
    await store.create("/live", b"", ephemeral=True)

    served.network.is_silent = True
    await states.reach(SUSPENDED)
    assert store.silence_s() > 0.5
    served.network.is_silent = False
    await states.reach(CONNECTED)

    assert store.session_id == session_id
    assert store.silence_s() == 0.0
    assert (await store.get("/live")).version == 0
    await store.close()


async def test_a_session_silent_for_too_long_is_lost_and_renewed(served: Served) -> None:
    store = await served.connect(0.4)
    states, session_id = States(store), store.session_id
    await store.create("/live", b"", ephemeral=True)
    gone = Signal()
    served.embedded.open_session().watch("/live", gone)

    served.network.is_silent = True
    await gone.fired()
    served.network.is_silent = False
    await states.pass_by(LOST)
    await states.reach(CONNECTED)

    assert states.seen == [SUSPENDED, LOST, CONNECTED]
    assert store.session_id != session_id
    with pytest.raises(NotFound):
        await store.get("/live")
    await store.close()


async def test_a_live_client_hears_at_once_that_its_session_was_ended(served: Served) -> None:
    store = await served.connect()
    states = States(store)

    await served.embedded.end_session(store.session_id)

    await states.pass_by(LOST)
    await states.reach(CONNECTED)
    await store.close()


async def test_a_session_outlives_a_restart_of_its_server(tmp_path: Path) -> None:
    network = MemoryNetwork()
    embedded = EmbeddedStore.open(tmp_path)
    server = MetadataServer(embedded, network)
    await server.start(ADDRESS)
    store = await ServedStore.connect(network, ADDRESS, SystemClock())
    states, session_id, watcher = States(store), store.session_id, Signal()
    await store.create("/live", b"", ephemeral=True)
    store.watch("/live", watcher)

    await server.stop()
    await embedded.close()
    await states.reach(SUSPENDED)
    embedded = EmbeddedStore.open(tmp_path)
    server = MetadataServer(embedded, network)
    await server.start(ADDRESS)
    await states.reach(CONNECTED)

    assert store.session_id == session_id
    assert (await store.get("/live")).version == 0
    await watcher.fired()
    await store.close()
    with pytest.raises(NotFound):
        await embedded.open_session().get("/live")
    await server.stop()
    await embedded.close()


async def test_calls_made_while_suspended_wait_for_the_server(served: Served) -> None:
    store = await served.connect()
    states = States(store)
    served.network.refuses = True
    served.network.break_links()
    await states.reach(SUSPENDED)

    creating = asyncio.create_task(store.create("/a", b""))
    served.network.refuses = False

    assert await creating == 0
    await store.close()


async def test_calls_have_a_deadline(served: Served) -> None:
    store = await served.connect(0.3)
    served.network.is_silent = True

    with pytest.raises((ConnectionLoss, SessionExpired)):
        await store.get("/")

    served.network.is_silent = False
    await store.close()


async def test_nobody_there_is_said(served: Served) -> None:
    nowhere = Address("memory", 8)

    with pytest.raises(ConnectionFailed):
        await ServedStore.connect(served.network, nowhere, SystemClock(), 0.2)


class RawLink:
    """A peer that sends what it likes."""

    link: FrameLink

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.closed = asyncio.Event()
        self.heard = Signal()

    @classmethod
    async def open(cls, network: Network, address: Address) -> RawLink:
        raw = cls()
        raw.link = await network.connect(address, raw._on_frame, raw.closed.set, 5.0)
        return raw

    def _on_frame(self, frame: memoryview) -> None:
        self.replies.append(decode_reply(frame))
        self.heard()

    async def until_said(self) -> None:
        await self.heard.until(lambda: bool(self.replies))

    def said(self) -> MagnetarError:
        return error_of(self.replies[-1])


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"\xff" * 200,
        encode_request(Request(RequestKind.GET, 1, "/a")),
        encode_request(Request(RequestKind.HELLO, 1, value=b"other", version=1)),
    ],
)
async def test_a_bad_frame_is_answered_and_closes_only_its_link(
    served: Served, frame: bytes
) -> None:
    store = await served.connect()
    states = States(store)
    raw = await RawLink.open(served.network, ADDRESS)

    raw.link.send(frame)
    await raw.closed.wait()

    assert isinstance(raw.said(), InvalidFrame)
    assert await store.create("/a", b"") == 0
    assert states.seen == []
    await store.close()


async def test_a_session_speaks_through_its_newest_link_only(served: Served) -> None:
    older = await RawLink.open(served.network, ADDRESS)
    older.link.send(encode_request(Request(RequestKind.HELLO, 1, value=MAGIC, version=1)))
    await older.until_said()
    session_id = older.replies[-1].session_id
    newer = await RawLink.open(served.network, ADDRESS)

    newer.link.send(
        encode_request(
            Request(RequestKind.HELLO, 1, value=MAGIC, version=1, session_id=session_id)
        )
    )
    await newer.until_said()

    assert newer.replies[-1].session_id == session_id
    async with asyncio.timeout(PATIENCE_S):
        await older.closed.wait()
    assert not newer.closed.is_set()


async def test_another_protocol_version_is_refused_by_name(served: Served) -> None:
    raw = await RawLink.open(served.network, ADDRESS)

    raw.link.send(encode_request(Request(RequestKind.HELLO, 1, value=MAGIC, version=99)))
    await raw.closed.wait()

    assert isinstance(raw.said(), NotSupported)
    assert "99" in str(raw.said())


async def test_a_server_of_another_kind_is_recognised() -> None:
    network = MemoryNetwork()

    def accept(link: object) -> tuple[object, object]:
        link.send(b"220 mail.example ESMTP")  # type: ignore[attr-defined]
        return (lambda frame: None), (lambda: None)

    await network.listen(ADDRESS, accept)  # type: ignore[arg-type]

    with pytest.raises(InvalidFrame):
        await ServedStore.connect(network, ADDRESS, SystemClock(), 1.0)


async def test_over_tcp_through_its_url(tmp_path: Path) -> None:
    network, embedded = TcpNetwork(), EmbeddedStore.open(tmp_path)
    server = MetadataServer(embedded, network)
    address = await server.start(Address("127.0.0.1", 0))
    url = f"served://{address}"
    first = await open_store(url, network=network, clock=SystemClock())
    second = await open_store(url, network=network, clock=SystemClock())
    watcher = Signal()
    second.watch("/live", watcher)

    await first.create("/live", b"over tcp", ephemeral=True)
    await watcher.fired()
    assert (await second.get("/live")).value == b"over tcp"
    await first.close()
    await watcher.fired()
    with pytest.raises(NotFound):
        await second.get("/live")

    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await reader.read()
    writer.close()
    assert second.state is CONNECTED
    await second.close()
    await server.stop()
    await embedded.close()


def test_frames_survive_their_coding() -> None:
    request = Request(RequestKind.CREATE, 7, "/ü/b", b"\x00value", 3, True, 2**63, 4000)
    guarded = Request(RequestKind.DELETE, 7, "/ü/b", version=3, guard=Guard("/ü", 2**40))
    reply = Reply(ReplyKind.OK, 7, b"body", 5, 0, 2**63, 4000)

    for one in (request, guarded):
        assert decode_request(memoryview(encode_request(one))) == one
    for length in range(len(encode_request(guarded))):
        with pytest.raises(InvalidFrame):
            decode_request(memoryview(encode_request(guarded))[:length])
    assert decode_reply(memoryview(encode_reply(reply))) == reply
    assert decode_names(encode_names([])) == []
    assert decode_names(encode_names(["a", "b"])) == ["a", "b"]
    assert isinstance(error_of(error_reply(1, NotFound("x"))), NotFound)
    assert isinstance(error_of(Reply(ReplyKind.ERROR, 1, b"", code=200)), ConnectionLoss)


async def test_a_link_without_a_hello_is_dropped(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metadata.served_server.HELLO_PATIENCE_S", 0.01)
    closed = Signal()
    replies: list[Reply] = []
    await served.network.connect(
        ADDRESS, lambda frame: replies.append(decode_reply(frame)), closed, PATIENCE_S
    )
    await closed.fired()
    assert "HELLO" in str(error_of(replies[0]))


async def test_two_hellos_at_once_open_no_second_session(served: Served) -> None:
    closed = Signal()
    link = await served.network.connect(ADDRESS, lambda _: None, closed, PATIENCE_S)
    for request_id in (1, 2):
        hello = Request(
            RequestKind.HELLO, request_id, value=MAGIC, version=PROTOCOL_VERSION, timeout_ms=60_000
        )
        link.other.on_frame(memoryview(encode_request(hello)))  # both in one turn, as by TCP
    await closed.fired()
    assert served.embedded.remote_session_count == 0
