"""Framed links over TCP, for asyncio and uvloop.

    +-----------------+----------------------+
    | u32 length (BE) | body, `length` bytes |
    +-----------------+----------------------+

Sends of one loop tick leave in one write. The length is checked before anything is set aside
for the body, so a peer that speaks another protocol is dropped and costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final, cast

from magnetar.errors import ConnectionFailed
from magnetar.runtime.network import Accept, Address, Buffer, FrameLink, OnClosed, OnFrame

MAX_FRAME_BYTES: Final = 64 << 20
"""Longest frame accepted or sent by default."""

_LENGTH_BYTES: Final = 4
_FLUSH_BYTES: Final = 512 << 10  # what is collected beyond this leaves before the tick ends
_JOIN_BYTES: Final = 64 << 10  # below this one copy is cheaper than a vector of small parts
_HIGH_WATER_BYTES: Final = 1 << 20
_LOW_WATER_BYTES: Final = 256 << 10
_CLOSE_PATIENCE_S: Final = 5.0

_HTTP_BEGINNINGS: Final = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"PRI ")
_NO_HTTP: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"this port speaks a Magnetar protocol of length-prefixed frames, not HTTP or gRPC\n"
)
"""What a browser, curl or a gRPC client can show to whoever took the wrong port."""

_log = logging.getLogger(__name__)


def _ignore_frame(_: memoryview) -> None:
    """A link that was refused takes no frames."""


def _ignore_close() -> None:
    """Nobody is left to be told."""


class TcpLink(asyncio.Protocol):
    """One side of a TCP connection, as a `FrameLink`."""

    def __init__(self, max_frame_bytes: int, on_lost: Callable[[TcpLink], None]) -> None:
        self.on_frame: OnFrame = _ignore_frame
        self.on_closed: OnClosed = _ignore_close
        self._max_frame_bytes = max_frame_bytes
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._peer = "unconnected"
        self._received = bytearray()
        self._wanted_bytes = _LENGTH_BYTES
        self._parts: list[Buffer] = []
        self._parts_bytes = 0
        self._flush_due = False
        self._paused = False
        self._closed = False
        self._drained: list[asyncio.Future[None]] = []

    # FrameLink

    @property
    def peer(self) -> str:
        """Address of the other side, for logs."""
        return self._peer

    @property
    def pending_bytes(self) -> int:
        """Bytes accepted by `send` and not yet handed to the kernel."""
        if self._transport is None or self._closed:
            return 0
        return self._parts_bytes + self._transport.get_write_buffer_size()

    def send(self, *parts: Buffer) -> None:
        """Send one frame; the parts must not change afterwards. Never blocks."""
        if self._closed:
            return
        length = sum(map(len, parts))
        if length > self._max_frame_bytes:
            raise ValueError(f"a frame of {length} bytes is above {self._max_frame_bytes}")
        self._parts.append(length.to_bytes(_LENGTH_BYTES, "big"))
        self._parts += parts
        self._parts_bytes += _LENGTH_BYTES + length
        if self._parts_bytes >= _FLUSH_BYTES:
            self._flush()
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_tick)

    async def drain(self) -> None:
        """Wait while more is buffered than the high-water mark, or until the link closed."""
        self._flush()
        while self._paused and not self._closed:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._drained.append(waiter)
            await waiter

    def close(self) -> None:
        """Send what was accepted, then drop the link; frames that still arrive are ignored."""
        if self._closed:
            return
        self._flush()
        self._closed = True
        self._release_drained()
        transport = self._transport
        if transport is not None:
            transport.close()
            # A peer that never reads must not keep the socket open for ever.
            self._loop.call_later(_CLOSE_PATIENCE_S, transport.abort)

    def abort(self) -> None:
        """Drop the link at once, with what it has not sent."""
        self._closed = True
        self._release_drained()
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES, low=_LOW_WATER_BYTES)
        name = transport.get_extra_info("peername")
        self._peer = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        received = self._received
        if received:
            received += data
            if len(received) >= self._wanted_bytes:
                # A new buffer rather than a shrunk one: somebody may hold a view into the old.
                self._received = bytearray()
                self._take(memoryview(received))
        else:
            self._take(memoryview(data))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._release_drained()

    def connection_lost(self, exception: Exception | None) -> None:
        self._closed = True
        self._release_drained()
        self._parts.clear()
        self._received = bytearray()
        self._on_lost(self)
        on_closed, self.on_closed = self.on_closed, _ignore_close
        self.on_frame = _ignore_frame
        on_closed()

    # internals

    def _take(self, view: memoryview) -> None:
        """Deliver the whole frames in `view` and keep the rest."""
        at, end = 0, len(view)
        self._wanted_bytes = _LENGTH_BYTES
        while end - at >= _LENGTH_BYTES:
            length = int.from_bytes(view[at : at + _LENGTH_BYTES], "big")
            if length > self._max_frame_bytes:
                self._turn_away(length, bytes(view[at : at + _LENGTH_BYTES]))
                return
            body = at + _LENGTH_BYTES
            if end - body < length:
                self._wanted_bytes = _LENGTH_BYTES + length
                break
            at = body + length
            try:
                self.on_frame(view[body:at])
            except Exception:
                _log.exception("a frame from %s failed; dropping the link", self._peer)
                self.abort()
                return
            if self._closed:
                return
        if at < end:
            self._received += view[at:]

    def _turn_away(self, length: int, beginning: bytes) -> None:
        if beginning in _HTTP_BEGINNINGS and self._transport is not None:
            _log.warning("%s speaks HTTP to a port that does not", self._peer)
            self._transport.write(_NO_HTTP)
            self.close()
            return
        _log.warning("%s is no peer of ours: a frame of %d bytes", self._peer, length)
        self.abort()

    def _flush_tick(self) -> None:
        self._flush_due = False
        self._flush()

    def _flush(self) -> None:
        if not self._parts or self._transport is None or self._closed:
            return
        parts, size = self._parts, self._parts_bytes
        self._parts, self._parts_bytes = [], 0
        if size <= _JOIN_BYTES:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)

    def _release_drained(self) -> None:
        waiters, self._drained = self._drained, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class TcpListener:
    """An open TCP port."""

    def __init__(self, server: asyncio.Server, links: dict[TcpLink, None], host: str) -> None:
        self._server = server
        self._links = links
        self._address = Address(host, server.sockets[0].getsockname()[1])

    @property
    def address(self) -> Address:
        """Where it listens, with the port really taken."""
        return self._address

    async def close(self) -> None:
        """Stop listening and drop every accepted link."""
        self._server.close()
        for link in list(self._links):
            link.abort()
        await asyncio.sleep(0)


class TcpNetwork:
    """`Network` over TCP, or TLS where contexts are given."""

    def __init__(
        self,
        *,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
    ) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._server_tls = server_tls
        self._client_tls = client_tls

    async def connect(
        self, address: Address, on_frame: OnFrame, on_closed: OnClosed, timeout_s: float
    ) -> FrameLink:
        """Open a link; raises ConnectionFailed."""

        def make() -> TcpLink:
            link = TcpLink(self._max_frame_bytes, lambda _: None)
            link.on_frame, link.on_closed = on_frame, on_closed
            return link

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                _, link = await loop.create_connection(
                    make, address.host, address.port, ssl=self._client_tls
                )
        except TimeoutError as error:
            raise ConnectionFailed(f"no answer from {address} in {timeout_s} s") from error
        except OSError as error:
            raise ConnectionFailed(f"{address} cannot be reached: {error}") from error
        return link

    async def listen(self, address: Address, accept: Accept) -> TcpListener:
        """Listen; port 0 takes a free one. Raises OSError when the port is taken."""
        links: dict[TcpLink, None] = {}
        server = await asyncio.get_running_loop().create_server(
            lambda: _AcceptedLink(self._max_frame_bytes, links, accept),
            address.host,
            address.port,
            ssl=self._server_tls,
            backlog=1024,
        )
        return TcpListener(server, links, address.host)


class _AcceptedLink(TcpLink):
    """A link that asks `accept` who takes its frames once it is up."""

    def __init__(self, max_frame_bytes: int, links: dict[TcpLink, None], accept: Accept) -> None:
        super().__init__(max_frame_bytes, lambda link: links.pop(link, None))
        self._links = links
        self._accept = accept

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._links[self] = None
        try:
            self.on_frame, self.on_closed = self._accept(self)
        except Exception:
            _log.exception("a link from %s was not accepted", self.peer)
            self.abort()
