"""Delayed messages at length: ten million over half an hour, then a million that are overdue."""

from __future__ import annotations

import asyncio
import json
import sys
import time
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


def _child(cluster: ProcessCluster, role: str, topic: str, **options: int) -> Child:
    command = [sys.executable, "-m", "bench.scheduled_load", role, cluster.service_url, topic]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    log = cluster.directory / f"scheduled-{role}-{next_number()}.log"
    return start(role, command, log, tree_environment())


def _wait(child: Child, owner: int, peak_mb: list[float]) -> Figures:
    """The child's figures; the owner's memory is looked at all the while."""
    deadline_s = time.monotonic() + LIMIT_S
    while child.alive and time.monotonic() < deadline_s:
        peak_mb.append(resident_mb(owner))
        time.sleep(POLL_S)
    child.process.wait(1)
    if child.process.returncode:
        raise ValueError(f"{child.name} ended badly: {child.log_end()}")
    figures: Figures = json.loads(child.log_end().splitlines()[-1])
    return figures


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
    owner = cluster.children[asyncio.run(cluster.owner_of(topic))].pid
    start_ms = time.time_ns() // 1_000_000 + 2_000 + count * 1000 // FILL_PER_S
    peak_mb: list[float] = []
    taker = _child(cluster, "take", topic, count=count)
    try:
        taker.wait_until_ready("ready")
        filler = _child(
            cluster, "fill", topic, count=count, start_ms=start_ms, span_ms=span_ms,
            burst=BURST // (1 if not quick else 10))
        filled = _wait(filler, owner, peak_mb)
        taken = _wait(taker, owner, peak_mb)
    finally:
        taker.kill()
    return {
        **taken, "scheduled_per_s": filled["scheduled_per_s"], "owner_mb": max(peak_mb),
        "fill_ahead_s": round((start_ms - filled["ended_ms"]) / 1000, 1),
    }


def overdue(cluster: ProcessCluster, quick: bool) -> Figures:
    """A million become due while no broker runs; the rate at which they come afterwards."""
    count, topic = OVERDUE // (10 if quick else 1), new_topic()
    asyncio.run(_subscribe(cluster.service_url, topic))
    start_ms = time.time_ns() // 1_000_000 + 5_000 + count * 1000 // FILL_PER_S
    filler = _child(
        cluster, "fill", topic, count=count, start_ms=start_ms, span_ms=1_000)
    owner = cluster.children[asyncio.run(cluster.owner_of(topic))].pid
    filled = _wait(filler, owner, [])
    for name in cluster.broker_names:
        cluster.kill(name)
    time.sleep(max(0.0, (start_ms - filled["ended_ms"]) / 1000) + 1.0 + STOPPED_S)
    for name in cluster.broker_names:
        cluster.restart(name)
    peak_mb: list[float] = []
    taker = _child(cluster, "take", topic, count=count)
    taker.wait_until_ready("ready")
    owner = cluster.children[asyncio.run(cluster.owner_of(topic))].pid
    taken = _wait(taker, owner, peak_mb)
    return {
        "overdue_per_s": taken["taken_per_s"], "early": taken["early"],
        "repeated": taken["repeated"], "missing": taken["missing"], "owner_mb": max(peak_mb),
    }
