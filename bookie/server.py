"""The bookie's side of the broker-bookie protocol, over any `Network`.

A link proves the cluster key before anything else is looked at. Bytes that do not follow the
protocol get an error frame and end their own link, no other.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from bookie.storage import BookieStorage
from ledger.handshake import NONCE_BYTES, HandshakeState, ServerHandshake, encode_error
from ledger.wire import (
    Kind,
    ReadLacReply,
    ReadLacRequest,
    ReadReply,
    ReadRequest,
    Status,
    decode_add,
    decode_message,
    encode_add_reply,
    encode_read_lac_reply,
    encode_read_reply,
)
from magnetar.errors import InvalidFrame
from magnetar.ids import BookieId
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Address, FrameLink, Listener, Network, OnClosed, OnFrame

_MAX_HANDSHAKE_FRAME_BYTES: Final = 4096
_ADD_KIND: Final = bytes([Kind.ADD])

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of one link, sizes in bytes, times in seconds."""

    handshake_timeout_s: float = 10.0
    max_links: int = 4096
    max_reads_in_flight: int = 1024
    """More reads than this on one link are answered OVERLOADED."""
    max_unsent_bytes: int = 8 << 20
    """A client that does not take its replies gets no more reads served beyond this."""
    max_unsent_replies_bytes: int = 64 << 20
    """A client that does not even take its add replies is dropped."""


class BookieServer:
    """Accepts links and serves them from the storage."""

    def __init__(
        self,
        storage: BookieStorage,
        network: Network,
        cluster_key: bytes,
        bookie_id: BookieId,
        clock: Clock,
        random_: random.Random,
        limits: ServerLimits | None = None,
    ) -> None:
        """`random_` makes nonces: in production it must be `random.SystemRandom`."""
        self.storage = storage
        self.limits = limits if limits is not None else ServerLimits()
        self._network = network
        self._cluster_key = cluster_key
        self._bookie_id = bookie_id
        self._clock = clock
        self._random = random_
        self._listener: Listener | None = None
        self._links: dict[_ServerLink, None] = {}
        self.links_refused = 0
        self.bad_frames = 0

    @property
    def address(self) -> Address:
        """Where it listens, once started."""
        assert self._listener is not None
        return self._listener.address

    @property
    def link_count(self) -> int:
        """Open links, proven or not."""
        return len(self._links)

    async def start(self, address: Address) -> Address:
        """Open the port. Raises OSError when it is taken."""
        self._listener = await self._network.listen(address, self._accept)
        return self._listener.address

    async def stop(self) -> None:
        """Close the port and every link."""
        if self._listener is not None:
            await self._listener.close()
        for link in list(self._links):
            link.end()

    def new_handshake(self) -> ServerHandshake:
        """With a fresh nonce."""
        nonce = self._random.randbytes(NONCE_BYTES)
        return ServerHandshake(self._cluster_key, self._bookie_id, nonce)

    def _accept(self, link: FrameLink) -> tuple[OnFrame, OnClosed]:
        served = _ServerLink(self, link, lambda gone: self._links.pop(gone, None))
        if len(self._links) >= self.limits.max_links:
            self.links_refused += 1
            served.refuse(Status.OVERLOADED, "too many links")
        else:
            self._links[served] = None
        return served.on_frame, served.on_closed


class _ServerLink:
    """One link: handshake first, then requests in any number at once."""

    def __init__(
        self,
        server: BookieServer,
        link: FrameLink,
        forget: Callable[[_ServerLink], None],
    ) -> None:
        self._server = server
        self._storage = server.storage
        self._link = link
        self._forget = forget
        self._handshake = server.new_handshake()
        self._ready = False
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._answers: list[tuple[int, Status]] = []
        self._reads: dict[asyncio.Task[None], None] = {}
        self._patience = self._loop.call_later(
            server.limits.handshake_timeout_s, self._too_slow
        )

    def on_frame(self, frame: memoryview) -> None:
        if self._closed:
            return
        try:
            if not self._ready:
                self._shake(frame)
            elif frame[:1] == _ADD_KIND:
                add = decode_add(frame)
                request_id = int.from_bytes(frame[1:9], "big")
                self._storage.add(add, partial(self._answer_add, request_id))
            else:
                self._dispatch(frame)
        except InvalidFrame as error:
            self._server.bad_frames += 1
            self.refuse(Status.BAD_REQUEST, str(error))

    def on_closed(self) -> None:
        self.end()

    def refuse(self, status: Status, text: str) -> None:
        """Say why and drop the link."""
        if not self._closed:
            _log.warning("dropping the link of %s: %s", self._link.peer, text)
            self._link.send(encode_error(status, text))
            self.end()

    def end(self) -> None:
        """Drop the link and what it still asks for; adds under way are stored all the same."""
        if self._closed:
            return
        self._closed = True
        self._patience.cancel()
        self._answers.clear()
        for task in list(self._reads):
            task.cancel()
        self._link.close()
        self._forget(self)

    def _shake(self, frame: memoryview) -> None:
        if len(frame) > _MAX_HANDSHAKE_FRAME_BYTES:
            raise InvalidFrame("too long a frame before the handshake")
        step = self._handshake.receive(frame)
        if step.reply is not None:
            self._link.send(step.reply)
        if step.failed is not None:
            self._server.links_refused += 1
            _log.warning("refused %s: %s", self._link.peer, step.failed)
            self.end()
        elif self._handshake.state is HandshakeState.READY:
            self._ready = True
            self._patience.cancel()

    def _too_slow(self) -> None:
        self.refuse(Status.UNAUTHORIZED, "no handshake in time")

    def _dispatch(self, frame: memoryview) -> None:
        request_id, message = decode_message(frame)
        if not isinstance(message, ReadRequest | ReadLacRequest):
            raise InvalidFrame(f"{type(message).__name__} is no request")
        if len(self._reads) >= self._server.limits.max_reads_in_flight:
            self._answer_read(request_id, message, None)
            return
        task = self._loop.create_task(self._read(request_id, message))
        self._reads[task] = None
        task.add_done_callback(self._reads.pop)

    async def _read(self, request_id: int, request: ReadRequest | ReadLacRequest) -> None:
        while self._link.pending_bytes > self._server.limits.max_unsent_bytes:
            # A client that does not take its replies holds back its own reads only.
            await self._link.drain()
            if self._closed:
                return
        reply: ReadReply | ReadLacReply
        if isinstance(request, ReadRequest):
            reply = await self._storage.read(request)
        else:
            reply = await self._storage.read_lac(request)
        self._answer_read(request_id, request, reply)

    def _answer_read(
        self,
        request_id: int,
        request: ReadRequest | ReadLacRequest,
        reply: ReadReply | ReadLacReply | None,
    ) -> None:
        if self._closed:
            return
        if isinstance(request, ReadRequest):
            found = reply if isinstance(reply, ReadReply) else ReadReply(Status.OVERLOADED)
            self._link.send(*encode_read_reply(request_id, found))
        else:
            known = reply if isinstance(reply, ReadLacReply) else ReadLacReply(Status.OVERLOADED)
            self._link.send(encode_read_lac_reply(request_id, known))

    def _answer_add(self, request_id: int, status: Status) -> None:
        if self._closed:
            return
        if not self._answers:
            self._loop.call_soon(self._send_answers)
        self._answers.append((request_id, status))

    def _send_answers(self) -> None:
        """One frame for each run of consecutive requests with the same answer."""
        answers, self._answers = self._answers, []
        if self._closed or not answers:
            return
        first, status = answers[0]
        count = 0
        for request_id, answer in answers:
            if request_id == first + count and answer is status:
                count += 1
            else:
                self._link.send(encode_add_reply(first, status, count))
                first, status, count = request_id, answer, 1
        self._link.send(encode_add_reply(first, status, count))
        if self._link.pending_bytes > self._server.limits.max_unsent_replies_bytes:
            self.refuse(Status.OVERLOADED, "replies are not taken")
