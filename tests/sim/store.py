"""Simulated metadata: one linearizable tree, and sessions that fail as ZooKeeper's do.

A request may be lost before it is applied or its answer after; a session ends on the server's
side when its process was silent for the timeout (or when a fault ends it), and the process
learns of it only when it is heard again. `MetadataTree` is checked against the embedded store
in test_store.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from magnetar.errors import (
    AlreadyClosed,
    AlreadyExists,
    BadVersion,
    ConnectionLoss,
    InvalidArgument,
    MetadataError,
    NotEmpty,
    NotFound,
    SessionExpired,
)
from metadata.store import Guard, Record, SessionState, check_path, check_value, parent_of
from tests.sim.loop import SimLoop
from tests.sim.network import Fabric, Host
from tests.sim.trace import Trace

STORE_HOST = "zk"


@dataclass(slots=True)
class StoreTimes:
    """Seconds, and chances per request."""

    delay_min_s: float = 0.0003
    delay_max_s: float = 0.002
    watch_delay_max_s: float = 0.01
    deadline_s: float = 1.0
    loss_chance: float = 0.0
    session_timeout_s: float = 2.0


class Node:
    """One node of the tree."""

    __slots__ = ("children", "session", "value", "version")

    def __init__(self, value: bytes, session: int) -> None:
        self.value = value
        self.version = 0
        self.session = session
        self.children: set[str] = set()


class MetadataTree:
    """The tree itself: applies one operation at a time and tells observers of every write."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {"/": Node(b"", 0)}
        self.observers: list[Callable[[str, bytes | None, bytes | None], None]] = []
        self.touched: list[str] = []
        self.sessions: dict[int, float] = {}
        self._last_session = 0

    def open_session(self, now_s: float) -> int:
        self._last_session += 1
        self.sessions[self._last_session] = now_s
        return self._last_session

    def end_session(self, session: int) -> None:
        if self.sessions.pop(session, None) is None:
            return
        for path in [p for p, node in self.nodes.items() if node.session == session]:
            self._remove(path)

    def get(self, path: str) -> Record:
        node = self._node(path)
        return Record(node.value, node.version)

    def create(self, path: str, value: bytes, ephemeral: bool, session: int) -> int:
        check_path(path)
        check_value(path, value)
        if path in self.nodes:
            raise AlreadyExists(path)
        self._make_parents(parent_of(path))
        self._add(path, value, session if ephemeral else 0)
        return 0

    def put(
        self, path: str, value: bytes, version: int, guard: Guard | None = None
    ) -> int:
        check_value(path, value)
        self._check_guard(guard)
        node = self._node(path)
        if node.version != version:
            raise BadVersion(f"{path} is at version {node.version}, not {version}")
        before, node.value = node.value, value
        node.version += 1
        self.touched.append(path)
        self._tell(path, before, value)
        return node.version

    def delete(self, path: str, version: int | None, guard: Guard | None = None) -> None:
        self._check_guard(guard)
        node = self._node(path)
        if version is not None and node.version != version:
            raise BadVersion(f"{path} is at version {node.version}, not {version}")
        if node.children:
            raise NotEmpty(path)
        self._remove(path)
        if guard is not None:
            self.put(guard.path, b"", guard.version, None)

    def _check_guard(self, guard: Guard | None) -> None:
        if guard is not None and self._node(guard.path).version != guard.version:
            raise BadVersion(f"{guard.path} is not at version {guard.version}")

    def children(self, path: str) -> list[str]:
        return sorted(self._node(path).children)

    def _node(self, path: str) -> Node:
        check_path(path)
        node = self.nodes.get(path)
        if node is None:
            raise NotFound(path)
        return node

    def _make_parents(self, path: str) -> None:
        node = self.nodes.get(path)
        if node is None:
            self._make_parents(parent_of(path))
            self._add(path, b"", 0)
        elif node.session:
            raise InvalidArgument(f"{path} is ephemeral and takes no children")

    def _add(self, path: str, value: bytes, session: int) -> None:
        self.nodes[path] = Node(value, session)
        self.nodes[parent_of(path)].children.add(path.rpartition("/")[2])
        self.touched += [path, parent_of(path)]
        self._tell(path, None, value)

    def _remove(self, path: str) -> None:
        node = self.nodes.pop(path)
        self.nodes[parent_of(path)].children.discard(path.rpartition("/")[2])
        self.touched += [path, parent_of(path)]
        self._tell(path, node.value, None)

    def _tell(self, path: str, before: bytes | None, after: bytes | None) -> None:
        for observer in self.observers:
            observer(path, before, after)


class MetadataService:
    """The tree as a host of the fabric: sessions, expiry and the delivery of watches."""

    def __init__(
        self, loop: SimLoop, chance: random.Random, trace: Trace, fabric: Fabric,
        times: StoreTimes | None = None,
    ) -> None:
        self.loop = loop
        self.chance = chance
        self.trace = trace
        self.fabric = fabric
        self.times = times or StoreTimes()
        self.tree = MetadataTree()
        self.host = fabric.boot(STORE_HOST)
        self.stores: list[SimStore] = []
        self.up = True
        self.applied_unanswered = 0
        self.on_request: Callable[[str, str, tuple[Any, ...]], None] | None = None
        self.on_reply: Callable[[str, str, tuple[Any, ...]], None] | None = None
        loop.after(self.times.session_timeout_s / 4, self._tick)

    def connect(self, host: Host) -> SimStore:
        """A session for one life of a process."""
        store = SimStore(self, host)
        self.stores.append(store)
        return store

    def reachable(self, host: Host) -> bool:
        blocked = self.fabric.blocked
        return (
            self.up and host.alive
            and not blocked(host.name, STORE_HOST) and not blocked(STORE_HOST, host.name)
        )

    def expire(self, store: SimStore) -> None:
        """End a session on the server's side only."""
        self.trace.note("session expired", store.host.name)
        self.tree.end_session(store.session_id)
        self.flush_watches()

    def _tick(self) -> None:
        """Hear the processes that can be heard; end the sessions of the silent."""
        now_s = self.loop.time()
        for store in list(self.stores):
            heard = self.tree.sessions.get(store.session_id)
            if heard is None:
                if not store.host.alive:
                    self.stores.remove(store)
                continue
            if self.reachable(store.host) and not store.host.lane.paused:
                self.tree.sessions[store.session_id] = now_s
            elif not self.up:
                self.tree.sessions[store.session_id] = now_s  # its return renews all sessions
            elif now_s - heard > self.times.session_timeout_s:
                self.expire(store)
        self.loop.after(self.times.session_timeout_s / 4, self._tick)

    def call(self, store: SimStore, method: str, arguments: tuple[Any, ...]) -> Any:
        """Send one request; the future in the caller's lane ends with its outcome."""
        loop, times, chance = self.loop, self.times, self.chance
        answer: asyncio.Future[Any] = loop.create_future()
        session = store.session_id
        sent_s = loop.time()
        if self.on_request is not None:
            self.on_request(store.host.name, method, arguments)

        def settle(result: Any, error: Exception | None) -> None:
            if self.on_reply is not None:
                self.on_reply(store.host.name, method, arguments)
            if answer.done():
                return
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)
            if not isinstance(error, ConnectionLoss | SessionExpired):
                store.heard(sent_s)

        def reply(result: Any, error: Exception | None) -> None:
            loop.call_in(store.host.context, settle, result, error)

        def lose() -> None:
            late_s = times.deadline_s * chance.uniform(0.05, 1.0)
            loss = ConnectionLoss(f"{method} {arguments[0]}: no answer")
            loop.after(late_s, reply, None, loss)

        def apply() -> None:
            if not self.reachable(store.host) or chance.random() < times.loss_chance / 2:
                lose()
                return
            result, error = self._apply(session, method, arguments, store.host.name)
            if chance.random() < times.loss_chance / 2:
                if method in ("put", "create") and error is None:
                    self.applied_unanswered += 1
                lose()
                return
            loop.after(self._delay_s(), answer_unless_cut, result, error)

        def answer_unless_cut(result: Any, error: Exception | None) -> None:
            if self.reachable(store.host):
                reply(result, error)
            else:
                if method in ("put", "create") and error is None:
                    self.applied_unanswered += 1
                lose()

        delay_s = self._delay_s()
        if chance.random() < times.loss_chance:
            delay_s += chance.random() * 0.2
        # A session's requests are applied in the order in which they were sent.
        store.applied_until_s = max(store.applied_until_s, sent_s + delay_s)
        loop.call_at(store.applied_until_s, apply, context=loop.outside)
        return answer

    def _delay_s(self) -> float:
        times = self.times
        return times.delay_min_s + (times.delay_max_s - times.delay_min_s) * self.chance.random()

    def _apply(
        self, session: int, method: str, arguments: tuple[Any, ...], who: str
    ) -> tuple[Any, Exception | None]:
        if session not in self.tree.sessions:
            return None, SessionExpired(f"{method} {arguments[0]}: the session has ended")
        if method == "create":
            arguments = (*arguments, session)
        try:
            result = getattr(self.tree, method)(*arguments)
        except (MetadataError, InvalidArgument) as error:
            self.trace.note(f"meta {who} {method} {arguments[0]}", type(error).__name__)
            return None, error
        if method not in ("get", "children"):
            self.trace.note(f"meta {who} {method} {arguments[0]}", "ok")
            self.flush_watches()
        return result, None

    def flush_watches(self) -> None:
        touched, self.tree.touched = self.tree.touched, []
        for store in self.stores:
            for path in touched:
                if path in store.watches:
                    late_s = self.times.watch_delay_max_s * self.chance.random()
                    self.loop.after(late_s, store.fire_later, path)


class SimStore:
    """`MetadataStore` of one life of a process."""

    def __init__(self, service: MetadataService, host: Host) -> None:
        self._service = service
        self.host = host
        self._loop = service.loop
        self.session_id = service.tree.open_session(self._loop.time())
        self.state = SessionState.CONNECTED
        self._proof_s = self._loop.time()
        self._callbacks: list[Callable[[SessionState], None]] = []
        self.watches: dict[str, list[Callable[[], None]]] = {}
        self._pending: set[str] = set()
        self._closed = False
        self.applied_until_s = 0.0
        self._loop.call_at(
            self._loop.time() + self.session_timeout_s / 3, self._ping, context=host.context
        )

    @property
    def session_timeout_s(self) -> float:
        return self._service.times.session_timeout_s

    def silence_s(self) -> float:
        silence_s = self._loop.time() - self._proof_s
        fresh = silence_s < self.session_timeout_s / 3
        return 0.0 if fresh and self.state is SessionState.CONNECTED else silence_s

    def heard(self, sent_s: float) -> None:
        """An answered request proves that the session lived when it was sent."""
        self._proof_s = max(self._proof_s, sent_s)

    def on_session(self, callback: Callable[[SessionState], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback) if callback in self._callbacks else None

    def _ping(self) -> None:
        if self._closed:
            return
        service = self._service
        if not service.reachable(self.host):
            self._become(SessionState.SUSPENDED)
        elif self.session_id in service.tree.sessions:
            self.heard(self._loop.time())
            if self.state is not SessionState.CONNECTED:
                self._become(SessionState.CONNECTED)
                self._fire_all()
        else:
            self._become(SessionState.LOST)
            self.session_id = service.tree.open_session(self._loop.time())
            self.heard(self._loop.time())
            self._become(SessionState.CONNECTED)
            self._fire_all()
        late_s = self.session_timeout_s / 3 * (0.7 + 0.6 * service.chance.random())
        self._loop.call_at(self._loop.time() + late_s, self._ping, context=self.host.context)

    def _become(self, state: SessionState) -> None:
        if state is not self.state:
            self.state = state
            for callback in list(self._callbacks):
                callback(state)

    def _fire_all(self) -> None:
        for path in list(self.watches):
            self.fire_later(path)

    def fire_later(self, path: str) -> None:
        """Coalesced: one callback answers all changes that came before it runs."""
        if path not in self._pending and self.host.alive:
            if not self._service.reachable(self.host):
                return  # told after the reconnect, which fires every watch
            self._pending.add(path)
            self._loop.call_in(self.host.context, self._fire, path)

    def _fire(self, path: str) -> None:
        self._pending.discard(path)
        for callback in list(self.watches.get(path, ())):
            callback()

    def watch(self, path: str, callback: Callable[[], None]) -> Callable[[], None]:
        self.watches.setdefault(path, []).append(callback)

        def cancel() -> None:
            callbacks = self.watches.get(path, [])
            if callback in callbacks:
                callbacks.remove(callback)
                if not callbacks:
                    del self.watches[path]

        return cancel

    async def get(self, path: str) -> Record:
        record: Record = await self._call("get", path)
        return record

    async def create(self, path: str, value: bytes, *, ephemeral: bool = False) -> int:
        version: int = await self._call("create", path, value, ephemeral)
        return version

    async def put(
        self, path: str, value: bytes, version: int, guard: Guard | None = None
    ) -> int:
        new_version: int = await self._call("put", path, value, version, guard)
        return new_version

    async def delete(
        self, path: str, version: int | None = None, guard: Guard | None = None
    ) -> None:
        await self._call("delete", path, version, guard)

    async def children(self, path: str) -> list[str]:
        names: list[str] = await self._call("children", path)
        return names

    async def _call(self, method: str, *arguments: Any) -> Any:
        if self._closed:
            raise AlreadyClosed("this metadata session was closed")
        return await self._service.call(self, method, arguments)

    async def close(self) -> None:
        self._closed = True
        self._service.tree.end_session(self.session_id)
        self._service.flush_watches()
