"""Delayed messages at length: ten million over half an hour, then a million that are overdue."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Final

from bench.magnetar_rows import new_topic, next_number, resident_mb
from bench.percentiles import Figures
from demo.cluster import ProcessCluster, tree_environment
from demo.processes import Child, start
from magnetar import Client, InitialPosition

COUNT: Final = 10_000_000
SPAN_S: Final = 1_800.0
BURST: Final = 10_000
OVERDUE: Final = 1_000_000
QUICK_SHARE: Final = 100
FILL_PER_S: Final = 30_000
"""Slower than it goes: how far ahead the first one is due."""
LIMIT_S: Final = 7_200.0
POLL_S: Final = 1.0
STOPPED_S: Final = 3.0


def child(cluster: ProcessCluster, role: str, topic: str, **options: int) -> Child:
    """A client of `bench.scheduled_load` in a process of its own."""
    command = [sys.executable, "-m", "bench.scheduled_load", role, cluster.service_url, topic]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    log = cluster.directory / f"scheduled-{role}-{next_number()}.log"
    return start(role, command, log, tree_environment())


def finished(client: Child, look: Callable[[], None]) -> Figures:
    """The client's figures, once it ended; `look` is called all the while. Raises ValueError."""
    deadline_s = time.monotonic() + LIMIT_S
    while client.alive and time.monotonic() < deadline_s:
        look()
        time.sleep(POLL_S)
    if client.alive:
        raise ValueError(f"{client.name} did not end within {LIMIT_S:g} s: {client.log_end()}")
    if client.process.returncode:
        raise ValueError(f"{client.name} ended badly: {client.log_end()}")
    figures: Figures = json.loads(client.log_end().splitlines()[-1])
    return figures


class _Peak:
    """The most memory that a process held."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.mb = 0.0

    def look(self) -> None:
        self.mb = max(self.mb, resident_mb(self._pid))


async def _subscribe(url: str, topic: str) -> None:
    async with Client(url) as client:
        await client.subscribe(topic, "bench", initial_position=InitialPosition.Earliest)


def scheduled(cluster: ProcessCluster, quick: bool) -> Figures:
    """Memory of the owner, and how late they are over the whole time."""
    share = QUICK_SHARE if quick else 1
    count, span_ms, topic = COUNT // share, int(SPAN_S * 1000) // (share if quick else 1), (
        new_topic())
    span_ms = max(span_ms, 30_000)
    asyncio.run(_subscribe(cluster.service_url, topic))
    owner = _Peak(cluster.children[asyncio.run(cluster.owner_of(topic))].pid)
    start_ms = time.time_ns() // 1_000_000 + 2_000 + count * 1000 // FILL_PER_S
    taker = child(cluster, "take", topic, count=count)
    try:
        taker.wait_until_ready("ready")
        filler = child(
            cluster, "fill", topic, count=count, start_ms=start_ms, span_ms=span_ms,
            burst=BURST // (1 if not quick else 10))
        filled = finished(filler, owner.look)
        taken = finished(taker, owner.look)
    finally:
        taker.kill()
    return {
        **taken, "scheduled_per_s": filled["scheduled_per_s"], "owner_mb": owner.mb,
        "fill_ahead_s": round((start_ms - filled["ended_ms"]) / 1000, 1),
    }


def overdue(cluster: ProcessCluster, quick: bool) -> Figures:
    """A million become due while no broker runs; the rate at which they come afterwards."""
    count, topic = OVERDUE // (10 if quick else 1), new_topic()
    asyncio.run(_subscribe(cluster.service_url, topic))
    start_ms = time.time_ns() // 1_000_000 + 5_000 + count * 1000 // FILL_PER_S
    filler = child(
        cluster, "fill", topic, count=count, start_ms=start_ms, span_ms=1_000)
    filled = finished(filler, lambda: None)
    for name in cluster.broker_names:
        cluster.kill(name)
    time.sleep(max(0.0, (start_ms - filled["ended_ms"]) / 1000) + 1.0 + STOPPED_S)
    for name in cluster.broker_names:
        cluster.restart(name)
    taker = child(cluster, "take", topic, count=count)
    taker.wait_until_ready("ready")
    owner = _Peak(cluster.children[asyncio.run(cluster.owner_of(topic))].pid)
    taken = finished(taker, owner.look)
    return {
        "overdue_per_s": taken["taken_per_s"], "early": taken["early"],
        "repeated": taken["repeated"], "missing": taken["missing"], "owner_mb": owner.mb,
    }
