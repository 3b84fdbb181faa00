"""Row 12: it never happens that B is there and A, confirmed before it, is not.

An hour of the same is the row `soak` of `make bench`.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.traffic import Traffic, read_log
from tests.features.cluster import FeatureCluster
from tests.features.random_kills import kill_at_random

pytestmark = pytest.mark.timeout(240)

ROUNDS, BETWEEN_KILLS = 4, 300


@pytest.mark.parametrize("seed", [1])
async def test_nothing_confirmed_is_lost_and_no_gap_arises(
    cluster: FeatureCluster, topic: str, seed: int
) -> None:
    traffic = Traffic(cluster.service_url, topic)
    running = asyncio.create_task(traffic.run())

    async def confirmed_more() -> None:
        async with asyncio.timeout(60):
            await traffic.until_confirmed(BETWEEN_KILLS)

    killed = await kill_at_random(cluster, seed, ROUNDS, confirmed_more)
    traffic.stop()
    await running
    log = await read_log(cluster.service_url, topic)

    assert len(killed) == 2 * ROUNDS
    assert traffic.failures == []
    traffic.check(log)
    assert len(log) == traffic.sent
