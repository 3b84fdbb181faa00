"""The embedded store: a tree in memory, and with a directory also a durable log of it.

Operations are applied to the tree at once and in order; each is answered when everything applied
before its answer is durable, so nobody acts on what a crash could take back. While one batch is
being synced the next collects. Without a directory nothing suspends, no thread is started and
the same calls give the same results in the same order: the simulator and tests use it so.

Sessions are local (they live as long as the process) or remote (opened by `MetadataServer` for
another process: kept through a restart, ended after a timeout without a sign of life).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from magnetar.errors import (
    AlreadyClosed,
    ConnectionLoss,
    DiskFailure,
    MetadataError,
    SessionExpired,
)
from magnetar.runtime.clock import Clock, SystemClock
from metadata.callbacks import Callbacks, Watches
from metadata.store import Cancel, Guard, Record, SessionState, check_path
from metadata.tree import NO_SESSION, Changes, Node, Tree

DEFAULT_SESSION_TIMEOUT_S: Final = 6.0

T = TypeVar("T")


@dataclass(slots=True)
class StoredState:
    """What a backend found when it was opened. `sessions` are the remote ones: id to timeout."""

    nodes: dict[str, Node]
    sessions: dict[int, float]
    next_session_id: int


@dataclass(slots=True)
class Batch:
    """Writes to be made durable together; None removes."""

    nodes: dict[str, tuple[bytes, int, int] | None]
    sessions: dict[int, float | None]
    next_session_id: int


class Backend(Protocol):
    """Where the tree is kept durably."""

    def load(self) -> StoredState: ...

    async def write(self, batch: Batch) -> None:
        """Make durable as one unit; raises DiskFailure."""

    async def close(self) -> None: ...


@dataclass(slots=True)
class _RemoteSession:
    timeout_s: float
    heard_s: float


class EmbeddedStore:
    """The store itself; use it through sessions. All calls from one event loop."""

    def __init__(self, backend: Backend | None, clock: Clock) -> None:
        self.clock: Final = clock
        self.watches: Final = Watches()
        self.session_ended: Final[Callbacks[[int]]] = Callbacks()
        self._backend = backend
        self._tree = Tree()
        self._remote: dict[int, _RemoteSession] = {}
        self._local: dict[int, EmbeddedSession] = {}
        self._next_session_id = 1
        self._batch: Batch | None = None
        self._touched: dict[str, None] = {}
        self._collecting: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._closed = False

    @classmethod
    def open(cls, directory: Path | None, clock: Clock | None = None) -> EmbeddedStore:
        """In memory only, or durable in `directory`, which is made if missing; one process at a
        time. Local sessions of an earlier process have ended with it. Raises DiskFailure."""
        clock = clock or SystemClock()
        if directory is None:
            return cls(None, clock)
        from metadata.rocks_backend import RocksBackend

        backend = RocksBackend(directory)
        store = cls(backend, clock)
        store._load(backend.load())
        return store

    def _load(self, state: StoredState) -> None:
        now_s = self.clock.monotonic_s()
        self._tree.load(state.nodes.items())
        self._next_session_id = state.next_session_id
        for session_id, timeout_s in sorted(state.sessions.items()):
            self._remote[session_id] = _RemoteSession(timeout_s, now_s)
        for session_id in self._tree.sessions_with_ephemerals():
            if session_id not in self._remote:
                self._record(self._tree.end_session(session_id))

    def open_session(
        self, session_timeout_s: float = DEFAULT_SESSION_TIMEOUT_S
    ) -> EmbeddedSession:
        """A session of this process. It ends with `close`, or with `expire`, and has no other
        way to be lost; the timeout is only what it tells."""
        session = EmbeddedSession(self, session_timeout_s)
        self.arm_expiry()
        return session

    @property
    def node_count(self) -> int:
        """Nodes of the tree, the root included."""
        return len(self._tree)

    @property
    def remote_session_count(self) -> int:
        """Sessions of other processes."""
        return len(self._remote)

    async def close(self) -> None:
        """Settle what is pending and close the files. Remote sessions stay, for a restart."""
        if self._closed:
            return
        for session in [*self._local.values()]:
            await session.close()
        self._closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        if self._writer is not None:
            await asyncio.wait([self._writer])
        if self._backend is not None:
            await self._backend.close()

    # Operations: applied at once, answered when durable.

    async def run(self, operation: Callable[[Tree], T]) -> T:
        """A reading or a refusal: answered once all it has seen is durable."""
        self._check_open()
        try:
            outcome = operation(self._tree)
        except MetadataError:
            await self._settle()
            raise
        await self._settle()
        return outcome

    async def change(self, operation: Callable[[Tree], Changes]) -> None:
        """Apply, and answer once durable; watchers are told then."""

        def apply(tree: Tree) -> None:
            self._record(operation(tree))

        await self.run(apply)

    def _check_open(self) -> None:
        if self._closed:
            raise AlreadyClosed("the embedded metadata store is closed")
        if self._failure is not None:
            raise DiskFailure("the metadata could not be written") from self._failure

    def _record(self, changes: Changes) -> None:
        if self._backend is None:
            for path in changes.touched:
                self.watches.changed(path)
            return
        batch = self._open_batch()
        for path, node in changes.written.items():
            stored = None if node is None else (node.value, node.version, node.session_id)
            batch.nodes[path] = stored
        self._touched.update(changes.touched)

    def _record_session(self, session_id: int, timeout_s: float | None) -> None:
        if self._backend is not None:
            self._open_batch().sessions[session_id] = timeout_s

    def _open_batch(self) -> Batch:
        if self._batch is None:
            self._batch = Batch({}, {}, self._next_session_id)
        self._batch.next_session_id = self._next_session_id
        return self._batch

    async def _settle(self) -> None:
        """Wait until all applied so far is durable, and not for what comes after."""
        if self._backend is None:
            return
        if self._batch is not None:
            if self._collecting is None:
                self._collecting = asyncio.get_running_loop().create_future()
            self._start_writer(self._backend)
            await asyncio.shield(self._collecting)
        elif self._writing is not None:
            await asyncio.shield(self._writing)
        if self._failure is not None:
            raise DiskFailure("the metadata could not be written") from self._failure

    def _start_writer(self, backend: Backend) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(backend), name="metadata writer")

    async def _write(self, backend: Backend) -> None:
        """Write batch after batch until none is open."""
        try:
            while self._batch is not None:
                batch, self._batch = self._batch, None
                touched, self._touched = self._touched, {}
                self._writing = self._collecting or asyncio.get_running_loop().create_future()
                self._collecting = None
                await backend.write(batch)
                for path in touched:
                    self.watches.changed(path)
                self._writing.set_result(None)
                self._writing = None
        except BaseException as error:
            self._failure = error
            for waiting in (self._writing, self._collecting):
                if waiting is not None:
                    waiting.set_result(None)
        finally:
            self._writer = None

    # Sessions.

    def new_session_id(self) -> int:
        session_id = self._next_session_id
        self._next_session_id += 1
        return session_id

    def adopt(self, session: EmbeddedSession, previous_id: int | None = None) -> int:
        """Give a local session its id."""
        if previous_id is not None:
            self._local.pop(previous_id, None)
        session_id = self.new_session_id()
        self._local[session_id] = session
        return session_id

    def open_remote_session(self, timeout_s: float) -> int:
        """A session of another process: kept through restarts, ended by silence."""
        session_id = self.new_session_id()
        self._remote[session_id] = _RemoteSession(timeout_s, self.clock.monotonic_s())
        self._record_session(session_id, timeout_s)
        self.arm_expiry()
        return session_id

    def touch(self, session_id: int) -> float | None:
        """A sign of life of a remote session; answers its timeout, None when it has ended."""
        session = self._remote.get(session_id)
        if session is None:
            return None
        session.heard_s = self.clock.monotonic_s()
        return session.timeout_s

    def is_live(self, session_id: int) -> bool:
        return session_id in self._remote or session_id in self._local

    def end_session_now(self, session_id: int) -> None:
        """End any session and remove its ephemeral nodes; durable by the next settled answer."""
        local = self._local.pop(session_id, None)
        if self._remote.pop(session_id, None) is not None:
            self._record_session(session_id, None)
        elif local is None:
            return
        self._record(self._tree.end_session(session_id))
        self.session_ended.fire(session_id)

    async def end_session(self, session_id: int) -> None:
        """As `end_session_now`, answered when durable."""
        self._check_open()
        self.end_session_now(session_id)
        await self._settle()

    def arm_expiry(self) -> None:
        """Wait for the remote session that falls silent first, if there is a loop to wait in."""
        if self._expiry is not None or not self._remote or self._closed:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        due_s = min(session.heard_s + session.timeout_s for session in self._remote.values())
        delay_s = max(0.0, due_s - self.clock.monotonic_s())
        self._expiry = loop.call_later(delay_s, self._expire_silent)

    def _expire_silent(self) -> None:
        self._expiry = None
        now_s = self.clock.monotonic_s()
        for session_id, session in [*self._remote.items()]:
            if now_s - session.heard_s >= session.timeout_s:
                self.end_session_now(session_id)
        if self._batch is not None and self._backend is not None:
            self._start_writer(self._backend)
        self.arm_expiry()


class EmbeddedSession:
    """A session of the process that holds the store."""

    def __init__(self, store: EmbeddedStore, session_timeout_s: float) -> None:
        self._store = store
        self._timeout_s = session_timeout_s
        self._state = SessionState.CONNECTED
        self._listeners: Callbacks[[SessionState]] = Callbacks()
        self._watches: dict[Cancel, None] = {}
        self._own_watches = Watches()
        self._lost_at_s = 0.0
        self._closed = False
        self._session_id = store.adopt(self)

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
        if self._state is SessionState.CONNECTED:
            return 0.0
        return self._store.clock.monotonic_s() - self._lost_at_s

    def on_session(self, callback: Callable[[SessionState], None]) -> Cancel:
        return self._listeners.add(callback)

    async def get(self, path: str) -> Record:
        self._check_session()
        return await self._store.run(lambda tree: tree.get(path))

    async def create(self, path: str, value: bytes, *, ephemeral: bool = False) -> int:
        self._check_session()
        owner = self._session_id if ephemeral else NO_SESSION
        await self._store.change(lambda tree: tree.create(path, value, owner))
        return 0

    async def put(
        self, path: str, value: bytes, version: int, guard: Guard | None = None
    ) -> int:
        self._check_session()
        await self._store.change(lambda tree: tree.put(path, value, version, guard))
        return version + 1

    async def delete(
        self, path: str, version: int | None = None, guard: Guard | None = None
    ) -> None:
        self._check_session()
        await self._store.change(lambda tree: tree.delete(path, version, guard))

    async def children(self, path: str) -> list[str]:
        self._check_session()
        return await self._store.run(lambda tree: tree.children(path))

    def watch(self, path: str, callback: Callable[[], None]) -> Cancel:
        check_path(path)
        cancel_own = self._own_watches.add(path, callback)
        cancel_store = self._store.watches.add(path, callback)
        self._watches[cancel_store] = None

        def cancel() -> None:
            cancel_own()
            cancel_store()
            self._watches.pop(cancel_store, None)

        return cancel

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for cancel in self._watches:
            cancel()
        self._watches.clear()
        self._own_watches.clear()
        self._listeners.clear()
        await self._store.end_session(self._session_id)

    def suspend(self) -> None:
        """As if the metadata fell silent: SUSPENDED, calls raise ConnectionLoss unapplied."""
        if self._state is SessionState.CONNECTED and not self._closed:
            self._fell_silent(SessionState.SUSPENDED)

    def resume(self) -> None:
        """End `suspend`: the session goes on, every watch is fired."""
        if self._state is SessionState.SUSPENDED and not self._closed:
            self._enter(SessionState.CONNECTED)
            self._own_watches.all_changed()

    def expire(self) -> None:
        """End the session as its timeout would: LOST, and in a coming turn of the loop a new
        one, CONNECTED."""
        if self._closed or self._state is SessionState.LOST:
            return
        self._store.end_session_now(self._session_id)
        self._fell_silent(SessionState.LOST)
        asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        if self._closed:
            return
        self._session_id = self._store.adopt(self, self._session_id)
        self._enter(SessionState.CONNECTED)
        self._own_watches.all_changed()

    def _fell_silent(self, state: SessionState) -> None:
        self._lost_at_s = self._store.clock.monotonic_s()
        self._enter(state)

    def _enter(self, state: SessionState) -> None:
        self._state = state
        self._listeners.fire(state)

    def _check_session(self) -> None:
        if self._closed:
            raise AlreadyClosed("the metadata session is closed")
        if self._state is SessionState.LOST:
            raise SessionExpired("the metadata session ended; a new one is being opened")
        if self._state is SessionState.SUSPENDED:
            raise ConnectionLoss("the metadata is silent")
