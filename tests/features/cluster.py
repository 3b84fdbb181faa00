"""The cluster that a feature test is given, in either of its two forms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from magnetar import Client

GOES_ON_S = 30.0
"""How long a wait for something that must happen may take."""


class FeatureCluster(Protocol):
    """Three bookies and two brokers, any of which can be killed and started again."""

    @property
    def in_process(self) -> bool:
        """Whether it runs in this process, whose memory and clock are then its own."""

    @property
    def service_url(self) -> str: ...

    @property
    def broker_names(self) -> tuple[str, ...]: ...

    @property
    def bookie_names(self) -> tuple[str, ...]: ...

    def address_of(self, broker: str) -> str:
        """The broker's `host:port`, for whoever wants this one and no other."""

    async def owner_of(self, topic: str) -> str:
        """The name of the broker that serves the topic, which gets one by the question."""

    async def kill(self, name: str) -> None:
        """End a broker or bookie at once, without a word to anybody."""

    async def restart(self, name: str) -> None:
        """Start a killed one again, with its old data and port."""

    async def silence(self, broker: str) -> None:
        """Make it dead for the rest of the cluster, of which it learns nothing. A process of its
        own stands still, and serves no client either."""

    async def wake(self, broker: str) -> None:
        """Let a silenced process go on. In this process none stands still: it stays cut off."""

    def bookie_bytes(self) -> dict[str, int]:
        """Bytes of each bookie's log files on disk."""

    async def live_bytes(self) -> dict[str, int]:
        """Of that, by each bookie's own account, what belongs to ledgers that are not deleted."""

    def resident_bytes(self, name: str) -> int:
        """Resident memory of the process that the part runs in."""


async def kill_owner(cluster: FeatureCluster, topic: str) -> str:
    """Kill the broker that serves the topic, and say which it was."""
    name = await cluster.owner_of(topic)
    await cluster.kill(name)
    return name


async def eventually(condition: Callable[[], bool], limit_s: float = GOES_ON_S) -> None:
    """Wait until it holds; raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


def client_of(cluster: FeatureCluster) -> Client:
    """A client that knows every broker."""
    return Client(cluster.service_url, operation_timeout_seconds=60)
