"""SIGSTOP, which looks like a dead process to the others and like nothing to itself."""

from __future__ import annotations

import asyncio
import signal

import pytest

from demo.cluster import ProcessCluster
from tests.chaos.conftest import SESSION_TIMEOUT_S
from tests.chaos.raw_producer import RawProducer
from tests.chaos.traffic import Traffic, read_log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

BEFORE, AFTER = 500, 2_000
GOES_ON_S = 60.0


async def test_what_a_paused_owner_confirms_later_is_in_its_successors_log(
    cluster: ProcessCluster,
) -> None:
    topic = "persistent://public/default/pause-owner"
    owner = await cluster.owner_of(topic)
    paused = cluster.children[owner]
    others = "magnetar://" + ",".join(
        address for address in cluster.broker_addresses if cluster.broker_at(address) != owner
    )
    old = RawProducer(f"127.0.0.1:{cluster.ports[owner]}", topic, "through-the-old-owner")
    await old.open()
    publishing = asyncio.create_task(old.run())
    await old.until_confirmed(BEFORE)

    paused.signal(signal.SIGSTOP)
    try:
        traffic = Traffic(others, topic, "through-the-successor")
        running = asyncio.create_task(traffic.run())
        async with asyncio.timeout(GOES_ON_S):
            await traffic.until_confirmed(BEFORE)
        await asyncio.sleep(2 * SESSION_TIMEOUT_S)
    finally:
        paused.signal(signal.SIGCONT)
    async with asyncio.timeout(GOES_ON_S):
        await traffic.until_confirmed(AFTER)
        old.stop()
        await publishing
    traffic.stop()
    await running

    log = await read_log(cluster.service_url, topic)
    assert await cluster.owner_of(topic) != owner
    assert traffic.failures == []
    traffic.check(log)
    old.check(log)


async def test_a_paused_bookie_delays_nobody_for_good(cluster: ProcessCluster) -> None:
    topic = "persistent://public/default/pause-bookie"
    paused = cluster.children[cluster.bookie_names[1]]
    traffic = Traffic(cluster.service_url, topic)
    running = asyncio.create_task(traffic.run())
    await traffic.until_confirmed(BEFORE)

    paused.signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(GOES_ON_S):
            await traffic.until_confirmed(AFTER)
        await asyncio.sleep(2 * SESSION_TIMEOUT_S)
    finally:
        paused.signal(signal.SIGCONT)
    async with asyncio.timeout(GOES_ON_S):
        await traffic.until_confirmed(AFTER)
    traffic.stop()
    await running

    assert traffic.failures == []
    log = await read_log(cluster.service_url, topic)
    traffic.check(log)
    assert len(log) == traffic.sent
