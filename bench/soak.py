"""An hour of kills: a bookie and a broker at random, again and again, under steady traffic."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from bench.load import AnyProducer
from bench.magnetar_rows import in_loop, new_topic
from bench.percentiles import Figures
from demo.cluster import ProcessCluster
from magnetar import Client, InitialPosition

SOAK_S: Final = 3_600.0
QUICK_S: Final = 30.0
RATE: Final = 200
DOWN_S: Final = (0.5, 4.0)
UP_S: Final = (4.0, 12.0)
SEND_TIMEOUT_MS: Final = 120_000
READ_LIMIT_MS: Final = 60_000


class _Traffic:
    """Numbers at a steady rate, and when each was confirmed."""

    def __init__(self) -> None:
        self.sent = 0
        self.confirmed: set[int] = set()
        self.errors = 0
        self.longest_wait_s = 0.0

    async def run(self, producer: AnyProducer, seconds: float) -> None:
        began_s = time.perf_counter()
        async with asyncio.TaskGroup() as settling:
            while (now_s := time.perf_counter() - began_s) < seconds:
                if (delay_s := self.sent / RATE - now_s) > 0:
                    await asyncio.sleep(delay_s)
                await producer.ready()
                settling.create_task(self._settle(producer, self.sent))
                self.sent += 1

    async def _settle(self, producer: AnyProducer, number: int) -> None:
        sent_s = time.perf_counter()
        try:
            await producer.send(b"%d" % number)
        except Exception:
            self.errors += 1
        else:
            self.confirmed.add(number)
            self.longest_wait_s = max(self.longest_wait_s, time.perf_counter() - sent_s)


async def _kill_at_random(cluster: ProcessCluster, seconds: float) -> int:
    chance, kills = random.Random(12), 0
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + seconds
    while loop.time() < ends_s:
        await asyncio.sleep(chance.uniform(*UP_S))
        victims = [chance.choice(cluster.bookie_names), chance.choice(cluster.broker_names)]
        for name in victims:
            cluster.kill(name)
            kills += 1
        await asyncio.sleep(chance.uniform(*DOWN_S))
        for name in victims:
            cluster.restart(name)
            await asyncio.sleep(0)
    return kills


async def _soak(cluster: ProcessCluster, topic: str, seconds: float) -> Figures:
    traffic = _Traffic()
    async with Client(cluster.service_url, operation_timeout_seconds=120) as client:
        producer = await client.create_producer(
            topic, "soak", send_timeout_millis=SEND_TIMEOUT_MS)
        killing = asyncio.create_task(_kill_at_random(cluster, seconds))
        await traffic.run(producer, seconds)
        kills = await killing
        seen: list[int] = []
        reader = await client.create_reader(topic, InitialPosition.Earliest)
        while await reader.has_message_available():
            seen += [int(one.data) for one in await reader.read_many(10_000, READ_LIMIT_MS)]
    found = set(seen)
    return {
        "lost": len(traffic.confirmed - found),
        "repeated": len(seen) - len(found), "out_of_order": int(seen != sorted(seen)),
        "errors": traffic.errors, "sent": traffic.sent, "kills": kills, "hours": seconds / 3600,
        "longest_wait_s": round(traffic.longest_wait_s, 2),
    }


def soak(cluster: ProcessCluster, quick: bool) -> Figures:
    """Nothing confirmed is lost, repeated or out of order."""
    return in_loop(_soak(cluster, new_topic(), QUICK_S if quick else SOAK_S))
