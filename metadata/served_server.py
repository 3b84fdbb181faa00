"""Serving an embedded store to other processes of the machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from magnetar.errors import (
    ConnectionLoss,
    DiskFailure,
    InvalidFrame,
    MagnetarError,
    NotSupported,
    SessionExpired,
)
from magnetar.runtime.network import Address, FrameLink, Listener, Network, OnClosed, OnFrame
from metadata.embedded import EmbeddedStore
from metadata.served_wire import (
    MAGIC,
    NO_REQUEST,
    NO_VERSION,
    PROTOCOL_VERSION,
    Reply,
    ReplyKind,
    Request,
    RequestKind,
    decode_request,
    encode_names,
    encode_reply,
    error_reply,
)
from metadata.store import Cancel, check_path
from metadata.tree import NO_SESSION

MIN_SESSION_TIMEOUT_MS: Final = 200
MAX_SESSION_TIMEOUT_MS: Final = 120_000
MAX_REQUESTS_IN_FLIGHT: Final = 1024
"""A link with more unanswered requests is refused the next ones."""
MAX_PENDING_BYTES: Final = 64 << 20
"""A link whose client does not read its replies is closed above this."""

HELLO_PATIENCE_S: Final = 10.0
"""A link that did not say HELLO by then is dropped."""

_log = logging.getLogger(__name__)


class MetadataServer:
    """Listens, and speaks for remote sessions. The store stays its owner's to close."""

    def __init__(
        self,
        store: EmbeddedStore,
        network: Network,
        on_fatal: Callable[[MagnetarError], None] | None = None,
    ) -> None:
        """`on_fatal` is told when the disk failed: the process must end."""
        self.store: Final = store
        self.on_fatal: Final = on_fatal
        self._network = network
        self._listener: Listener | None = None
        self._connections: dict[_Connection, None] = {}
        self._by_session: dict[int, _Connection] = {}
        self._cancel_ended: Cancel | None = None

    async def start(self, address: Address) -> Address:
        """Listen, port 0 for a free one; answers the address. Sessions kept from before a
        restart have a fresh timeout from now on. Raises OSError when the port is taken."""
        self.store.arm_expiry()
        self._cancel_ended = self.store.session_ended.add(self._session_ended)
        self._listener = await self._network.listen(address, self._accept)
        return self._listener.address

    async def stop(self) -> None:
        """Drop the links; the sessions live on until their timeout."""
        if self._cancel_ended is not None:
            self._cancel_ended()
            self._cancel_ended = None
        for connection in [*self._connections]:
            connection.close()
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()

    def _accept(self, link: FrameLink) -> tuple[OnFrame, OnClosed]:
        connection = _Connection(self, link)
        self._connections[connection] = None
        return connection.on_frame, connection.on_closed

    def bind(self, connection: _Connection, session_id: int) -> None:
        """The session speaks through this link from now on; an older one is dropped."""
        older = self._by_session.get(session_id)
        self._by_session[session_id] = connection
        if older is not None and older is not connection:
            older.close()

    def forget(self, connection: _Connection, session_id: int) -> None:
        self._connections.pop(connection, None)
        if self._by_session.get(session_id) is connection:
            del self._by_session[session_id]

    def _session_ended(self, session_id: int) -> None:
        connection = self._by_session.get(session_id)
        if connection is not None:
            connection.refuse(NO_REQUEST, SessionExpired("the session ended after silence"))


class _Connection:
    """One accepted link."""

    def __init__(self, server: MetadataServer, link: FrameLink) -> None:
        self._server = server
        self._store = server.store
        self._link = link
        self._session_id = NO_SESSION
        self._watches: dict[str, Cancel] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._closed = False
        self._greeted = False
        self._patience = asyncio.get_running_loop().call_later(HELLO_PATIENCE_S, self._too_slow)

    def _too_slow(self) -> None:
        self.refuse(NO_REQUEST, InvalidFrame("a link begins with HELLO, and none came in time"))

    def on_frame(self, frame: memoryview) -> None:
        if self._closed:
            return
        try:
            self._take(decode_request(frame))
        except InvalidFrame as error:
            _log.warning("metadata link of %s dropped: %s", self._link.peer, error)
            self.refuse(NO_REQUEST, error)

    def _take(self, request: Request) -> None:
        if request.kind is RequestKind.HELLO:
            self._hello(request)
        elif self._session_id == NO_SESSION:
            raise InvalidFrame("this is a Magnetar metadata port; a link begins with HELLO")
        elif self._store.touch(self._session_id) is None:
            self.refuse(request.request_id, SessionExpired("the session ended"))
        elif request.kind is RequestKind.HEARTBEAT:
            self._send(Reply(ReplyKind.OK, request.request_id))
        elif request.kind is RequestKind.WATCH:
            self._watch(request)
        elif request.kind is RequestKind.UNWATCH:
            cancel = self._watches.pop(request.path, None)
            if cancel is not None:
                cancel()
        elif len(self._tasks) >= MAX_REQUESTS_IN_FLIGHT:
            error = ConnectionLoss(f"more than {MAX_REQUESTS_IN_FLIGHT} requests unanswered")
            self._send(error_reply(request.request_id, error))
        else:
            # Tasks begin in the order of their making, and each applies its operation before
            # it first suspends: so requests of one link are applied in the order they came.
            task = asyncio.create_task(self._answer(request))
            self._tasks[task] = None
            task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)

    def _hello(self, request: Request) -> None:
        if request.value != MAGIC or self._greeted:
            raise InvalidFrame("this is a Magnetar metadata port; it does not speak this protocol")
        self._greeted = True
        self._patience.cancel()
        if request.version != PROTOCOL_VERSION:
            error = NotSupported(
                f"this metadata server speaks protocol {PROTOCOL_VERSION}, not {request.version}"
            )
            self.refuse(request.request_id, error)
            return
        task = asyncio.create_task(self._welcome(request))
        self._tasks[task] = None
        task.add_done_callback(self._task_done)

    async def _welcome(self, request: Request) -> None:
        """Resume a session or open one; answered once it is durable."""
        if self._closed:
            return
        session_id = request.session_id
        if session_id != NO_SESSION:
            timeout_s = self._store.touch(session_id)
            if timeout_s is None:
                self.refuse(request.request_id, SessionExpired("the session ended"))
                return
        else:
            wanted_ms = max(request.timeout_ms, MIN_SESSION_TIMEOUT_MS)
            timeout_s = min(wanted_ms, MAX_SESSION_TIMEOUT_MS) / 1000
            session_id = self._store.open_remote_session(timeout_s)
        self._session_id = session_id
        self._server.bind(self, session_id)
        try:
            await self._store.run(lambda tree: None)
        except MagnetarError as error:
            self._failed(request, error)
            return
        welcome = Reply(
            ReplyKind.OK,
            request.request_id,
            version=PROTOCOL_VERSION,
            session_id=session_id,
            timeout_ms=round(timeout_s * 1000),
        )
        self._send(welcome)

    def _watch(self, request: Request) -> None:
        try:
            check_path(request.path)
        except MagnetarError as error:
            self._send(error_reply(request.request_id, error))
            return
        path = request.path
        if path not in self._watches:
            event = Reply(ReplyKind.EVENT, NO_REQUEST, path.encode())
            self._watches[path] = self._store.watches.add(path, lambda: self._send(event))
            # What changed while this request was on its way would otherwise go untold.
            self._send(event)
        self._send(Reply(ReplyKind.OK, request.request_id))

    async def _answer(self, request: Request) -> None:
        try:
            reply = await self._perform(request)
        except MagnetarError as error:
            self._failed(request, error)
        else:
            self._send(reply)
            if request.kind is RequestKind.CLOSE:
                self.close()

    def _failed(self, request: Request, error: MagnetarError) -> None:
        self._send(error_reply(request.request_id, error))
        if isinstance(error, DiskFailure) and self._server.on_fatal is not None:
            self._server.on_fatal(error)

    async def _perform(self, request: Request) -> Reply:
        store, path, kind = self._store, request.path, request.kind
        version = request.version
        body = b""
        if kind is RequestKind.GET:
            record = await store.run(lambda tree: tree.get(path))
            body, version = record.value, record.version
        elif kind is RequestKind.CHILDREN:
            body = encode_names(await store.run(lambda tree: tree.children(path)))
        elif kind is RequestKind.CREATE:
            owner = self._session_id if request.ephemeral else NO_SESSION
            if owner != NO_SESSION and not store.is_live(owner):
                raise SessionExpired("the session ended")
            await store.change(lambda tree: tree.create(path, request.value, owner))
            version = 0
        elif kind is RequestKind.PUT:
            await store.change(lambda tree: tree.put(path, request.value, version, request.guard))
            version += 1
        elif kind is RequestKind.DELETE:
            expected = None if version == NO_VERSION else version
            await store.change(lambda tree: tree.delete(path, expected, request.guard))
        else:
            await store.end_session(self._session_id)
        return Reply(ReplyKind.OK, request.request_id, body, version)

    def _send(self, reply: Reply) -> None:
        if self._closed:
            return
        if self._link.pending_bytes > MAX_PENDING_BYTES:
            _log.warning("metadata link of %s dropped: it does not read", self._link.peer)
            self.close()
            return
        self._link.send(encode_reply(reply))

    def refuse(self, request_id: int, error: MagnetarError) -> None:
        """Say why, and drop this link only."""
        self._send(error_reply(request_id, error))
        self.close()

    def close(self) -> None:
        self._link.close()
        self.on_closed()

    def on_closed(self) -> None:
        """Requests under way are applied already or will be; only their answers are lost."""
        self._closed = True
        self._patience.cancel()
        for cancel in self._watches.values():
            cancel()
        self._watches.clear()
        self._server.forget(self, self._session_id)
