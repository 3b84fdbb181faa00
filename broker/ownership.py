"""Who serves a topic: the owner named in its record, while that incarnation lives.

Safety is the log's business (fencing and compare-and-set); what is decided here is only where
clients go. A client that cannot reach the owner makes its broker probe it, so that one client's
bad network moves no topic: if the owner answers, the client's streams are relayed, and if it
does not, the asked broker takes the topic over, at a limited rate.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from broker.settings import BrokerLimits
from magnetar.errors import NotFound
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Address
from metadata.brokers import BrokerDirectory, BrokerRegistration, BrokerRepository
from metadata.topics import Owner


class ProbeResult(Enum):
    """What a broker's port said."""

    ALIVE = "alive"
    REFUSED = "refused"
    SILENT = "silent"


class Probe(Protocol):
    """Asks another broker for a sign of life."""

    async def probe(self, address: Address, timeout_s: float) -> ProbeResult: ...


class Verdict(Enum):
    """Where a topic is to be served."""

    HERE = "here"
    ELSEWHERE = "elsewhere"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Decision:
    """`former` is set when a live incarnation loses the topic: until it has let go, or for a
    session timeout, exclusive dispatch waits, unless its port refused."""

    verdict: Verdict
    broker: BrokerRegistration | None = None
    former: Owner | None = None
    hold_back: bool = False


HERE = Decision(Verdict.HERE)


class TakeoverLimiter:
    """A token bucket over all topics, and a pause for each."""

    def __init__(self, limits: BrokerLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._tokens = limits.takeovers_a_second
        self._filled_s = clock.monotonic_s()
        self._last_s: dict[str, float] = {}

    def allow(self, topic: str) -> bool:
        """Take one; False when this one has to wait."""
        now_s = self._clock.monotonic_s()
        rate = self._limits.takeovers_a_second
        self._tokens = min(rate, self._tokens + (now_s - self._filled_s) * rate)
        self._filled_s = now_s
        pause_s = self._limits.takeover_pause_s
        while self._last_s and now_s - next(iter(self._last_s.values())) >= pause_s:
            del self._last_s[next(iter(self._last_s))]
        if self._tokens < 1 or topic in self._last_s:
            return False
        self._tokens -= 1
        self._last_s[topic] = now_s
        return True


def preferred(topic: str, brokers: tuple[BrokerRegistration, ...]) -> BrokerRegistration | None:
    """The broker an unowned topic goes to: the same for all who ask, spread over the brokers,
    and changed for few topics when one comes or goes."""
    return max(
        brokers,
        key=lambda one: (zlib.crc32(f"{one.broker_id}\n{topic}".encode()), one.broker_id),
        default=None,
    )


class Ownership:
    """Decides where topics are served; does not touch their records."""

    def __init__(
        self, me: Callable[[], BrokerRegistration], brokers: BrokerRepository,
        directory: BrokerDirectory, probe: Probe, clock: Clock, limits: BrokerLimits,
    ) -> None:
        self._me = me
        self._brokers = brokers
        self._directory = directory
        self._probe = probe
        self._limits = limits
        self._limiter = TakeoverLimiter(limits, clock)
        self.takeovers_total = 0

    async def owner_alive(self, owner: Owner) -> BrokerRegistration | None:
        """The owner's registration while its incarnation lives. That it does not is believed
        only after a certain read: the cached view may lag behind."""
        cached = self._directory.get(owner.broker_id)
        if cached is not None and cached.incarnation == owner.incarnation:
            return cached
        try:
            current = await self._brokers.get(owner.broker_id)
        except NotFound:
            return None
        return current if current.incarnation == owner.incarnation else None

    async def for_opening(self, owner: Owner | None) -> Decision:
        """A client came to this broker to be served: it takes what nobody has."""
        if owner is None or self._is_me(owner):
            return HERE
        alive = await self.owner_alive(owner)
        return HERE if alive is None else Decision(Verdict.ELSEWHERE, alive)

    async def for_lookup(
        self, topic: str, owner: Owner | None, unreachable_address: str
    ) -> Decision:
        """A client asks where to go; it may have tried `unreachable_address` in vain."""
        if owner is not None and self._is_me(owner):
            return HERE
        target = None if owner is None else await self.owner_alive(owner)
        owned = target is not None
        if target is None:
            target = preferred(topic, self._directory.all())
            if target is None or target.broker_id == self._me().broker_id:
                return HERE
        if str(target.address) != unreachable_address:
            return Decision(Verdict.ELSEWHERE, target)
        result = await self._probe.probe(target.address, self._limits.probe_timeout_s)
        if not owned:
            return HERE
        if result is ProbeResult.ALIVE:
            return Decision(Verdict.RELAY, target)
        if not self._limiter.allow(topic):
            return Decision(Verdict.ELSEWHERE, target)
        self.takeovers_total += 1
        return Decision(Verdict.HERE, None, owner, hold_back=result is ProbeResult.SILENT)

    def _is_me(self, owner: Owner) -> bool:
        me = self._me()
        return owner.broker_id == me.broker_id and owner.incarnation == me.incarnation
