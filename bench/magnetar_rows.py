"""Each kind of row, measured on Magnetar."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from bench.children import answer
from bench.load import Paced
from bench.percentiles import Figures
from bench.rows import Row
from demo.cluster import ProcessCluster, magnetar, tree_environment
from demo.ports import LOOPBACK, free_port
from demo.processes import Child, start, stop
from magnetar import Client, InitialPosition
from magnetar.errors import MagnetarError

CATCH_UP_MESSAGES: Final = 300_000
CATCH_UP_RATE: Final = 10_000
READ_TOGETHER: Final = 10_000
KILLED_RATE: Final = 1_000
KILL_AFTER_S: Final = 3.0
KILLED_RUN_S: Final = 10.0
STANDALONE_LIMIT_S: Final = 30.0

_numbers = itertools.count(1)
T = TypeVar("T")


def next_number() -> int:
    """For names that were not used before."""
    return next(_numbers)


def new_topic() -> str:
    """A topic nobody used before."""
    return f"persistent://public/default/bench-{next(_numbers)}"


def _client(cluster: ProcessCluster, name: str, *arguments: str) -> Child:
    command = [sys.executable, "-m", "bench.load", *arguments]
    log = cluster.directory / f"{name}-{next(_numbers)}.log"
    return start(name, command, log, tree_environment())


def beside(cluster: ProcessCluster, row: Row) -> Figures:
    """The row's load with clients in processes of their own; raises ProcessFailed."""
    load, topic, url = row.load, new_topic(), cluster.service_url
    assert load is not None
    children: list[Child] = []
    try:
        consumer = None
        if load.consume:
            consumer = _client(cluster, "consumer", "drink", url, topic, "--count",
                               str(load.messages))
            children.append(consumer)
            consumer.wait_until_ready("ready")
        if load.kind == "saturate":
            wanted = ["saturate", url, topic, "--count", str(load.first), "--size",
                      str(load.second), *(["--each"] if row.call == "send" else [])]
        else:
            wanted = ["paced", url, topic, "--rate", str(load.first), "--seconds",
                      str(load.second)]
        producer = _client(cluster, "producer", *wanted)
        children.append(producer)
        return answer(producer, consumer, load.messages)
    finally:
        for child in children:
            child.kill()


def catch_up(cluster: ProcessCluster, quick: bool) -> Figures:
    """A reader from the first message on, while others are published; raises ProcessFailed."""
    count, topic, url = CATCH_UP_MESSAGES // (4 if quick else 1), new_topic(), cluster.service_url
    backlog = _client(cluster, "backlog", "saturate", url, topic, "--count", str(count))
    answer(backlog, None, count)
    seconds = max(5, count // 20_000)
    publisher = _client(
        cluster, "publisher", "paced", url, topic, "--rate", str(CATCH_UP_RATE), "--seconds",
        str(seconds),
    )  # fmt: skip
    try:
        figures = in_loop(_read(url, topic, count))
        return {**figures, "publish_p99_ms": answer(publisher, None, 0)["p99_ms"]}
    finally:
        publisher.kill()


async def _read(url: str, topic: str, count: int) -> Figures:
    async with (
        Client(url) as client,
        await client.create_reader(topic, InitialPosition.Earliest) as reader,
    ):
        read = read_bytes = 0
        began_s = time.perf_counter()
        while read < count:
            messages = await reader.read_many(READ_TOGETHER)
            for message in messages:
                read_bytes += len(message.data)
            read += len(messages)
        elapsed_s = time.perf_counter() - began_s
    return {"read_per_s": round(read / elapsed_s), "mb_per_s": round(read_bytes / elapsed_s / 1e6)}


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run it on an event loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def owner_killed(cluster: ProcessCluster) -> Figures:
    """SIGKILL the owner while 1,000/s are published; then start it again."""
    topic = new_topic()
    owner = asyncio.run(cluster.owner_of(topic))
    try:
        return in_loop(_publish_and_kill(cluster, topic, owner))
    finally:
        cluster.restart(owner)


def bookie_killed(cluster: ProcessCluster) -> Figures:
    """SIGKILL a bookie while 1,000/s are published; then start it again."""
    victim = cluster.bookie_names[0]
    try:
        return in_loop(_publish_and_kill(cluster, new_topic(), victim))
    finally:
        cluster.restart(victim)


async def _publish_and_kill(cluster: ProcessCluster, topic: str, victim: str) -> Figures:
    """Answers with `silence_s`, from the kill until the first acknowledgement of a message sent
    after it, and `added_ms`, the worst latency after the kill above the median before it."""
    settled: list[tuple[float, float]] = []
    async with (
        Client(cluster.service_url) as client, await client.create_producer(topic) as producer
    ):
        load = Paced(producer, KILLED_RATE)
        load.on_settled = lambda due_s, now_s: settled.append((due_s, now_s))
        running = asyncio.create_task(load.run(KILLED_RUN_S))
        await asyncio.sleep(KILL_AFTER_S)
        killed_s = time.perf_counter()
        cluster.kill(victim)
        await running
    before = sorted(now_s - due_s for due_s, now_s in settled if now_s < killed_s)
    after = [(due_s, now_s) for due_s, now_s in settled if due_s >= killed_s]
    worst_s = max(now_s - due_s for due_s, now_s in settled if now_s >= killed_s)
    return {
        "silence_s": round(min(now_s for _, now_s in after) - killed_s, 3),
        "added_ms": round((worst_s - before[len(before) // 2]) * 1000, 1),
        "errors": load.errors,
    }


def standalone(directory: Path) -> Figures:
    """From the start of the process to the first durable message, and its memory then."""
    port, name = free_port(), f"standalone-{next(_numbers)}"
    command = magnetar(
        "standalone", "--data", str(directory / name), "--port", str(port), "--admin-port",
        str(free_port()),
    )  # fmt: skip
    began_s = time.perf_counter()
    child = start(name, command, directory / f"{name}.log", tree_environment())
    try:
        asyncio.run(_first_message(f"magnetar://{LOOPBACK}:{port}", child))
        first_s = time.perf_counter() - began_s
        return {"first_durable_s": round(first_s, 2), "resident_mb": resident_mb(child.pid)}
    finally:
        stop([child])


async def _first_message(url: str, child: Child) -> None:
    deadline_s = time.perf_counter() + STANDALONE_LIMIT_S
    while True:
        try:
            async with Client(url, operation_timeout_seconds=5) as client:
                producer = await client.create_producer("first")
                await producer.send(b"durable?")
                return
        except MagnetarError:
            if time.perf_counter() > deadline_s or not child.alive:
                raise
            await asyncio.sleep(0.02)


def resident_mb(pid: int) -> float:
    """Memory a process holds now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise ValueError(f"process {pid} has no resident memory")
