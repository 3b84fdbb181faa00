"""Those who wait for a change."""

from __future__ import annotations

import asyncio

import pytest

from magnetar.client import Client
from magnetar.errors import OperationTimeout
from magnetar.waiters import Waiters
from tests.broker.world import settle


async def test_a_wake_is_for_everybody_who_waits_by_then() -> None:
    waiters = Waiters()
    woken = [asyncio.create_task(waiters.wait()) for _ in range(3)]
    await settle()
    waiters.wake()
    late = asyncio.create_task(waiters.wait())
    await asyncio.gather(*woken)
    await settle()

    assert not late.done()
    waiters.wake()
    await late


async def test_who_gives_up_is_forgotten() -> None:
    waiters = Waiters()
    waiting = [asyncio.create_task(waiters.wait()) for _ in range(3)]
    await settle()
    waiting[0].cancel()
    await settle()

    assert len(waiters) == 2
    waiters.wake()
    await asyncio.gather(*waiting[1:])


@pytest.mark.parametrize("topics", ["t", ["t", "u"]])
async def test_looking_at_quiet_topics_again_and_again_keeps_nothing(
    client: Client, topics: str | list[str]
) -> None:
    consumer = await client.subscribe(topics, "s")
    for _ in range(5):
        with pytest.raises(OperationTimeout):
            await consumer.receive(0)

    waiters = getattr(consumer, "_merged", consumer)._receivers
    assert len(waiters) == 0
