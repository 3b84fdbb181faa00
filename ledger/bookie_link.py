"""One bookie's link: connects when needed, pipelines requests, answers each exactly once.

    IDLE ── first request ──▶ CONNECTING ── handshake done ──▶ READY
      ▲                           │ failed                       │ lost
      └──── backoff is over ── BACKOFF ◀─────────────────────────┘

Requests made while CONNECTING wait, within bounds; in BACKOFF they are UNKNOWN at once, so that
who asks can turn to another bookie. A lost link makes everything pending UNKNOWN. A link on
which a deadline passes while nothing at all comes in is taken for dead and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from ledger.handshake import NONCE_BYTES, ClientHandshake, HandshakeState
from ledger.wire import (
    Kind,
    ReadLacReply,
    ReadReply,
    Status,
    decode_add_reply,
    decode_read_lac_reply,
    decode_read_reply,
    peek,
)
from magnetar.errors import ConnectionFailed, InvalidFrame, MagnetarError
from magnetar.ids import BookieId
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Address, Buffer, FrameLink, Network

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BookieClientLimits:
    """Deadlines and bounds of a client's links."""

    add_timeout_s: float = 10.0
    read_timeout_s: float = 5.0
    connect_timeout_s: float = 2.0
    """For connecting and for the handshake, each."""
    sweep_s: float = 0.1
    """How late a deadline may be noticed."""
    backoff_min_s: float = 0.05
    backoff_max_s: float = 2.0
    max_unsent_bytes: int = 128 << 20
    """Bytes waiting for the kernel of one link; beyond, adds are OVERLOADED."""
    max_early_bytes: int = 32 << 20
    """Bytes of requests that wait for a link to open; beyond, OVERLOADED."""


class LinkState(Enum):
    """See the picture above."""

    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    BACKOFF = "backoff"
    CLOSED = "closed"


class _PendingAdd(NamedTuple):
    deadline_s: float
    on_reply: Callable[[Status], None]


class _PendingRead(NamedTuple):
    deadline_s: float
    on_reply: Callable[[ReadReply], None]


class _PendingReadLac(NamedTuple):
    deadline_s: float
    on_reply: Callable[[ReadLacReply], None]


class BookieLink:
    """The link to one bookie. Callbacks never run before the call that made them returned."""

    def __init__(
        self,
        bookie: BookieId,
        network: Network,
        resolve: Callable[[BookieId], Address | None],
        cluster_key: bytes,
        clock: Clock,
        chance: random.Random,
        limits: BookieClientLimits,
    ) -> None:
        self._bookie = bookie
        self._network = network
        self._resolve = resolve
        self._cluster_key = cluster_key
        self._clock = clock
        self._chance = chance
        self._limits = limits
        self.state = LinkState.IDLE
        self._link: FrameLink | None = None
        self._connection = 0
        self._request_id = 0
        self._adds: dict[int, _PendingAdd] = {}
        self._reads: dict[int, _PendingRead | _PendingReadLac] = {}
        self._early: list[tuple[Buffer, ...]] = []
        self._early_bytes = 0
        self._backoff_s = 0.0
        self._retry_at_s = 0.0
        self._heard_s = 0.0
        self._handshake: ClientHandshake | None = None
        self._opened: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    # -- requests ------------------------------------------------------------------------------

    def next_request_id(self) -> int:
        """Consecutive, so that a bookie can answer many adds by one range."""
        self._request_id += 1
        return self._request_id

    @property
    def has_pending(self) -> bool:
        """Whether a deadline has to be watched."""
        return bool(self._adds or self._reads)

    def submit_add(
        self,
        request_id: int,
        parts: tuple[Buffer, ...],
        size_bytes: int,
        on_reply: Callable[[Status], None],
    ) -> None:
        """Send an add, or refuse it."""
        refusal = self._refusal(size_bytes)
        if refusal is not None:
            asyncio.get_running_loop().call_soon(on_reply, refusal)
            return
        deadline_s = self._clock.monotonic_s() + self._limits.add_timeout_s
        self._adds[request_id] = _PendingAdd(deadline_s, on_reply)
        self._send(parts, size_bytes)

    def submit_read(
        self, request_id: int, frame: bytes, on_reply: Callable[[ReadReply], None]
    ) -> None:
        """Send a read, or refuse it."""
        refusal = self._refusal(0)
        if refusal is not None:
            asyncio.get_running_loop().call_soon(on_reply, ReadReply(Status.UNKNOWN))
            return
        self._reads[request_id] = _PendingRead(self._read_deadline_s(), on_reply)
        self._send((frame,), len(frame))

    def submit_read_lac(
        self, request_id: int, frame: bytes, on_reply: Callable[[ReadLacReply], None]
    ) -> None:
        """Send a LAC read, or refuse it."""
        refusal = self._refusal(0)
        if refusal is not None:
            asyncio.get_running_loop().call_soon(on_reply, ReadLacReply(Status.UNKNOWN))
            return
        self._reads[request_id] = _PendingReadLac(self._read_deadline_s(), on_reply)
        self._send((frame,), len(frame))

    def _read_deadline_s(self) -> float:
        return self._clock.monotonic_s() + self._limits.read_timeout_s

    def _refusal(self, size_bytes: int) -> Status | None:
        """Why a request cannot even be tried; opens the link when it may be."""
        if self.state is LinkState.READY:
            assert self._link is not None
            full = size_bytes and self._link.pending_bytes > self._limits.max_unsent_bytes
            return Status.OVERLOADED if full else None
        if self.state is LinkState.BACKOFF and self._clock.monotonic_s() >= self._retry_at_s:
            self.state = LinkState.IDLE
        if self.state is LinkState.IDLE:
            self.state = LinkState.CONNECTING
            self._task = asyncio.create_task(
                self._connect(), name=f"connect to bookie {self._bookie}"
            )
        if self.state is not LinkState.CONNECTING:
            return Status.UNKNOWN
        full = self._early_bytes + size_bytes > self._limits.max_early_bytes
        return Status.OVERLOADED if full else None

    def _send(self, parts: tuple[Buffer, ...], size_bytes: int) -> None:
        if self.state is LinkState.READY:
            assert self._link is not None
            self._link.send(*parts)
        else:
            self._early.append(parts)
            self._early_bytes += size_bytes

    # -- opening -------------------------------------------------------------------------------

    async def _connect(self) -> None:
        self._connection += 1
        connection = self._connection
        try:
            await self._open(connection)
        except (MagnetarError, OSError, TimeoutError) as error:
            _log.info("no link to bookie %s: %s", self._bookie, error)
            if connection == self._connection:
                self._lost()

    async def _open(self, connection: int) -> None:
        address = self._resolve(self._bookie)
        if address is None:
            raise ConnectionFailed(f"bookie {self._bookie} is not registered")
        handshake = ClientHandshake(
            self._cluster_key, self._bookie, self._chance.randbytes(NONCE_BYTES)
        )
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._handshake, self._opened = handshake, opened

        def on_frame(frame: memoryview) -> None:
            if connection == self._connection:
                self._on_frame(frame)

        def on_closed() -> None:
            if connection == self._connection:
                self._lost()

        timeout_s = self._limits.connect_timeout_s
        link = await self._network.connect(address, on_frame, on_closed, timeout_s)
        if connection != self._connection:
            link.close()
            return
        self._link = link
        link.send(handshake.hello())
        async with asyncio.timeout(timeout_s):
            await opened
        if connection == self._connection:  # it may have been lost in this very turn
            self._ready()

    def _ready(self) -> None:
        assert self._link is not None
        self.state = LinkState.READY
        self._backoff_s = 0.0
        early, self._early, self._early_bytes = self._early, [], 0
        for parts in early:
            self._link.send(*parts)

    def _shake(self, frame: memoryview) -> None:
        handshake, opened, link = self._handshake, self._opened, self._link
        if handshake is None or opened is None or link is None or opened.done():
            raise InvalidFrame("a frame before the handshake was done")
        step = handshake.receive(frame)
        if step.reply is not None:
            link.send(step.reply)
        if step.failed is not None:
            opened.set_exception(step.failed)
        elif handshake.state is HandshakeState.READY:
            opened.set_result(None)

    # -- answers -------------------------------------------------------------------------------

    def _on_frame(self, frame: memoryview) -> None:
        try:
            if self.state is LinkState.READY:
                self._answer(frame)
            else:
                self._shake(frame)
        except InvalidFrame as error:
            _log.warning("bookie %s sent nonsense: %s", self._bookie, error)
            self._lost()

    def _answer(self, frame: memoryview) -> None:
        self._heard_s = self._clock.monotonic_s()
        kind, request_id = peek(frame)
        if kind == Kind.ADD_REPLY:
            reply = decode_add_reply(frame)
            adds, status = self._adds, reply.status
            if reply.count > self._request_id:
                raise InvalidFrame(f"an answer to {reply.count} adds, which were not sent")
            for answered in range(request_id, request_id + reply.count):
                add = adds.pop(answered, None)
                if add is not None:
                    add.on_reply(status)
            return
        read = self._reads.pop(request_id, None)
        if kind == Kind.READ_REPLY:
            read_reply = decode_read_reply(frame)
            if isinstance(read, _PendingRead):
                read.on_reply(read_reply)
        elif kind == Kind.READ_LAC_REPLY:
            lac_reply = decode_read_lac_reply(frame)
            if isinstance(read, _PendingReadLac):
                read.on_reply(lac_reply)
        else:
            raise InvalidFrame(f"a frame of kind {kind}")
        if read is not None and not isinstance(
            read, _PendingRead if kind == Kind.READ_REPLY else _PendingReadLac
        ):
            _fail_read(read)

    def sweep(self, now_s: float) -> None:
        """Answer UNKNOWN what is past its deadline; drop a link that went silent."""
        expired = False
        while self._adds:
            request_id = next(iter(self._adds))
            if self._adds[request_id].deadline_s > now_s:
                break
            expired = True
            self._adds.pop(request_id).on_reply(Status.UNKNOWN)
        while self._reads:
            request_id = next(iter(self._reads))
            if self._reads[request_id].deadline_s > now_s:
                break
            expired = True
            _fail_read(self._reads.pop(request_id))
        silent_s = now_s - self._heard_s
        patience_s = min(self._limits.add_timeout_s, self._limits.read_timeout_s)
        if expired and self.state is LinkState.READY and silent_s >= patience_s:
            self._lost()

    # -- the end -------------------------------------------------------------------------------

    def _lost(self) -> None:
        """Drop the link if there is one, answer all pending, and wait before the next try."""
        if self.state is LinkState.CLOSED:
            return
        limits = self._limits
        self._backoff_s = min(max(self._backoff_s * 2, limits.backoff_min_s), limits.backoff_max_s)
        pause_s = self._backoff_s * (0.5 + self._chance.random())
        self._retry_at_s = self._clock.monotonic_s() + pause_s
        self.state = LinkState.BACKOFF
        self._drop()

    def close(self) -> None:
        """For good; everything pending is UNKNOWN."""
        self.state = LinkState.CLOSED
        if self._task is not None:
            self._task.cancel()
        self._drop()

    def _drop(self) -> None:
        self._connection += 1
        link, self._link = self._link, None
        if link is not None:
            link.close()
        opened, self._opened, self._handshake = self._opened, None, None
        if opened is not None and not opened.done():
            with contextlib.suppress(asyncio.InvalidStateError):
                opened.set_exception(ConnectionFailed(f"the link to {self._bookie} was lost"))
                opened.exception()
        self._early, self._early_bytes = [], 0
        adds, self._adds = self._adds, {}
        reads, self._reads = self._reads, {}
        soon = asyncio.get_running_loop().call_soon
        for add in adds.values():
            soon(add.on_reply, Status.UNKNOWN)
        for read in reads.values():
            soon(_fail_read, read)


def _fail_read(read: _PendingRead | _PendingReadLac) -> None:
    if isinstance(read, _PendingRead):
        read.on_reply(ReadReply(Status.UNKNOWN))
    else:
        read.on_reply(ReadLacReply(Status.UNKNOWN))
