"""Delayed messages whose owner and a bookie are killed while they fire; the log is read raw."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from bench.magnetar_rows import new_topic, resident_mb
from bench.percentiles import Figures
from bench.scheduled_load import HEAD
from bench.scheduled_rows import child, finished
from demo.cluster import ProcessCluster
from magnetar import Client, InitialPosition
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.tcp import TcpNetwork
from metadata.open import open_store
from tests.features.raw_log import raw_log

COUNT: Final = 10_000_000
QUICK_COUNT: Final = 50_000
PER_S: Final = 5_000
SPAN_LEAST_MS: Final = 8_000
FILL_PER_S: Final = 20_000
"""Slower than it goes: how far ahead the first one is due."""
LAST: Final = b"the last one, at once"
SEEN_MOST: Final = 255


class _Deaths:
    """What happens to the cluster at which part of the time in which they fire: the owner dies at
    a quarter; at half it is back, and a bookie dies; at three quarters that is back as well."""

    def __init__(self, cluster: ProcessCluster, topic: str, start_ms: int, span_ms: int) -> None:
        self._cluster = cluster
        self._topic = topic
        self._owner = ""
        self._bookie = cluster.bookie_names[0]
        acts = (self._kill_owner, self._kill_bookie, self._restart_bookie)
        self._left = [
            (start_ms + span_ms * quarter // 4, act) for quarter, act in enumerate(acts, 1)]
        self.brokers_mb = 0.0
        """The most that one of them held."""

    def look(self) -> None:
        """Do what is due, and see what the brokers hold."""
        while self._left and time.time_ns() // 1_000_000 >= self._left[0][0]:
            self._left.pop(0)[1]()
        for name in self._cluster.broker_names:
            broker = self._cluster.children[name]
            if broker.alive:
                self.brokers_mb = max(self.brokers_mb, resident_mb(broker.pid))

    @property
    def all_came(self) -> bool:
        """Only the bookie's return may be left."""
        return len(self._left) <= 1

    def _kill_owner(self) -> None:
        self._owner = asyncio.run(self._cluster.owner_of(self._topic))
        self._cluster.kill(self._owner)

    def _kill_bookie(self) -> None:
        self._cluster.kill(self._bookie)
        self._cluster.restart(self._owner)

    def _restart_bookie(self) -> None:
        self._cluster.restart(self._bookie)


def scheduled_killed(cluster: ProcessCluster, quick: bool) -> Figures:
    """See `killed_while_firing`."""
    return killed_while_firing(cluster, QUICK_COUNT if quick else COUNT)


def killed_while_firing(cluster: ProcessCluster, count: int) -> Figures:
    """`missing`, `repeated`, `early` and `out_of_order` are of the log as the bookies have it;
    raises ValueError when the clients fail, or all have fired before the deaths."""
    topic = new_topic()
    span_ms = max(SPAN_LEAST_MS, count * 1000 // PER_S)
    asyncio.run(_prepare(cluster.service_url, topic))
    start_ms = time.time_ns() // 1_000_000 + 3_000 + count * 1000 // FILL_PER_S
    deaths = _Deaths(cluster, topic, start_ms, span_ms)
    taker = child(cluster, "take", topic, count=count)
    try:
        taker.wait_until_ready("ready")
        filler = child(
            cluster, "fill", topic, count=count, start_ms=start_ms, span_ms=span_ms)
        finished(filler, deaths.look)
        taken = finished(taker, deaths.look)
    finally:
        taker.kill()
    if not deaths.all_came:
        raise ValueError("all have fired before the owner and a bookie were killed")
    return {
        **asyncio.run(_in_log(cluster, topic, count)), "not_received": taken["missing"],
        "brokers_mb": deaths.brokers_mb,
    }


async def _prepare(url: str, topic: str) -> None:
    async with Client(url) as client:
        await client.admin.topics.create(topic)
        await client.admin.policies.set({"retention_minutes": -1}, topic=topic)
        await client.subscribe(topic, "bench", initial_position=InitialPosition.Earliest)


async def _in_log(cluster: ProcessCluster, topic: str, count: int) -> Figures:
    async with Client(cluster.service_url, operation_timeout_seconds=120) as client:
        await (await client.create_producer(topic)).send(LAST)
    store = await open_store(
        cluster.metadata_url, network=TcpNetwork(), clock=SystemClock(), session_timeout_s=10)
    times = bytearray(count)
    early = out_of_order = latest_due_ms = 0
    try:
        async for append_ms, payload in raw_log(store, topic):
            if payload == LAST:
                continue
            number, due_ms = HEAD.unpack_from(payload)
            times[number] = min(times[number] + 1, SEEN_MOST)
            early += append_ms < due_ms
            out_of_order += due_ms < latest_due_ms
            latest_due_ms = max(latest_due_ms, due_ms)
    finally:
        await store.close()
    missing = times.count(0)
    return {
        "missing": missing, "repeated": count - missing - times.count(1), "early": early,
        "out_of_order": out_of_order,
    }
