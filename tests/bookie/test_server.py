"""The wire over real TCP: handshake, pipelining, hostile and slow peers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bookie.server import BookieServer, ServerLimits
from ledger.handshake import NONCE_BYTES, ClientHandshake, HandshakeState
from ledger.wire import (
    AddReply,
    Kind,
    Message,
    ReadLacReply,
    ReadLacRequest,
    ReadReply,
    ReadRequest,
    Status,
    decode_message,
    encode_add,
    encode_read,
    encode_read_lac,
    peek,
)
from magnetar.errors import MagnetarError, Unauthorized
from magnetar.ids import BookieId, EntryId
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.network import Address, FrameLink
from magnetar.runtime.tcp import TcpNetwork
from tests.bookie.house import LEDGER, House, house, request

KEY = b"k" * 32
BOOKIE = BookieId("bookie-1")


@dataclass
class Client:
    """A link that has to be opened by `shake`."""

    handshake: ClientHandshake
    link: FrameLink | None = None
    frames: list[bytes] = field(default_factory=list)
    replies: dict[int, Message] = field(default_factory=dict)
    error: MagnetarError | None = None
    closed: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def on_frame(self, frame: memoryview) -> None:
        self.frames.append(bytes(frame))
        if self.handshake.state not in (HandshakeState.READY, HandshakeState.CLOSED):
            step = self.handshake.receive(frame)
            self.error = step.failed
            if step.reply is not None:
                self.sender.send(step.reply)
        elif peek(frame)[0] != Kind.ERROR:
            request_id, message = decode_message(frame)
            count = message.count if isinstance(message, AddReply) else 1
            for number in range(request_id, request_id + count):
                self.replies[number] = message
        self.changed.set()

    def on_closed(self) -> None:
        self.closed = True
        self.changed.set()

    @property
    def sender(self) -> FrameLink:
        assert self.link is not None
        return self.link

    async def until(self, what: str) -> None:
        async with asyncio.timeout(5):
            while not (
                self.handshake.state is HandshakeState.READY if what == "ready"
                else self.closed if what == "closed"
                else len(self.replies) >= int(what)
            ):
                self.changed.clear()
                await self.changed.wait()


async def connect(server: BookieServer, key: bytes = KEY, *, shake: bool = True) -> Client:
    client = Client(ClientHandshake(key, BOOKIE, b"n" * NONCE_BYTES))
    client.link = await TcpNetwork().connect(
        server.address, client.on_frame, client.on_closed, 5
    )
    client.link.send(client.handshake.hello())
    if shake:
        await client.until("ready")
    return client


@asynccontextmanager
async def serving(limits: ServerLimits | None = None) -> AsyncIterator[tuple[House, BookieServer]]:
    async with house() as it:
        server = BookieServer(
            it.storage, TcpNetwork(), KEY, BOOKIE, SystemClock(), random.Random(3), limits
        )
        await server.start(Address("127.0.0.1", 0))
        try:
            yield it, server
        finally:
            await server.stop()


async def test_adds_and_reads_over_the_wire() -> None:
    async with serving() as (_, server):
        client = await connect(server)
        for number in range(100):
            client.sender.send(*encode_add(number, request(number, lac=number - 1)))
        await client.until("100")
        assert {r.status for r in client.replies.values() if isinstance(r, AddReply)} == {Status.OK}
        assert len(client.frames) < 100, "a commit is answered by ranges of requests"
        client.sender.send(
            encode_read(200, ReadRequest(LEDGER, EntryId(10), 5, 1 << 20))
        )
        client.sender.send(encode_read_lac(201, ReadLacRequest(LEDGER, fence=True)))
        await client.until("102")
        read, lac = client.replies[200], client.replies[201]
        assert isinstance(read, ReadReply)
        assert [e.body for e in read.entries] == [request(n).body for n in range(10, 15)]
        assert lac == ReadLacReply(Status.OK, EntryId(98), EntryId(99))
        client.sender.send(*encode_add(300, request(100)))
        await client.until("103")
        assert client.replies[300] == AddReply(Status.FENCED)


async def test_a_wrong_key_is_refused_and_stores_nothing() -> None:
    async with serving() as (it, server):
        client = await connect(server, b"w" * 32, shake=False)
        await client.until("closed")
        assert isinstance(client.error, Unauthorized)
        assert server.links_refused == 1
        assert it.storage.counters.adds == 0


async def test_requests_before_the_handshake_are_refused() -> None:
    async with serving() as (it, server):
        client = await connect(server)
        stranger = Client(ClientHandshake(KEY, BOOKIE, b"n" * NONCE_BYTES))
        stranger.link = await TcpNetwork().connect(
            server.address, stranger.on_frame, stranger.on_closed, 5
        )
        stranger.link.send(*encode_add(1, request(0)))
        await stranger.until("closed")
        assert it.storage.counters.adds == 0
        client.sender.send(*encode_add(1, request(0)))
        await client.until("1")


async def test_a_bad_frame_ends_its_own_link_only() -> None:
    async with serving() as (_, server):
        good, bad = await connect(server), await connect(server)
        bad.sender.send(bytes([Kind.ADD]) + bytes(10))
        await bad.until("closed")
        assert peek(memoryview(bad.frames[-1]))[0] == Kind.ERROR
        good.sender.send(*encode_add(1, request(0)))
        await good.until("1")
        assert server.link_count == 1


async def test_replies_are_no_requests() -> None:
    async with serving() as (_, server):
        client = await connect(server)
        from ledger.wire import encode_add_reply

        client.sender.send(encode_add_reply(1, Status.OK))
        await client.until("closed")
        assert server.bad_frames == 1


async def test_a_silent_link_is_dropped() -> None:
    async with serving(ServerLimits(handshake_timeout_s=0.01)) as (_, server):
        client = Client(ClientHandshake(KEY, BOOKIE, b"n" * NONCE_BYTES))
        client.link = await TcpNetwork().connect(
            server.address, client.on_frame, client.on_closed, 5
        )
        await client.until("closed")
        assert server.link_count == 0


async def test_too_many_links_are_refused() -> None:
    async with serving(ServerLimits(max_links=1)) as (_, server):
        first = await connect(server)
        second = await connect(server, shake=False)
        await second.until("closed")
        first.sender.send(*encode_add(1, request(0)))
        await first.until("1")


async def test_a_client_that_does_not_read_holds_back_only_itself() -> None:
    body = bytes(1 << 20)
    async with serving(ServerLimits(max_unsent_bytes=1 << 20)) as (it, server):
        for number in range(4):
            assert await it.add(request(number, body)) is Status.OK
        slow = await connect(server)
        transport = slow.sender._transport  # type: ignore[attr-defined]
        transport.pause_reading()
        for number in range(8):  # more than the sockets' own buffers hold
            slow.sender.send(encode_read(number, ReadRequest(LEDGER, EntryId(0), 4, 8 << 20)))
        quick = await connect(server)
        quick.sender.send(encode_read(1, ReadRequest(LEDGER, EntryId(0), 1, 100)))
        await quick.until("1")
        unsent = [link._link.pending_bytes for link in server._links]
        assert max(unsent) <= 8 << 20
        transport.resume_reading()
        await slow.until("8")


async def test_more_reads_than_allowed_are_overloaded() -> None:
    async with serving(ServerLimits(max_reads_in_flight=2)) as (it, server):
        it.disk.gate.clear()
        client = await connect(server)
        for number in range(4):
            client.sender.send(encode_read_lac(number, ReadLacRequest(LEDGER, fence=True)))
        await client.until("2")
        assert {r.status for r in client.replies.values() if isinstance(r, ReadLacReply)} == {
            Status.OVERLOADED
        }
        it.disk.gate.set()
        await client.until("4")


async def test_a_link_that_goes_away_leaves_its_adds_stored() -> None:
    async with serving() as (it, server):
        it.disk.gate.clear()
        client = await connect(server)
        client.sender.send(*encode_add(1, request(0)))
        async with asyncio.timeout(5):
            while it.storage.pending_bytes == 0:
                await asyncio.sleep(0)
        client.sender.close()
        await client.until("closed")
        it.disk.gate.set()
        assert (await it.read(0)).status is Status.OK


class DeadLink:
    """A link to nowhere, to feed frames by hand."""

    peer = "nowhere"
    pending_bytes = 0

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def send(self, *parts: bytes | bytearray | memoryview) -> None:
        self.sent.append(b"".join(parts))

    async def drain(self) -> None:
        return

    def close(self) -> None:
        self.closed = True


@settings(max_examples=60, deadline=None)
@given(frames=st.lists(st.binary(max_size=200), min_size=1, max_size=5), proven=st.booleans())
def test_no_bytes_harm_the_server(frames: list[bytes], proven: bool) -> None:
    async def run() -> None:
        async with house() as it:
            server = BookieServer(
                it.storage, TcpNetwork(), KEY, BOOKIE, SystemClock(), random.Random(3)
            )
            link = DeadLink()
            on_frame, on_closed = server._accept(link)
            if proven:
                client = ClientHandshake(KEY, BOOKIE, b"n" * NONCE_BYTES)
                on_frame(memoryview(client.hello()))
                step = client.receive(memoryview(link.sent[-1]))
                assert step.reply is not None
                on_frame(memoryview(step.reply))
            for frame in frames:
                on_frame(memoryview(frame))
            for _ in range(5):
                await asyncio.sleep(0)
            on_closed()
            assert server.link_count == 0
            assert it.storage.serving

    asyncio.run(run())


@pytest.mark.parametrize("kind", [Kind.ADD, Kind.READ, Kind.READ_LAC])
async def test_truncated_requests_are_bad_requests(kind: Kind) -> None:
    async with serving() as (it, server):
        link = DeadLink()
        on_frame, _ = server._accept(link)
        client = ClientHandshake(KEY, BOOKIE, b"n" * NONCE_BYTES)
        on_frame(memoryview(client.hello()))
        step = client.receive(memoryview(link.sent[-1]))
        assert step.reply is not None
        on_frame(memoryview(step.reply))
        on_frame(memoryview(bytes([kind]) + bytes(11)))
        assert link.closed
        assert it.storage.serving
