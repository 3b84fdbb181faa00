"""What messages cost people: backlogs, holes, filters, groups that change."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from bench.children import answer
from bench.load import Paced
from bench.magnetar_rows import in_loop, new_topic, next_number, resident_mb
from bench.memory_rows import many_clients, peak_shaving
from bench.order_rows import global_order, scaling_up
from bench.percentiles import Figures, latencies_ms
from bench.scheduled_killed import scheduled_killed
from bench.scheduled_rows import overdue, scheduled
from bench.soak import soak
from demo.cluster import ProcessCluster, tree_environment
from demo.processes import Child, start
from magnetar import Client, Consumer, ConsumerType, InitialPosition

MILLIONS: Final = 10_000_000
WARM_UP: Final = 2_000_000
QUICK_SHARE: Final = 20
INTERLEAVED: Final = 5
PACED_SECONDS: Final = 6
PACED_RATE: Final = 1_000
FILTERED_MESSAGES: Final = 300_000
FILTERED_BYTES: Final = 1_024
WANTED_EACH: Final = 10
GROUP: Final = 20
GROUP_RATE: Final = 4_000
GROUP_SECONDS: Final = 10.0
KEYED_RATE: Final = 1_000
"""Less, since each message of a batch goes to the consumer of its key."""
KEYS: Final = 200
WORK_S: Final = 1.0
SLOW_CONSUMERS: Final = 5
START_LIMIT_S: Final = 600.0


def _child(cluster: ProcessCluster, role: str, topic: str, *more: str) -> Child:
    command = [
        sys.executable, "-m", "bench.feature_load", role, cluster.service_url, topic, *more,
    ]
    log = cluster.directory / f"{role}-{next_number()}.log"
    return start(role, command, log, tree_environment())


def _run(cluster: ProcessCluster, role: str, topic: str, *more: str) -> Figures:
    return answer(_child(cluster, role, topic, *more), None, 0)


def _shrunk(count: int, quick: bool) -> int:
    return count // QUICK_SHARE if quick else count


def _topic_beside(cluster: ProcessCluster, topic: str) -> str:
    """Another topic of the same owner."""
    owner = asyncio.run(cluster.owner_of(topic))
    while True:
        other = new_topic()
        if asyncio.run(cluster.owner_of(other)) == owner:
            return other


async def _keep_from_now(url: str, topic: str) -> None:
    """A subscription that nobody consumes keeps what is published; nothing bounds what is out."""
    async with Client(url) as client:
        await client.admin.policies.set({
            "max_unacked_messages_per_consumer": -1, "max_unacked_messages_per_subscription": -1,
        }, topic=topic)
        await client.subscribe(
            topic, "bench", consumer_type=ConsumerType.Shared,
            initial_position=InitialPosition.Earliest)


async def _publish_p50_ms(url: str, topic: str) -> float:
    async with Client(url) as client, await client.create_producer(topic) as producer:
        load = Paced(producer, PACED_RATE, 100)
        await load.run(PACED_SECONDS)
    return latencies_ms(load.latencies_s)["p50_ms"]


def backlog(cluster: ProcessCluster, quick: bool) -> Figures:
    """10 million of 100 B that nobody consumed: publishing, memory, and then the drain."""
    count, url = _shrunk(MILLIONS, quick), cluster.service_url
    full = new_topic()
    empty = _topic_beside(cluster, full)
    owner = cluster.children[asyncio.run(cluster.owner_of(full))].pid
    _run(cluster, "numbered", empty, "--count", str(_shrunk(WARM_UP, quick)))
    before_mb = resident_mb(owner)
    asyncio.run(_keep_from_now(url, full))
    published = _run(cluster, "numbered", full, "--count", str(count))
    grown_mb = resident_mb(owner) - before_mb
    with_ms, without_ms = [], []
    for _ in range(INTERLEAVED):
        without_ms.append(in_loop(_publish_p50_ms(url, empty)))
        with_ms.append(in_loop(_publish_p50_ms(url, full)))
    drained = _run(cluster, "drain", full, "--count", str(count))
    return {
        "p50_ratio": round(statistics.median(with_ms) / statistics.median(without_ms), 3),
        "grown_mb": round(grown_mb, 1), "drained_per_s": drained["messages_per_s"],
        "published_per_s": published["messages_per_s"],
        "p50_with_ms": statistics.median(with_ms), "p50_without_ms": statistics.median(without_ms),
    }


def holes(cluster: ProcessCluster, quick: bool) -> Figures:
    """10 million, every second one acknowledged, the owner killed: the other half comes again."""
    count, topic = _shrunk(MILLIONS, quick), new_topic()
    asyncio.run(_keep_from_now(cluster.service_url, topic))
    _run(cluster, "numbered", topic, "--count", str(count))
    name = asyncio.run(cluster.owner_of(topic))
    consumer = _child(cluster, "acknowledge-odd", topic, "--count", str(count))
    try:
        consumer.wait_until_ready("messages_per_s", START_LIMIT_S)
        acknowledged = json.loads(consumer.log_end().splitlines()[-1])
        owner_mb = resident_mb(cluster.children[name].pid)
        cluster.kill(name)
    finally:
        consumer.kill()
    try:
        verified = _run(cluster, "verify-even", topic, "--count", str(count))
    finally:
        cluster.restart(name)
    return {
        **verified, "owner_mb": owner_mb, "acknowledging_per_s": acknowledged["messages_per_s"],
        "redelivered_per_s": verified["messages_per_s"],
    }


def filters(cluster: ProcessCluster, quick: bool) -> Figures:
    """Messages of the log passed a second: everything wanted, and a tenth of each batch."""
    count = _shrunk(FILTERED_MESSAGES, quick)
    figures: Figures = {}
    for codec in ("NONE", "LZ4", "ZSTD"):
        topic = new_topic()
        _run(
            cluster, "numbered", topic, "--count", str(count), "--size", str(FILTERED_BYTES),
            "--codec", codec, "--tag-each", str(WANTED_EACH),
        )  # fmt: skip
        whole = _run(cluster, "drain", topic, "--count", str(count), "--subscription", "all")
        part = _run(
            cluster, "drain", topic, "--count", str(count // WANTED_EACH), "--subscription",
            "some", "--tags", "A",
        )  # fmt: skip
        name = codec.lower()
        figures[f"{name}_all_per_s"] = whole["messages_per_s"]
        figures[f"{name}_tenth_passed_per_s"] = round(count / part["seconds"])
        figures[f"{name}_tenth_ratio"] = round(whole["seconds"] / part["seconds"], 2)
    return figures


class _Member:
    """One consumer of a group, and when it received something."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.times_s: list[float] = []
        self.task = asyncio.create_task(self._consume())

    async def _consume(self) -> None:
        while True:
            messages = await self._consumer.receive_many(100)
            self.times_s.append(time.perf_counter())
            for message in messages:
                self._consumer.acknowledge(message)

    def longest_gap_ms(self, start_s: float, end_s: float) -> float:
        inside = [start_s, *(at for at in self.times_s if start_s <= at <= end_s), end_s]
        return max(b - a for a, b in itertools.pairwise(inside)) * 1000

    async def leave(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        await self._consumer.close()


async def _group(url: str, topic: str, kind: ConsumerType, rate: int, keys: int = 0) -> Figures:
    async with Client(url) as client, await client.create_producer(
        topic, batching_max_allowed_size_in_bytes=1_000
    ) as producer:
        async def member() -> _Member:
            return _Member(await client.subscribe(
                topic, "group", consumer_type=kind, receiver_queue_size=100,
                initial_position=InitialPosition.Earliest))

        members = [await member() for _ in range(GROUP - 1)]
        load = Paced(producer, rate, 100, keys)
        running = asyncio.create_task(load.run(3 * GROUP_SECONDS))
        await asyncio.sleep(GROUP_SECONDS / 2)
        began_s = time.perf_counter()
        await asyncio.sleep(GROUP_SECONDS)
        changed_s = time.perf_counter()
        for _ in range(5):
            other = await member()
            await asyncio.sleep(GROUP_SECONDS / 10)
            await other.leave()
            await asyncio.sleep(GROUP_SECONDS / 10)
        ended_s = time.perf_counter()
        await running
        quiet = [one.longest_gap_ms(began_s, changed_s) for one in members]
        changing = [one.longest_gap_ms(changed_s, ended_s) for one in members]
        for one in members:
            await one.leave()
    return {
        "quiet_gap_ms": round(max(quiet), 1), "changing_gap_ms": round(max(changing), 1),
        "added_gap_ms": round(max(changing) - max(quiet), 1),
    }


def group_changes(cluster: ProcessCluster, _quick: bool) -> Figures:
    """1 of 20 shared consumers joins and leaves, five times: the longest gaps of the other 19."""
    return in_loop(_group(cluster.service_url, new_topic(), ConsumerType.Shared, GROUP_RATE))


def keyed_group_changes(cluster: ProcessCluster, _quick: bool) -> Figures:
    """The same of consumers that share out keys, which move when one comes or goes."""
    return in_loop(
        _group(cluster.service_url, new_topic(), ConsumerType.KeyShared, KEYED_RATE, KEYS))


async def _work_slowly(consumer: Consumer) -> None:
    while True:
        message = await consumer.receive()
        await asyncio.sleep(WORK_S)
        await consumer.acknowledge(message)


async def _paced_p99_ms(url: str, topic: str, consumers: int) -> float:
    async with Client(url) as consuming, Client(url) as client:
        tasks = [
            asyncio.create_task(_work_slowly(await consuming.subscribe(
                topic, f"slow-{number}", receiver_queue_size=10)))
            for number in range(consumers)
        ]
        async with await client.create_producer(topic) as producer:
            load = Paced(producer, PACED_RATE)
            await load.run(PACED_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return latencies_ms(load.latencies_s)["p99_ms"]


def slow_consumers(cluster: ProcessCluster, _quick: bool) -> Figures:
    """Publish p99 with five consumers that take a second a message, and with none, by turns."""
    url = cluster.service_url
    alone, beside = [], []
    for _ in range(INTERLEAVED):
        alone.append(in_loop(_paced_p99_ms(url, new_topic(), 0)))
        beside.append(in_loop(_paced_p99_ms(url, new_topic(), SLOW_CONSUMERS)))
    alone_ms, beside_ms = statistics.median(alone), statistics.median(beside)
    return {
        "p99_ratio": round(beside_ms / alone_ms, 3), "p99_alone_ms": alone_ms,
        "p99_beside_ms": beside_ms,
    }


MEASURES: Final[dict[str, Callable[[ProcessCluster, bool], Figures]]] = {
    "backlog": backlog,
    "holes": holes,
    "filters": filters,
    "group-changes": group_changes,
    "keyed-group-changes": keyed_group_changes,
    "scaling-up": scaling_up,
    "global-order": global_order,
    "slow-consumers": slow_consumers,
    "many-clients": many_clients,
    "peak-shaving": peak_shaving,
    "soak": soak,
    "scheduled": scheduled,
    "scheduled-killed": scheduled_killed,
    "overdue": overdue,
}
"""By the name of their row in `bench.rows`."""
