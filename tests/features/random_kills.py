"""Kills a bookie and a broker at random, again and again, and starts them anew."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from tests.features.cluster import FeatureCluster


async def kill_at_random(
    cluster: FeatureCluster, seed: int, rounds: int, progress: Callable[[], Awaitable[None]],
    kinds: tuple[str, ...] = ("bookie", "broker"),
) -> list[str]:
    """In each round one part of each kind is killed, `progress` is awaited, and they are started
    again; the names in order. `progress` shows that things go on without them."""
    chance = random.Random(seed)
    killed: list[str] = []
    for _ in range(rounds):
        victims = [
            chance.choice(cluster.bookie_names if kind == "bookie" else cluster.broker_names)
            for kind in kinds
        ]
        await progress()
        for name in victims:
            await cluster.kill(name)
            killed.append(name)
            await asyncio.sleep(chance.random() * 0.2)
        await progress()
        for name in victims:
            await cluster.restart(name)
    return killed
