"""The pullers of one topic: a session for each subscription and consumer name, while it is used.

A session begins with the first call of its name and ends when nothing is out and nobody has
called for a while. What it handed out can be settled at any time, here or at the next owner.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.consumer_session import ConsumerSession
from broker.conversation import Delivery, MessagePosition, OnDeliveries, OnEnded, OpenConsumer
from broker.pull_session import Key, PullRequest, PullSession
from broker.subscription import Subscription
from magnetar.errors import ConsumerBusy, InvalidArgument, MagnetarError, SubscriptionNotFound
from magnetar.runtime.clock import Clock

MAX_NAME_BYTES = 1024
SWEEP_S = 1.0
"""Longest pause between two looks at leases and idle sessions."""

LEAST_DEADLINES = 1_000


@dataclass(frozen=True, slots=True)
class PullLimits:
    """Named bounds of a topic's pullers."""

    sessions: int = 10_000
    calls: int = 10_000
    """Waiting at a time, over all sessions."""
    messages: int = 10_000
    """Of one answer."""
    answer_bytes: int = 4 << 20
    """Of one answer whose caller names no limit, or a larger one."""
    wait_s: float = 60.0
    lease_s: float = 30.0
    """Of a call that names none."""
    longest_lease_s: float = 12 * 3600.0
    idle_s: float = 10.0
    """A session that nobody used for so long, and that has nothing out, ends."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Messages that are to come again, counted, after a delay. The reason is kept."""

    positions: Sequence[MessagePosition]
    delay_ms: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a puller says of messages it got."""

    subscription: str
    consumer_name: str
    individual: Sequence[MessagePosition] = ()
    cumulative: MessagePosition | None = None
    negative: Sequence[Failed] = ()
    unused: Sequence[MessagePosition] = ()
    """Given back uncounted."""
    extend: Sequence[MessagePosition] = ()
    lease_s: float = 0.0
    close: bool = False
    """The puller leaves; what is still out goes back uncounted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gets. `end_of_topic`: there are no more messages, and will be none."""

    session: PullSession
    deliveries: list[Delivery]
    end_of_topic: bool

    def unanswered(self) -> None:
        """It does not reach its puller: its messages go back uncounted."""
        self.session.unanswered(self.deliveries)


class PullHost(Protocol):
    """What pullers need of their topic."""

    @property
    def name(self) -> str: ...

    @property
    def terminated(self) -> bool:
        """It takes no more messages."""

    def refuse_if_closing(self) -> None:
        """Raises NotOwner."""

    async def open_consumer(
        self, request: OpenConsumer, deliver: OnDeliveries, ended: OnEnded,
        backlog_bytes: Callable[[], int] = lambda: 0,
    ) -> ConsumerSession: ...

    def subscription_named(self, name: str, member: str = "") -> Subscription | None: ...


Name = tuple[str, str]  # subscription, consumer


class PullSessions:
    """One for each topic."""

    def __init__(self, host: PullHost, clock: Clock, limits: PullLimits | None = None) -> None:
        self._host = host
        self._clock = clock
        self.limits = limits or PullLimits()
        self._sessions: dict[Name, tuple[OpenConsumer, PullSession]] = {}
        self._opening: dict[Name, asyncio.Task[PullSession]] = {}
        self._deadlines: list[tuple[float, int, PullSession, Key]] = []
        self._deadline_number = 0
        self._most_deadlines = LEAST_DEADLINES
        self._looked_for_idle_s = 0.0
        self._sweeper: asyncio.Task[None] | None = None
        self.calls = 0
        """Waiting, or at work."""

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def leased_entries(self) -> int:
        """Entries that are out, of all sessions."""
        return sum(session.leased_entries for _, session in self._sessions.values())

    async def receive(self, opening: OpenConsumer, asked: PullRequest) -> Answer:
        """Messages, waiting for the first for as long as was asked for.

        Raises what opening a consumer raises, ConsumerBusy at a limit, InvalidArgument.
        """
        self._host.refuse_if_closing()
        self._check(opening, asked)
        if self.calls >= self.limits.calls:
            raise ConsumerBusy(f"{self._host.name} has all the waiting pulls it may have")
        self.calls += 1
        try:
            session = await self._session(opening)
            limits = self.limits
            deliveries = await session.receive(PullRequest(
                min(asked.max_messages, limits.messages),
                min(asked.max_bytes or limits.answer_bytes, limits.answer_bytes),
                0.0 if self._at_end(opening) else min(asked.wait_s, limits.wait_s),
                asked.lease_s or limits.lease_s,
            ))
        finally:
            self.calls -= 1
        return Answer(session, deliveries, not deliveries and self._at_end(opening))

    def _at_end(self, opening: OpenConsumer) -> bool:
        """The topic takes no more messages, and all are acknowledged."""
        subscription = self._host.subscription_named(
            opening.subscription, opening.consumer_name)
        return self._host.terminated and (
            subscription is not None and not subscription.backlog_messages)

    async def settle(self, told: Settlement) -> None:
        """Returns once the acknowledgements are durable; raises SubscriptionNotFound,
        InvalidArgument, or what prevents it. Works without a session as well."""
        self._host.refuse_if_closing()
        subscription = self._host.subscription_named(told.subscription, told.consumer_name)
        if subscription is None:
            raise SubscriptionNotFound(
                f"{self._host.name} has no subscription {told.subscription!r}")
        if told.lease_s > self.limits.longest_lease_s:
            raise InvalidArgument(f"a lease is {self.limits.longest_lease_s:g} s at most")
        found = self._sessions.get((told.subscription, told.consumer_name))
        session = None if found is None or found[1].closed else found[1]
        if told.extend:
            if session is None:
                raise InvalidArgument("the leases are over; the messages are delivered again")
            session.extend(told.extend, told.lease_s or self.limits.lease_s)
        if session is not None:
            for failed in told.negative:
                session.fail(failed.positions, failed.delay_ms, failed.reason)
            session.give_back(told.unused)
        if told.individual or told.cumulative is not None:
            await _acknowledged(subscription, told)
            if session is not None:
                session.settled(told.individual)
                if told.cumulative is not None:
                    session.settled_through(told.cumulative)
        if told.close and session is not None:
            session.close()
            self._sessions.pop((told.subscription, told.consumer_name), None)

    def close(self) -> None:
        """The topic ends here."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sessions.clear()
        self._deadlines.clear()

    # --- sessions

    def _check(self, opening: OpenConsumer, asked: PullRequest) -> None:
        if not opening.subscription:
            raise InvalidArgument("a pull needs a subscription; to read without one use a reader")
        if not opening.consumer_name or len(opening.consumer_name.encode()) > MAX_NAME_BYTES:
            raise InvalidArgument(
                f"a puller has a consumer name of 1 to {MAX_NAME_BYTES} bytes")
        if asked.max_messages < 1:
            raise InvalidArgument("a pull asks for one message at least")
        if asked.lease_s > self.limits.longest_lease_s:
            raise InvalidArgument(f"a lease is {self.limits.longest_lease_s:g} s at most")

    async def _session(self, opening: OpenConsumer) -> PullSession:
        name = (opening.subscription, opening.consumer_name)
        found = self._sessions.get(name)
        if found is not None and not found[1].closed:
            if (found[0].kind, found[0].filter) != (opening.kind, opening.filter):
                raise ConsumerBusy(
                    f"{opening.consumer_name!r} pulls from {opening.subscription!r} with another"
                    " type or filter; let its leases end, or take another name"
                )
            return found[1]
        task = self._opening.get(name)
        if task is None:
            if len(self._sessions) + len(self._opening) >= self.limits.sessions:
                raise ConsumerBusy(f"{self._host.name} has all the pullers it may have")
            task = self._opening[name] = asyncio.get_running_loop().create_task(
                self._open(opening))
            task.add_done_callback(lambda done: self._opened(name, done))
        return await asyncio.shield(task)

    async def _open(self, opening: OpenConsumer) -> PullSession:
        session = PullSession(self._clock, self._leased)
        session.attached(await self._host.open_consumer(
            opening, session.deliver, session.ended, session.backlog_bytes))
        self._sessions[opening.subscription, opening.consumer_name] = (opening, session)
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.get_running_loop().create_task(
                self._sweep(), name=f"leases of {self._host.name}")
        return session

    def _opened(self, name: Name, task: asyncio.Task[PullSession]) -> None:
        del self._opening[name]
        if not task.cancelled():
            task.exception()  # whoever still waits is told; it may be that nobody does

    # --- time

    def _leased(self, session: PullSession, key: Key, ends_s: float) -> None:
        self._deadline_number += 1
        heapq.heappush(self._deadlines, (ends_s, self._deadline_number, session, key))
        if len(self._deadlines) > self._most_deadlines:
            self._drop_settled()

    def _drop_settled(self) -> None:
        """Long leases are settled long before their deadlines."""
        self._deadlines = [
            deadline for deadline in self._deadlines if deadline[2].holds(deadline[3], deadline[0])
        ]
        heapq.heapify(self._deadlines)
        self._most_deadlines = 2 * len(self._deadlines) + LEAST_DEADLINES

    async def _sweep(self) -> None:
        while self._sessions or self._deadlines:
            self.look_at_time()
            pause_s = SWEEP_S
            if self._deadlines:
                pause_s = min(pause_s, self._deadlines[0][0] - self._clock.monotonic_s())
            await self._clock.sleep(max(pause_s, 0.001))

    def look_at_time(self) -> None:
        """End the leases that are over, and the sessions that nobody uses."""
        now_s = self._clock.monotonic_s()
        while self._deadlines and self._deadlines[0][0] <= now_s:
            _, _, session, key = heapq.heappop(self._deadlines)
            session.expire(key, now_s)
        if now_s - self._looked_for_idle_s < SWEEP_S:
            return
        self._looked_for_idle_s = now_s
        for name, (_, session) in list(self._sessions.items()):
            if session.closed:
                del self._sessions[name]
            elif session.idle and now_s - session.last_used_s >= self.limits.idle_s:
                session.close()
                del self._sessions[name]


async def _acknowledged(subscription: Subscription, told: Settlement) -> None:
    done: asyncio.Future[MagnetarError | None] = asyncio.get_running_loop().create_future()

    def acknowledged(error: MagnetarError | None) -> None:
        if not done.done():
            done.set_result(error)

    subscription.acknowledge(told.individual, told.cumulative, acknowledged)
    error = await done
    if error is not None:
        raise error

