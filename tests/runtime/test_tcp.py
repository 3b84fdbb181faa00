"""Framed links over real sockets on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magnetar.errors import ConnectionFailed
from magnetar.runtime.network import Address, FrameLink, OnClosed, OnFrame
from magnetar.runtime.tcp import TcpLink, TcpListener, TcpNetwork

HOST = Address("127.0.0.1", 0)


class Peer:
    """Collects what a link delivers."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.closed = 0
        self.link: FrameLink | None = None
        self.changed = asyncio.Event()

    def accept(self, link: FrameLink) -> tuple[OnFrame, OnClosed]:
        self.link = link
        self.changed.set()
        return self.on_frame, self.on_closed

    def on_frame(self, frame: memoryview) -> None:
        self.frames.append(bytes(frame))
        self.changed.set()

    def on_closed(self) -> None:
        self.closed += 1
        self.changed.set()

    async def until_frames(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.frames) < count:
                self.changed.clear()
                await self.changed.wait()

    async def until_closed(self) -> None:
        async with asyncio.timeout(5):
            while not self.closed:
                self.changed.clear()
                await self.changed.wait()


async def connected(network: TcpNetwork) -> tuple[TcpListener, Peer, Peer, FrameLink]:
    server, client = Peer(), Peer()
    listener = await network.listen(HOST, server.accept)
    link = await network.connect(listener.address, client.on_frame, client.on_closed, 5)
    return listener, server, client, link


async def test_frames_arrive_whole_in_order_and_concatenated() -> None:
    listener, server, _, link = await connected(TcpNetwork())
    bodies = [bytes([n % 251]) * (n * 37) for n in range(200)] + [b"x" * 3_000_000]
    for body in bodies:
        link.send(body[:10], memoryview(body)[10:])
    await server.until_frames(len(bodies))
    assert server.frames == bodies
    await listener.close()


async def test_both_sides_speak() -> None:
    listener, server, client, link = await connected(TcpNetwork())
    link.send(b"question")
    await server.until_frames(1)
    assert server.link is not None
    server.link.send(b"answer")
    await client.until_frames(1)
    assert (server.frames, client.frames) == ([b"question"], [b"answer"])
    await listener.close()


async def test_close_sends_what_was_accepted_and_tells_each_side_once() -> None:
    listener, server, client, link = await connected(TcpNetwork())
    link.send(b"last words")
    link.close()
    link.send(b"nobody hears this")
    await server.until_closed()
    await client.until_closed()
    assert server.frames == [b"last words"]
    assert (server.closed, client.closed) == (1, 1)
    await listener.close()


async def test_a_peer_of_another_protocol_is_dropped() -> None:
    server = Peer()
    listener = await TcpNetwork(max_frame_bytes=1 << 20).listen(HOST, server.accept)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
    writer.write(b"\x16\x03\x01\x02\x00\x01")
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    await server.until_closed()
    assert server.frames == []
    writer.close()
    await listener.close()


async def test_a_peer_that_speaks_http_is_told_in_http() -> None:
    server = Peer()
    listener = await TcpNetwork().listen(HOST, server.accept)
    for beginning in (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
        writer.write(beginning)
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400 ") and b"Magnetar" in answer
        writer.close()
    assert server.frames == []
    await listener.close()


async def test_a_failing_handler_drops_only_its_own_link() -> None:
    good = Peer()
    count = 0

    def accept(link: FrameLink) -> tuple[OnFrame, OnClosed]:
        nonlocal count
        count += 1
        if count > 1:
            return good.on_frame, good.on_closed

        def fail(_: memoryview) -> None:
            raise RuntimeError("on purpose")

        return fail, lambda: None

    network, first, second = TcpNetwork(), Peer(), Peer()
    listener = await network.listen(HOST, accept)
    bad = await network.connect(listener.address, first.on_frame, first.on_closed, 5)
    fine = await network.connect(listener.address, second.on_frame, second.on_closed, 5)
    bad.send(b"boom")
    await first.until_closed()
    fine.send(b"still here")
    await good.until_frames(1)
    assert good.frames == [b"still here"]
    await listener.close()


async def test_a_slow_reader_holds_the_sender_back() -> None:
    server = Peer()
    listener = await asyncio.start_server(lambda r, w: held.append((r, w)), "127.0.0.1", 0)
    held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    port = listener.sockets[0].getsockname()[1]
    link = await TcpNetwork().connect(
        Address("127.0.0.1", port), server.on_frame, server.on_closed, 5
    )
    while link.pending_bytes < 4 << 20:
        link.send(bytes(1 << 20))
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await link.drain()
    reader = held[0][0]
    drained = asyncio.create_task(link.drain())
    while not drained.done():
        await reader.read(1 << 20)
    assert link.pending_bytes <= 1 << 20
    link.close()
    held[0][1].close()
    listener.close()


async def test_nobody_listening_is_connection_failed() -> None:
    listener = await TcpNetwork().listen(HOST, Peer().accept)
    await listener.close()
    with pytest.raises(ConnectionFailed):
        await TcpNetwork().connect(listener.address, lambda _: None, lambda: None, 5)


async def test_closing_the_listener_drops_its_links() -> None:
    listener, _, client, link = await connected(TcpNetwork())
    link.send(b"hello")
    await asyncio.sleep(0)
    await listener.close()
    await client.until_closed()
    assert client.closed == 1


async def test_too_long_a_frame_is_refused_by_its_sender() -> None:
    listener, _, _, link = await connected(TcpNetwork(max_frame_bytes=100))
    with pytest.raises(ValueError):
        link.send(bytes(101))
    await listener.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    bodies=st.lists(st.binary(max_size=300), max_size=20),
    cuts=st.lists(st.integers(1, 64), min_size=1, max_size=50),
)
def test_any_cutting_of_the_stream_gives_the_same_frames(
    bodies: list[bytes], cuts: list[int]
) -> None:
    async def run() -> list[bytes]:
        link = TcpLink(1 << 20, lambda _: None)
        frames: list[bytes] = []
        link.on_frame = lambda frame: frames.append(bytes(frame))
        stream = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
        at = turn = 0
        while at < len(stream):
            size = cuts[turn % len(cuts)]
            link.data_received(stream[at : at + size])
            at, turn = at + size, turn + 1
        return frames

    assert asyncio.run(run()) == bodies
