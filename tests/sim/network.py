"""Simulated links: ordered within a link, and able to die between any two frames.

A blocked direction keeps its frames, as TCP would, and delivers them late after the heal; a
link that stays blocked dies. So a request may be executed and its answer lost, and a write of
a process long replaced may still arrive.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ledger.wire import Kind
from magnetar.errors import ConnectionFailed
from magnetar.runtime.network import Accept, Address, Buffer, OnClosed, OnFrame
from tests.sim.loop import Lane, SimLoop
from tests.sim.trace import Trace


@dataclass(slots=True)
class LinkTimes:
    """Delays in seconds; `slow_*` with `slow_chance` models congestion."""

    delay_min_s: float = 0.0001
    delay_max_s: float = 0.0006
    slow_chance: float = 0.01
    slow_max_s: float = 0.02
    stall_death_s: float = 1.5


class Pipe:
    """One direction of a link: frames in flight to one side."""

    __slots__ = ("closing", "frames", "last_due_s", "source", "stalled", "target", "timer_set")

    def __init__(self, source: Side, target: Side) -> None:
        self.source = source
        self.target = target
        self.frames: deque[tuple[float, Any]] = deque()
        self.last_due_s = 0.0
        self.timer_set = False
        self.stalled = False
        self.closing = False


class Side:
    """One end of a link; implements `FrameLink`."""

    __slots__ = ("_fabric", "context", "host", "link", "on_closed", "on_frame", "open", "out",
                 "peer", "told")

    def __init__(self, fabric: Fabric, host: Host, peer: str) -> None:
        self._fabric = fabric
        self.host = host
        self.peer = peer
        self.open = True
        self.told = False
        self.on_frame: Callable[[Any], None] = _ignore_frame
        self.on_closed: OnClosed = _ignore
        self.context = host.context
        self.out: Pipe
        self.link: Link

    @property
    def pending_bytes(self) -> int:
        pipe = self.out
        return sum(len(frame) for _, frame in pipe.frames) if pipe.stalled else 0

    def send(self, *parts: Buffer) -> None:
        if self.open and self.host.alive:
            self._fabric.send(self.out, parts[0] if len(parts) == 1 and
                              isinstance(parts[0], bytes) else b"".join(parts))

    def send_object(self, message: object) -> None:
        """Send a message that needs no bytes (client links, whose codec is not simulated)."""
        if self.open and self.host.alive:
            self._fabric.send(self.out, message)

    async def drain(self) -> None:
        return None

    def close(self) -> None:
        if self.open and self.host.alive:
            self._fabric.close_from(self)


def _ignore_frame(frame: Any) -> None:
    return None


def _ignore() -> None:
    return None


class Link:
    """Both sides and both directions of one connection."""

    __slots__ = ("dead", "first", "second")

    def __init__(self, first: Side, second: Side) -> None:
        self.first = first
        self.second = second
        self.dead = False
        first.out = Pipe(first, second)
        second.out = Pipe(second, first)
        first.link = second.link = self


class Host:
    """One life of a simulated process: its lane, its port table and its open links."""

    def __init__(self, fabric: Fabric, name: str) -> None:
        self.name = name
        self.lane = Lane(name)
        self.context = fabric.loop.lane_context(self.lane)
        self.alive = True
        self.links: list[Link] = []
        self.ports: dict[int, Accept] = {}


class Fabric:
    """All hosts, links and partitions."""

    def __init__(
        self, loop: SimLoop, chance: random.Random, trace: Trace, times: LinkTimes | None = None
    ) -> None:
        self.loop = loop
        self._chance = chance
        self._trace = trace
        self.times = times or LinkTimes()
        self._hosts: dict[str, Host] = {}
        self._blocked: dict[tuple[str, str], int] = {}
        self._stalled: list[Pipe] = []
        self._link_delay_s: dict[tuple[str, str], float] = {}
        self.frames_delivered = 0
        self.strikes: dict[str, Callable[[], None]] = {}
        """What befalls a host just after it sent the answer to a fence."""

    # --- hosts ------------------------------------------------------------------------------
    def boot(self, name: str) -> Host:
        """Start a life of a process under `name`."""
        host = Host(self, name)
        self._hosts[name] = host
        return host

    def kill(self, host: Host, silent: bool) -> None:
        """End a life. What it had sent may still arrive. `silent`: the peers learn of its end
        late, as after a power cut."""
        host.alive = False
        self.loop.kill(host.lane)
        host.ports.clear()
        self.strikes.pop(host.name, None)
        for link in list(host.links):
            side = link.first if link.first.host is host else link.second
            if side.out.frames and self._chance.random() < 0.8:
                self._close(side)
            else:
                late_s = self._chance.uniform(0.3, 1.0) if silent else 0.0
                self.kill_link(link, late_s)

    # --- partitions -------------------------------------------------------------------------
    def block(self, source: str, target: str) -> None:
        """Stop one direction between two hosts; calls nest."""
        self._blocked[source, target] = self._blocked.get((source, target), 0) + 1

    def unblock(self, source: str, target: str) -> None:
        left = self._blocked.get((source, target), 0) - 1
        if left > 0:
            self._blocked[source, target] = left
            return
        self._blocked.pop((source, target), None)
        stalled, self._stalled = self._stalled, []
        for pipe in stalled:
            if pipe.stalled:
                pipe.stalled = False
                self._schedule(pipe)

    def blocked(self, source: str, target: str) -> bool:
        return (source, target) in self._blocked

    def slow_down(self, source: str, target: str, extra_s: float) -> None:
        """Add a delay to one direction; 0 removes it."""
        if extra_s:
            self._link_delay_s[source, target] = extra_s
        else:
            self._link_delay_s.pop((source, target), None)

    # --- links ------------------------------------------------------------------------------
    def open_link(self, client: Host, server: Host, accept: Accept, port: int) -> Side:
        """Join two hosts; the server's side is handed to `accept` in the server's lane."""
        near = Side(self, client, f"{server.name}:{port}")
        far = Side(self, server, f"{client.name}:0")
        link = Link(near, far)
        client.links.append(link)
        if server is not client:
            server.links.append(link)

        def welcome() -> None:
            far.on_frame, far.on_closed = accept(far)

        self.loop.call_in(server.context, welcome)
        return near

    def live_links(self) -> list[Link]:
        """Every open link once, in a fixed order."""
        seen: dict[int, Link] = {}
        for name in sorted(self._hosts):
            for link in self._hosts[name].links:
                seen[id(link)] = link
        return list(seen.values())

    def delay_s(self, source: str, target: str) -> float:
        times = self.times
        chance = self._chance.random
        delay_s = times.delay_min_s + (times.delay_max_s - times.delay_min_s) * chance()
        if chance() < times.slow_chance:
            delay_s += times.slow_max_s * chance()
        return delay_s + self._link_delay_s.get((source, target), 0.0)

    def send(self, pipe: Pipe, frame: Any) -> None:
        due_s = self.loop.time() + self.delay_s(pipe.source.host.name, pipe.target.host.name)
        if due_s < pipe.last_due_s:
            due_s = pipe.last_due_s
        pipe.last_due_s = due_s
        pipe.frames.append((due_s, frame))
        if self.strikes and type(frame) is bytes and frame[0] == Kind.READ_LAC_REPLY:
            strike = self.strikes.pop(pipe.source.host.name, None)
            if strike is not None:
                self.loop.after(0.0, strike)
        if not pipe.timer_set and not pipe.stalled:
            self._schedule(pipe)

    def _schedule(self, pipe: Pipe) -> None:
        if pipe.frames and not pipe.timer_set:
            pipe.timer_set = True
            late_s = max(0.0, pipe.frames[0][0] - self.loop.time())
            self.loop.after(late_s, self._deliver, pipe)

    def _deliver(self, pipe: Pipe) -> None:
        pipe.timer_set = False
        source, target = pipe.source.host, pipe.target.host
        link = pipe.source.link
        if link.dead and not pipe.closing:
            return
        if (source.name, target.name) in self._blocked:
            if not pipe.stalled:
                pipe.stalled = True
                self._stalled.append(pipe)
                self._expect_death(pipe)
            return
        now_s = self.loop.time() + 1e-9
        frames = pipe.frames
        while frames and frames[0][0] <= now_s:
            _, frame = frames.popleft()
            if frame is None:
                self.loop.call_in(target.context, self._end, pipe.target)
                return
            self.frames_delivered += 1
            if type(frame) is bytes:
                self._trace.frame(source.name, target.name, frame)
            else:
                self._trace.note(f"message {source.name}>{target.name}", type(frame).__name__)
            self.loop.call_in(target.context, self._hand_over, pipe.target, frame)
        self._schedule(pipe)

    def _hand_over(self, side: Side, frame: Any) -> None:
        if side.open:
            side.on_frame(memoryview(frame) if type(frame) is bytes else frame)

    def _expect_death(self, pipe: Pipe) -> None:
        """A link that stays blocked is given up by its sender at a seeded moment."""
        link = pipe.source.link

        def check() -> None:
            if pipe.stalled and pipe.closing:
                pipe.frames.clear()
                self.loop.call_in(pipe.target.context, self._end, pipe.target)
            elif pipe.stalled and not link.dead:
                self.kill_link(link, 0.0)

        self.loop.after(self.times.stall_death_s * self._chance.uniform(0.2, 2.0), check)

    def kill_link(self, link: Link, late_s: float) -> None:
        """Break a connection: what is in flight is lost, each side learns of it on its own."""
        if link.dead:
            return
        link.dead = True
        self._forget(link)
        for side in (link.first, link.second):
            side.out.frames.clear()
            delay_s = late_s + self.delay_s(side.host.name, side.host.name)
            self.loop.after(delay_s, self.loop.call_in, side.host.context, self._end, side)

    def close_from(self, side: Side) -> None:
        """Orderly close: what `side` sent arrives, what is under way to it is lost."""
        side.open = False
        self.loop.call_in(side.context, self._end, side)
        self._close(side)

    def _close(self, side: Side) -> None:
        link = side.link
        if link.dead:
            return
        link.dead = True
        self._forget(link)
        other = link.second if side is link.first else link.first
        other.out.frames.clear()
        side.out.closing = True
        self.send(side.out, None)

    def _forget(self, link: Link) -> None:
        for host in {link.first.host.name: link.first.host,
                     link.second.host.name: link.second.host}.values():
            if link in host.links:
                host.links.remove(link)

    def _end(self, side: Side) -> None:
        side.open = False
        if not side.told:
            side.told = True
            side.on_closed()


class SimListener:
    """An open port of a simulated host."""

    def __init__(self, fabric: Fabric, host: Host, address: Address) -> None:
        self._fabric = fabric
        self._host = host
        self.address = address

    async def close(self) -> None:
        self._host.ports.pop(self.address.port, None)
        for link in list(self._host.links):
            side = link.first if link.first.host is self._host else link.second
            if link.second.host is self._host and side.open:
                self._fabric.close_from(link.second)


class SimNetwork:
    """`Network` as one host sees it."""

    def __init__(self, fabric: Fabric, host: Host) -> None:
        self._fabric = fabric
        self._host = host

    async def connect(
        self, address: Address, on_frame: OnFrame, on_closed: OnClosed, timeout_s: float
    ) -> Side:
        fabric, host = self._fabric, self._host
        loop = fabric.loop
        started_s = loop.time()
        answer: Any = loop.create_future()

        def arrive() -> None:
            target = fabric._hosts.get(address.host)
            if fabric.blocked(host.name, address.host) or fabric.blocked(address.host, host.name):
                late_s = max(0.0, started_s + timeout_s - loop.time())
                loop.after(late_s, loop.call_in, host.context, fail, "no answer")
            elif target is None or not target.alive or address.port not in target.ports:
                loop.call_in(host.context, fail, "refused")
            else:
                side = fabric.open_link(host, target, target.ports[address.port], address.port)
                side.on_frame, side.on_closed = on_frame, on_closed
                loop.call_in(host.context, succeed, side)

        def fail(why: str) -> None:
            if not answer.done():
                answer.set_exception(ConnectionFailed(f"{address}: {why}"))

        def succeed(side: Side) -> None:
            if answer.done():
                side.close()
            else:
                answer.set_result(side)

        loop.after(2 * fabric.delay_s(host.name, address.host), arrive)
        side: Side = await answer
        return side

    async def listen(self, address: Address, accept: Accept) -> SimListener:
        port = address.port or 20_000 + len(self._host.ports)
        if port in self._host.ports:
            raise OSError(98, f"port {port} is taken")
        self._host.ports[port] = accept
        return SimListener(self._fabric, self._host, Address(self._host.name, port))
