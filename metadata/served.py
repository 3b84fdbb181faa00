"""A session with a served metadata store, over framed links.

One task keeps the link: it connects, says HELLO with the session it had, sends heartbeats, and
begins again when the link broke or two thirds of the timeout passed without an answer. Calls
wait for the link, and then for their answer, up to their deadline; a link lost in between is
ConnectionLoss, since the server may have applied them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from magnetar.errors import (
    AlreadyClosed,
    ConnectionFailed,
    ConnectionLoss,
    InvalidFrame,
    MagnetarError,
    NotSupported,
    SessionExpired,
)
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Address, Network
from metadata.callbacks import Callbacks, Watches
from metadata.embedded import DEFAULT_SESSION_TIMEOUT_S
from metadata.served_link import ServedLink
from metadata.served_server import MetadataServer
from metadata.served_wire import (
    MAGIC,
    NO_VERSION,
    PROTOCOL_VERSION,
    Reply,
    Request,
    RequestKind,
    decode_names,
)
from metadata.store import Cancel, Guard, Record, SessionState, check_path, check_value
from metadata.tree import NO_SESSION, check_version

__all__ = ["MetadataServer", "ServedStore"]

HEARTBEATS_PER_TIMEOUT: Final = 6
RECONNECT_DELAY_S: Final = 0.05
MAX_RECONNECT_DELAY_S: Final = 0.5
MIN_CALL_TIMEOUT_S: Final = 2.0


class ServedStore:
    """The client's side; made by `connect`."""

    def __init__(
        self, network: Network, address: Address, clock: Clock, session_timeout_s: float
    ) -> None:
        self._network = network
        self._address = address
        self._clock = clock
        self._timeout_s = session_timeout_s
        self._session_id = NO_SESSION
        self._state = SessionState.SUSPENDED
        self._proof_s = clock.monotonic_s()
        self._listeners: Callbacks[[SessionState]] = Callbacks()
        self._watches = Watches()
        self._link: ServedLink | None = None
        self._ready = asyncio.Event()
        self._refusal: MagnetarError | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def connect(
        cls,
        network: Network,
        address: Address,
        clock: Clock,
        session_timeout_s: float = DEFAULT_SESSION_TIMEOUT_S,
    ) -> ServedStore:
        """Open a session. Raises ConnectionFailed when no server answers within the session
        timeout, InvalidFrame or NotSupported when something else than ours does."""
        store = cls(network, address, clock, session_timeout_s)
        store._keeper = asyncio.create_task(store._keep(), name="metadata session")
        try:
            async with asyncio.timeout(max(session_timeout_s, MIN_CALL_TIMEOUT_S)):
                await store._ready.wait()
        except TimeoutError:
            await store.close()
            raise ConnectionFailed(f"no metadata server answers at {address}") from None
        except BaseException:
            await store.close()
            raise
        if store._refusal is not None:
            refusal = store._refusal
            await store.close()
            raise refusal
        return store

    @property
    def session_id(self) -> int:
        return self._session_id

    @property
    def session_timeout_s(self) -> float:
        return self._timeout_s

    @property
    def state(self) -> SessionState:
        return self._state

    def silence_s(self) -> float:
        age_s = self._clock.monotonic_s() - self._proof_s
        fresh = self._state is SessionState.CONNECTED and age_s < self._timeout_s / 3
        return 0.0 if fresh else age_s

    def on_session(self, callback: Callable[[SessionState], None]) -> Cancel:
        return self._listeners.add(callback)

    async def get(self, path: str) -> Record:
        reply = await self._call(RequestKind.GET, path)
        return Record(reply.body, reply.version)

    async def create(self, path: str, value: bytes, *, ephemeral: bool = False) -> int:
        check_value(path, value)
        reply = await self._call(RequestKind.CREATE, path, value, ephemeral=ephemeral)
        return reply.version

    async def put(
        self, path: str, value: bytes, version: int, guard: Guard | None = None
    ) -> int:
        check_value(path, value)
        check_version(version)
        reply = await self._call(RequestKind.PUT, path, value, version, guard=guard)
        return reply.version

    async def delete(
        self, path: str, version: int | None = None, guard: Guard | None = None
    ) -> None:
        if version is not None:
            check_version(version)
        await self._call(
            RequestKind.DELETE, path, version=NO_VERSION if version is None else version,
            guard=guard,
        )

    async def children(self, path: str) -> list[str]:
        return decode_names((await self._call(RequestKind.CHILDREN, path)).body)

    def watch(self, path: str, callback: Callable[[], None]) -> Cancel:
        check_path(path)
        if self._link is not None and not self._watches.is_watched(path):
            self._link.tell(RequestKind.WATCH, path)
        cancel_callback = self._watches.add(path, callback)

        def cancel() -> None:
            was_watched = self._watches.is_watched(path)
            cancel_callback()
            if self._link is not None and was_watched and not self._watches.is_watched(path):
                self._link.tell(RequestKind.UNWATCH, path)

        return cancel

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._listeners.clear()
        self._watches.clear()
        if self._link is not None:
            with contextlib.suppress(MagnetarError, TimeoutError):
                async with asyncio.timeout(MIN_CALL_TIMEOUT_S):
                    await self._link.ask(RequestKind.CLOSE)
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        self._ready.set()

    async def _call(
        self,
        kind: RequestKind,
        path: str,
        value: bytes = b"",
        version: int = NO_VERSION,
        *,
        ephemeral: bool = False,
        guard: Guard | None = None,
    ) -> Reply:
        check_path(path)
        timeout_s = max(self._timeout_s, MIN_CALL_TIMEOUT_S)
        try:
            async with asyncio.timeout(timeout_s):
                link = await self._wait_for_link()
                request = Request(
                    kind, link.next_request_id(), path, value, version, ephemeral, guard=guard
                )
                return await link.exchange(request)
        except TimeoutError:
            raise ConnectionLoss(
                f"no answer from the metadata server at {self._address} in {timeout_s:g} s"
            ) from None

    async def _wait_for_link(self) -> ServedLink:
        while True:
            if self._closed:
                raise AlreadyClosed("the metadata session is closed")
            if self._state is SessionState.LOST:
                raise SessionExpired("the metadata session ended; a new one is being opened")
            if self._link is not None:
                return self._link
            await self._ready.wait()

    # The keeper of the link.

    async def _keep(self) -> None:
        delay_s = RECONNECT_DELAY_S
        while True:
            link = ServedLink(self._clock, self._on_event, self._on_proof)
            try:
                await self._open(link)
                delay_s = RECONNECT_DELAY_S
                await self._heartbeats(link)
                error = link.refusal
            except MagnetarError as failure:
                error = failure
            finally:
                self._link = None
                self._ready.clear()
                link.close(ConnectionLoss("the link to the metadata server was dropped"))
            if isinstance(error, InvalidFrame | NotSupported) and self._session_id == NO_SESSION:
                self._refusal = error
                self._ready.set()
                return
            if isinstance(error, SessionExpired):
                self._session_id = NO_SESSION
                self._enter(SessionState.LOST)
                continue
            if self._state is SessionState.CONNECTED:
                self._enter(SessionState.SUSPENDED)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, MAX_RECONNECT_DELAY_S)

    async def _open(self, link: ServedLink) -> None:
        """Connect and say HELLO; raises what made it fail."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await link.open(self._network, self._address, self._timeout_s)
                welcome = await link.exchange(
                    Request(
                        RequestKind.HELLO,
                        link.next_request_id(),
                        value=MAGIC,
                        version=PROTOCOL_VERSION,
                        session_id=self._session_id,
                        timeout_ms=round(self._timeout_s * 1000),
                    )
                )
        except TimeoutError:
            raise ConnectionLoss("the metadata server does not answer") from None
        self._session_id = welcome.session_id
        self._timeout_s = welcome.timeout_ms / 1000
        self._link = link
        for path in self._watches.paths():
            link.tell(RequestKind.WATCH, path)
        self._ready.set()
        if self._state is not SessionState.CONNECTED:
            self._enter(SessionState.CONNECTED)
        self._watches.all_changed()

    async def _heartbeats(self, link: ServedLink) -> None:
        """Until the link ends or falls silent."""
        while not link.is_closed:
            link.tell(RequestKind.HEARTBEAT)
            await link.wait_closed(self._timeout_s / HEARTBEATS_PER_TIMEOUT)
            if self._clock.monotonic_s() - self._proof_s > self._timeout_s * 2 / 3:
                return

    def _on_event(self, path: str) -> None:
        self._watches.changed(path)

    def _on_proof(self, sent_s: float) -> None:
        self._proof_s = max(self._proof_s, sent_s)

    def _enter(self, state: SessionState) -> None:
        self._state = state
        self._listeners.fire(state)
