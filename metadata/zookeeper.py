"""The metadata in ZooKeeper, through kazoo, for clusters.

kazoo works in threads of its own. Requests are handed to it from the event loop in order, through
a `KazooWindow`, and its answers and events come back with `call_soon_threadsafe`; its blocking
calls (start, stop) run in a thread. Watches in ZooKeeper fire once: each is armed again before
its callback is called, so a read begun in the callback comes after the new watch, and no change
falls between. kazoo does not notice a silent server while requests keep going out, so a
heartbeat of our own does, and drops the link.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from kazoo import exceptions as kazoo_errors
from kazoo.client import KazooClient
from kazoo.protocol.states import EventType, KazooState, WatchedEvent
from kazoo.retry import KazooRetry

from magnetar.errors import (
    AlreadyClosed,
    AlreadyExists,
    BadVersion,
    ConnectionFailed,
    ConnectionLoss,
    InvalidArgument,
    MagnetarError,
    NotEmpty,
    NotFound,
    SessionExpired,
    Unauthorized,
)
from magnetar.runtime.clock import Clock, SystemClock
from metadata.callbacks import Callbacks, Watches
from metadata.embedded import DEFAULT_SESSION_TIMEOUT_S
from metadata.kazoo_window import KazooWindow
from metadata.store import Cancel, Guard, Record, SessionState, check_path, check_value
from metadata.tree import check_version

HEARTBEATS_PER_TIMEOUT: Final = 6
MIN_CALL_TIMEOUT_S: Final = 2.0
STOP_PATIENCE_S: Final = 3.0
ANY_VERSION: Final = -1

_ERRORS: Final[tuple[tuple[type[Exception], type[MagnetarError]], ...]] = (
    (kazoo_errors.NoNodeError, NotFound),
    (kazoo_errors.NodeExistsError, AlreadyExists),
    (kazoo_errors.BadVersionError, BadVersion),
    (kazoo_errors.NotEmptyError, NotEmpty),
    (kazoo_errors.NoChildrenForEphemeralsError, InvalidArgument),
    (kazoo_errors.BadArgumentsError, InvalidArgument),
    (kazoo_errors.SessionExpiredError, SessionExpired),
    (kazoo_errors.NoAuthError, Unauthorized),
    (kazoo_errors.AuthFailedError, Unauthorized),
)

_NOT_THE_CAUSE: Final = (kazoo_errors.RolledBackError, kazoo_errors.RuntimeInconsistency)
"""Outcomes of a transaction's steps where another step failed."""

_PROOFS: Final = (
    kazoo_errors.NoNodeError,
    kazoo_errors.NodeExistsError,
    kazoo_errors.BadVersionError,
    kazoo_errors.NotEmptyError,
)
"""Refusals that prove that the session lives."""


def translate(error: BaseException, path: str) -> MagnetarError:
    """kazoo's error as ours; whatever does not say "no" for certain is ConnectionLoss."""
    for theirs, ours in _ERRORS:
        if isinstance(error, theirs):
            return ours(f"ZooKeeper refused {path}: {type(error).__name__} {error}".rstrip())
    return ConnectionLoss(f"no certain answer about {path}: {type(error).__name__} {error}")


class ZooKeeperStore:
    """One ZooKeeper session, renewed after LOST; made by `connect`."""

    def __init__(self, client: Any, chroot: str, session_timeout_s: float, clock: Clock) -> None:
        self._client = client
        self._chroot = chroot
        self._timeout_s = session_timeout_s
        self._clock = clock
        self._window = KazooWindow(asyncio.get_running_loop())
        self._session_id = 0
        self._state = SessionState.SUSPENDED
        self._proof_s = clock.monotonic_s()
        self._listeners: Callbacks[[SessionState]] = Callbacks()
        self._watches = Watches()
        self._armed: dict[str, Callable[[WatchedEvent], None]] = {}
        self._ready = asyncio.Event()
        self._heart: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def connect(
        cls,
        hosts: str,
        chroot: str = "",
        session_timeout_s: float = DEFAULT_SESSION_TIMEOUT_S,
        *,
        clock: Clock | None = None,
    ) -> ZooKeeperStore:
        """Open a session with `host:port[,host:port]`, everything below `chroot`, which is made
        if missing. Raises ConnectionFailed when no server answers in the session timeout."""
        if chroot:
            check_path(chroot)
        client = KazooClient(
            hosts=hosts,
            timeout=session_timeout_s,
            connection_retry=KazooRetry(max_tries=-1, delay=0.05, backoff=2, max_delay=1.0),
        )
        chroot = "" if chroot == "/" else chroot
        store = cls(client, chroot, session_timeout_s, clock or SystemClock())
        _on_negotiated(client, store._clock, store._negotiated)
        client.add_listener(store._on_kazoo_state)
        await asyncio.to_thread(client.start_async)
        patience_s = max(session_timeout_s, MIN_CALL_TIMEOUT_S)
        try:
            async with asyncio.timeout(patience_s):
                await store._ready.wait()
                if store._chroot:
                    await store._ask(client.ensure_path_async, store._chroot)
        except (TimeoutError, ConnectionLoss) as error:
            await store.close()
            raise ConnectionFailed(
                f"no ZooKeeper server answers at {hosts} within {patience_s:g} s"
            ) from error
        except BaseException:
            await store.close()
            raise
        store._heart = asyncio.create_task(store._beat(), name="zookeeper heartbeat")
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
        value, stat = await self._read(self._client.get_async, path)
        return Record(value, stat.version)

    async def children(self, path: str) -> list[str]:
        names = await self._read(self._client.get_children_async, path)
        return sorted(names)

    async def create(self, path: str, value: bytes, *, ephemeral: bool = False) -> int:
        check_path(path)
        check_value(path, value)
        if path == "/":
            raise AlreadyExists("/ exists already")

        def begin(full: str) -> Any:
            return self._client.create_async(full, value, ephemeral=ephemeral, makepath=True)

        await self._call(begin, path)
        return 0

    async def put(
        self, path: str, value: bytes, version: int, guard: Guard | None = None
    ) -> int:
        check_path(path)
        check_value(path, value)
        check_version(version)
        if guard is None:
            await self._call(lambda full: self._client.set_async(full, value, version), path)
            return version + 1
        beside, current = self._full(guard.path), guard.version

        def steps(transaction: Any, full: str) -> None:
            transaction.check(beside, current)
            transaction.set_data(full, value, version)

        await self._together(steps, path)
        return version + 1

    async def delete(
        self, path: str, version: int | None = None, guard: Guard | None = None
    ) -> None:
        check_path(path)
        if path == "/":
            raise InvalidArgument("the root of the metadata cannot be deleted")
        if version is not None:
            check_version(version)
        expected = ANY_VERSION if version is None else version
        if guard is None:
            await self._call(lambda full: self._client.delete_async(full, expected), path)
            return
        beside, current = self._full(guard.path), guard.version

        def steps(transaction: Any, full: str) -> None:
            transaction.set_data(beside, b"", current)
            transaction.delete(full, expected)

        await self._together(steps, path)

    def watch(self, path: str, callback: Callable[[], None]) -> Cancel:
        check_path(path)
        is_first = not self._watches.is_watched(path)
        cancel = self._watches.add(path, callback)
        if is_first and self._state is SessionState.CONNECTED:
            self._arm(path)
        return cancel

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._listeners.clear()
        self._watches.clear()
        self._armed.clear()
        self._window.fail(kazoo_errors.ConnectionClosedError)
        self._ready.set()
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait([self._heart])
        # A server that is silent would hold kazoo for 10 s and more; its threads are daemons.
        stopping = asyncio.create_task(asyncio.to_thread(self._stop_kazoo))
        await asyncio.wait([stopping], timeout=STOP_PATIENCE_S)

    def _stop_kazoo(self) -> None:
        with contextlib.suppress(Exception):
            self._client.stop()
            self._client.close()

    # Calls.

    async def _read(self, begin: Callable[[str], Any], path: str) -> Any:
        """A server may lag behind: absence is believed only after it caught up."""
        check_path(path)
        try:
            return await self._call(begin, path)
        except NotFound:
            await self._call(self._client.sync_async, path)
            return await self._call(begin, path)

    async def _together(self, steps: Callable[[Any, str], None], path: str) -> None:
        """All steps or none; raises what the first one that failed does."""

        def begin(full: str) -> Any:
            transaction = self._client.transaction()
            steps(transaction, full)
            return transaction.commit_async()

        for outcome in await self._call(begin, path):
            if isinstance(outcome, Exception) and not isinstance(outcome, _NOT_THE_CAUSE):
                raise translate(outcome, path)

    async def _call(self, begin: Callable[[str], Any], path: str) -> Any:
        timeout_s = max(self._timeout_s, MIN_CALL_TIMEOUT_S)
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait_connected()
                return await self._ask(begin, self._full(path))
        except TimeoutError:
            raise ConnectionLoss(f"no answer from ZooKeeper in {timeout_s:g} s") from None

    async def _wait_connected(self) -> None:
        while not self._closed and self._state is not SessionState.CONNECTED:
            if self._state is SessionState.LOST:
                raise SessionExpired("the ZooKeeper session ended; a new one is being opened")
            await self._ready.wait()
        if self._closed:
            raise AlreadyClosed("the metadata session is closed")

    async def _ask(
        self, begin: Callable[[str], Any], full: str, *, is_heartbeat: bool = False
    ) -> Any:
        """Hand a request to kazoo and wait for its answer; any answer but a lost one proves
        that the session lived when the request was made."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sent_s = 0.0

        def send() -> Any:
            nonlocal sent_s
            sent_s = self._clock.monotonic_s()
            return begin(full)

        def settle(value: Any, error: BaseException | None) -> None:
            if error is None or isinstance(error, _PROOFS):
                self._proof_s = max(self._proof_s, sent_s)
            if answer.done():
                return
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(translate(error, full))

        if is_heartbeat:
            self._window.send_now(send, settle)
        else:
            self._window.submit(send, settle, is_wanted=lambda: not answer.done())
        return await answer

    def _full(self, path: str) -> str:
        return path if not self._chroot else self._chroot + ("" if path == "/" else path)

    # Watches.

    def _arm(
        self, path: str, *, node: bool = True, children: bool = True, after_reconnect: bool = False
    ) -> None:
        """Ask for the next change of the node or of its children, or both. Callbacks are due
        once it is in force. What fails, fails because the link broke, and all is armed again
        when it is back."""
        fired = self._armed.get(path)
        if fired is None:

            def fired(event: WatchedEvent) -> None:
                if event.type != EventType.NONE:
                    self._window.to_loop(self._fired, path, event.type)

            self._armed[path] = fired

        def in_force(value: Any, error: BaseException | None) -> None:
            if error is None or isinstance(error, kazoo_errors.NoNodeError):
                self._watches.changed(path)

        def is_watched() -> bool:
            return self._watches.is_watched(path)

        full, client = self._full(path), self._client
        requests = [client.exists_async] if node else []
        requests += [client.get_children_async] if children else []
        for request in requests:
            self._window.submit(
                partial(request, full, watch=fired),
                in_force if request is requests[-1] else _ignore,
                is_wanted=is_watched,
                in_background=after_reconnect,
            )

    def _fired(self, path: str, event: str) -> None:
        """Arm again what this event used up, and only then tell."""
        if not self._watches.is_watched(path):
            self._armed.pop(path, None)
        elif self._state is SessionState.CONNECTED:
            self._arm(
                path,
                node=event != EventType.CHILD,
                children=event not in (EventType.CHANGED, EventType.DELETED),
            )

    # The session.

    def _negotiated(self, timeout_ms: int, sent_s: float) -> None:
        """In kazoo's thread, when a server accepted the session; 0 is a refusal."""
        if timeout_ms > 0:
            self._window.to_loop(self._accepted, timeout_ms / 1000, sent_s)

    def _accepted(self, timeout_s: float, sent_s: float) -> None:
        self._timeout_s = timeout_s
        self._proof_s = max(self._proof_s, sent_s)

    def _on_kazoo_state(self, state: str) -> None:
        """In kazoo's thread, which must not be held up."""
        session = self._client.client_id
        self._window.to_loop(self._follow, state, 0 if session is None else session[0])

    def _follow(self, state: str, session_id: int) -> None:
        if self._closed:
            return
        if state == KazooState.CONNECTED:
            self._session_id = session_id & 0xFFFF_FFFF_FFFF_FFFF
            self._state = SessionState.CONNECTED
            self._armed.clear()
            self._window.open()
            self._ready.set()
            self._listeners.fire(SessionState.CONNECTED)
            for path in self._watches.paths():
                self._arm(path, after_reconnect=True)
        elif state == KazooState.SUSPENDED:
            self._fall_silent(SessionState.SUSPENDED)
        else:
            self._fall_silent(SessionState.LOST)

    def _fall_silent(self, state: SessionState) -> None:
        if self._state is state:
            return
        self._state = state
        self._window.pause()
        self._ready.clear()
        if state is SessionState.LOST:
            self._ready.set()
            self._window.fail(kazoo_errors.SessionExpiredError)
        self._listeners.fire(state)

    async def _beat(self) -> None:
        """Prove life, and notice its absence."""
        exists = self._client.exists_async
        while True:
            period_s = self._timeout_s / HEARTBEATS_PER_TIMEOUT
            if self._state is SessionState.CONNECTED:
                with contextlib.suppress(MagnetarError, TimeoutError):
                    async with asyncio.timeout(period_s):
                        await self._ask(exists, self._full("/"), is_heartbeat=True)
                silence_s = self._clock.monotonic_s() - self._proof_s
                if silence_s > self._timeout_s * 2 / 3 and self._state is SessionState.CONNECTED:
                    self._drop_link()
            await asyncio.sleep(period_s)

    def _drop_link(self) -> None:
        """kazoo finds its socket closed, says SUSPENDED and connects anew."""
        sock = self._client._connection._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _ignore(value: Any, error: BaseException | None) -> None:
    """The later request of a pair tells."""


def _on_negotiated(client: Any, clock: Clock, callback: Callable[[int, float], None]) -> None:
    """kazoo keeps the negotiated timeout to itself: look at the answer to its connect request."""
    connection = client._connection
    invoke = connection._invoke

    def invoke_and_tell(timeout: float, request: Any, xid: int | None = None) -> Any:
        sent_s = clock.monotonic_s()
        outcome = invoke(timeout, request, xid)
        if type(request).__name__ == "Connect":
            callback(outcome[0].time_out, sent_s)
        return outcome

    connection._invoke = invoke_and_tell
