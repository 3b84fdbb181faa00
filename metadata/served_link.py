"""One link to a served metadata store: requests out, replies matched to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from magnetar.errors import ConnectionLoss, InvalidFrame, MagnetarError
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Address, FrameLink, Network
from metadata.served_wire import (
    NO_REQUEST,
    ErrorCode,
    Reply,
    ReplyKind,
    Request,
    RequestKind,
    decode_reply,
    encode_request,
    error_of,
)

_NO_PROOF: Final = (ErrorCode.SESSION_EXPIRED, ErrorCode.CONNECTION_LOSS)
"""Refusals that do not say that the session lives."""


@dataclass(slots=True)
class _Waiting:
    sent_s: float
    answer: asyncio.Future[Reply] | None


class ServedLink:
    """Used for one connection and then thrown away, so that no late frame meets a new one."""

    def __init__(
        self,
        clock: Clock,
        on_event: Callable[[str], None],
        on_proof: Callable[[float], None],
    ) -> None:
        """`on_proof` is told the sending time of each request that got an answer."""
        self.refusal: MagnetarError | None = None
        self._clock = clock
        self._on_event = on_event
        self._on_proof = on_proof
        self._link: FrameLink | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._last_request_id = NO_REQUEST
        self._closed = asyncio.Event()

    async def open(self, network: Network, address: Address, timeout_s: float) -> None:
        """Raises ConnectionFailed."""
        self._link = await network.connect(address, self._on_frame, self._on_closed, timeout_s)

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    async def wait_closed(self, timeout_s: float) -> None:
        """Until the link ends, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._closed.wait()
        except TimeoutError:
            return

    def next_request_id(self) -> int:
        self._last_request_id += 1
        return self._last_request_id

    def tell(self, kind: RequestKind, path: str = "") -> None:
        """Send without waiting for the answer, which still proves life."""
        self._send(Request(kind, self.next_request_id(), path), None)

    async def ask(self, kind: RequestKind) -> Reply:
        return await self.exchange(Request(kind, self.next_request_id()))

    async def exchange(self, request: Request) -> Reply:
        """Send and wait for the answer; raises what the server refused with, or what the link
        ended with."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._send(request, answer)
        try:
            return await answer
        finally:
            # A later answer is still a proof of life.
            waiting = self._waiting.get(request.request_id)
            if waiting is not None:
                waiting.answer = None

    def _send(self, request: Request, answer: asyncio.Future[Reply] | None) -> None:
        if self._link is None or self._closed.is_set():
            if answer is not None:
                answer.set_exception(self.refusal or ConnectionLoss("the link is closed"))
            return
        frame = encode_request(request)
        if request.kind is not RequestKind.UNWATCH:
            self._waiting[request.request_id] = _Waiting(self._clock.monotonic_s(), answer)
        self._link.send(frame)

    def _on_frame(self, frame: memoryview) -> None:
        try:
            self._take(decode_reply(frame))
        except (InvalidFrame, UnicodeDecodeError) as error:
            self.close(InvalidFrame(f"this is not a Magnetar metadata server: {error}"))

    def _take(self, reply: Reply) -> None:
        if reply.kind is ReplyKind.EVENT:
            self._on_event(reply.body.decode())
            return
        if reply.request_id == NO_REQUEST:
            self.close(error_of(reply))
            return
        waiting = self._waiting.pop(reply.request_id, None)
        if waiting is None:
            return
        if reply.kind is ReplyKind.OK or reply.code not in _NO_PROOF:
            self._on_proof(waiting.sent_s)
        if waiting.answer is None or waiting.answer.done():
            return
        if reply.kind is ReplyKind.OK:
            waiting.answer.set_result(reply)
        else:
            waiting.answer.set_exception(error_of(reply))

    def _on_closed(self) -> None:
        self.close(ConnectionLoss("the link to the metadata server broke"))

    def close(self, error: MagnetarError) -> None:
        """End the link; everyone who waits gets `error`. The first one given stays."""
        if self._closed.is_set():
            return
        self._closed.set()
        self.refusal = error
        if self._link is not None:
            self._link.close()
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if one.answer is not None and not one.answer.done():
                one.answer.set_exception(type(error)(*error.args))
