"""SIGKILL of any one process: publishing goes on, and what was confirmed is in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from demo.cluster import ProcessCluster
from tests.chaos.traffic import Traffic, read_log
from tests.chaos.zookeeper_ensemble import ZooKeeperEnsemble

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

BEFORE, AFTER = 500, 2_000
GOES_ON_S = 45.0
Victim = Callable[[ProcessCluster, ZooKeeperEnsemble, str], Awaitable[str]]


async def _owner(cluster: ProcessCluster, _: ZooKeeperEnsemble, topic: str) -> str:
    return await cluster.owner_of(topic)


async def _other_broker(cluster: ProcessCluster, _: ZooKeeperEnsemble, topic: str) -> str:
    owner = await cluster.owner_of(topic)
    return next(name for name in cluster.broker_names if name != owner)


async def _bookie(cluster: ProcessCluster, _: ZooKeeperEnsemble, topic: str) -> str:
    return cluster.bookie_names[len(topic) % len(cluster.bookie_names)]


async def _leader(_: ProcessCluster, ensemble: ZooKeeperEnsemble, topic: str) -> str:
    return ensemble.named("leader")


async def _follower(_: ProcessCluster, ensemble: ZooKeeperEnsemble, topic: str) -> str:
    return ensemble.named("follower")


@pytest.mark.parametrize("victim", [_bookie, _owner, _other_broker, _follower, _leader])
async def test_publishing_outlives_any_one_process(
    cluster: ProcessCluster, ensemble: ZooKeeperEnsemble, victim: Victim
) -> None:
    topic = f"persistent://public/default/kill{victim.__name__}"
    traffic = Traffic(cluster.service_url, topic)
    running = asyncio.create_task(traffic.run())
    await traffic.until_confirmed(BEFORE)
    name = await victim(cluster, ensemble, topic)
    part = ensemble if name in ensemble.children else cluster

    part.kill(name)
    try:
        async with asyncio.timeout(GOES_ON_S):
            await traffic.until_confirmed(AFTER)
        traffic.stop()
        await running
        log = await read_log(cluster.service_url, topic)
    finally:
        traffic.stop()
        part.restart(name)

    assert traffic.failures == []
    traffic.check(log)
    assert len(log) == traffic.sent


async def test_nothing_confirmed_is_lost_when_all_bookies_and_brokers_are_killed(
    cluster: ProcessCluster,
) -> None:
    topic = "persistent://public/default/kill-all"
    traffic = Traffic(cluster.service_url, topic)
    running = asyncio.create_task(traffic.run())
    await traffic.until_confirmed(BEFORE)
    names = (*cluster.bookie_names, *cluster.broker_names)

    for name in names:
        cluster.kill(name)
    for name in names:
        cluster.restart(name)
    try:
        async with asyncio.timeout(GOES_ON_S):
            await traffic.until_confirmed(AFTER)
    finally:
        traffic.stop()
    await running

    assert traffic.failures == []
    log = await read_log(cluster.service_url, topic)
    traffic.check(log)
    assert len(log) == traffic.sent
