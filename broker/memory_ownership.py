"""Who serves a non-persistent topic: the broker that rendezvous hashing names among the live ones.

There is no record to claim, so every broker that asks computes the same from the same list. A
broker whose port does not answer is passed over for a while, so that its topics need not wait
for its session to end; two brokers may then serve a topic for a moment, each for its own clients,
which costs messages that were never promised to be kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from broker.ownership import Probe, ProbeResult, preferred
from broker.settings import BrokerLimits
from magnetar.runtime.clock import Clock
from metadata.brokers import BrokerRegistration


class Brokers(Protocol):
    """The live ones, as far as is known here."""

    def all(self) -> tuple[BrokerRegistration, ...]: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a topic is served; `broker` None: here. `relay`: by that broker, which the client
    cannot reach."""

    broker: BrokerRegistration | None
    relay: bool = False


HERE = Place(None)


@dataclass(slots=True)
class _Probed:
    """What was found out about one life of a broker."""

    alive: bool
    at_s: float


class MemoryOwnership:
    """Decides; touches no topic."""

    def __init__(
        self, me: Callable[[], BrokerRegistration], brokers: Brokers, probe: Probe, clock: Clock,
        limits: BrokerLimits,
    ) -> None:
        self._me = me
        self._brokers = brokers
        self._probe = probe
        self._clock = clock
        self._limits = limits
        self._probed: dict[str, _Probed] = {}
        self._probing = asyncio.Lock()

    def known(self, topic: str) -> BrokerRegistration | None:
        """By what is known now; None: this broker."""
        me = self._me()
        candidates = (me, *(
            one for one in self._brokers.all()
            if one.broker_id != me.broker_id and not self._presumed_dead(one)
        ))
        found = preferred(topic, candidates)
        return None if found is None or found is me else found

    async def for_lookup(self, topic: str, unreachable_address: str) -> Place:
        """A client asks where to go; it may have tried `unreachable_address` in vain."""
        while (target := self.known(topic)) is not None:
            if str(target.address) != unreachable_address and not self._is_doubtful(target):
                return Place(target)
            if await self._answers(target):
                return Place(target, relay=str(target.address) == unreachable_address)
        return HERE

    async def for_opening(self, topic: str) -> BrokerRegistration | None:
        """A client came here to be served; None: it is. Whoever sent it here may know of a death
        that this broker does not."""
        while (target := self.known(topic)) is not None:
            if await self._answers(target):
                return target
        return None

    async def still_mine(self, topic: str) -> bool:
        """Looked at from time to time: a broker that was passed over may be back."""
        while (target := self.known(topic)) is not None:
            if not self._is_doubtful(target) or await self._answers(target):
                return False
        return True

    def forget_gone(self) -> None:
        """Brokers came or went."""
        present = {one.incarnation for one in self._brokers.all()}
        for incarnation in [one for one in self._probed if one not in present]:
            del self._probed[incarnation]

    def _presumed_dead(self, broker: BrokerRegistration) -> bool:
        probed = self._probed.get(broker.incarnation)
        if probed is None or probed.alive:
            return False
        passed_over_s = max(self._limits.presumed_dead_s, self._limits.probed_s)
        return self._clock.monotonic_s() - probed.at_s < passed_over_s

    def _is_doubtful(self, broker: BrokerRegistration) -> bool:
        """It was taken for dead, but that is long ago."""
        probed = self._probed.get(broker.incarnation)
        return probed is not None and not probed.alive

    async def _answers(self, broker: BrokerRegistration) -> bool:
        """A sign of life, from a moment ago at most."""
        async with self._probing:
            probed = self._probed.get(broker.incarnation)
            if probed is not None and (
                self._clock.monotonic_s() - probed.at_s < self._limits.probed_s
            ):
                return probed.alive
            result = await self._probe.probe(broker.address, self._limits.probe_timeout_s)
            alive = result is ProbeResult.ALIVE
            self._probed[broker.incarnation] = _Probed(alive, self._clock.monotonic_s())
            return alive
