"""The command line with partitioned topics, lists and patterns, against a real broker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from tests.client.partitioned import Place, place


@pytest.fixture
async def here() -> AsyncIterator[Place]:
    async with place() as made:
        yield made


async def magnetar(here: Place, *arguments: str, given: str = "") -> list[str]:
    """What the command printed; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "magnetar", *arguments, "--url", here.broker.url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE)
    out, errors = await process.communicate(given.encode())
    assert process.returncode == 0, errors.decode()
    return out.decode().splitlines()


async def test_lines_go_through_a_partitioned_topic_and_a_named_run_is_stored_once(
    here: Place,
) -> None:
    await here.create("many", 4)
    lines = [str(number) for number in range(1_000)]
    for _ in range(2):
        await magnetar(here, "produce", "many", "-f", "-", "--name", "run",
                       given="\n".join(lines) + "\n")

    printed = await magnetar(here, "consume", "many", "-s", "s", "--wait-ms", "500")

    assert sorted(printed, key=int) == lines
    loaded = {topic.name for topic in here.broker.node.broker.registry.all()}
    assert len([name for name in loaded if "many-partition-" in name]) == 4


async def test_a_key_keeps_the_lines_together(here: Place) -> None:
    topic = await here.create("keyed", 4)
    await magnetar(here, "produce", "keyed", "-f", "-", "--key", "k", given="1\n2\n3\n")

    stored = await here.client.admin.topics.stats(topic.full)
    assert sorted(one.messages for one in stored.partitions) == [0, 0, 0, 3]


async def test_lines_are_delivered_later(here: Place) -> None:
    await magnetar(here, "produce", "later", "-m", "soon", "--deliver", "100ms")
    await magnetar(here, "produce", "later", "-m", "far", "--deliver", "2100-01-31T09:30+00:00")

    assert await magnetar(here, "consume", "later", "-s", "s", "-n", "1") == ["soon"]
    [waiting] = (await here.client.admin.schedule.list("later")).messages
    assert waiting.deliver_at_ms == 4_105_071_000_000


async def test_several_topics_and_patterns_are_consumed(here: Place) -> None:
    for topic in ("orders-eu", "orders-us", "zebras"):
        await magnetar(here, "produce", topic, "-m", f"of {topic}")

    matching = await magnetar(
        here, "consume", "--pattern", "public/default/orders-.*", "-s", "p", "-n", "2")
    listed = await magnetar(here, "consume", "orders-eu", "zebras", "-s", "l", "-n", "2")

    assert sorted(matching) == ["of orders-eu", "of orders-us"]
    assert sorted(listed) == ["of orders-eu", "of zebras"]


async def test_a_pattern_that_cannot_be_used_is_one_clear_line(here: Place) -> None:
    for arguments in (("--pattern", "("), ("orders", "--pattern", "x"), ()):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "magnetar", "consume", *arguments, "-s", "s",
            "--url", here.broker.url, stderr=asyncio.subprocess.PIPE)
        _, errors = await process.communicate()
        assert process.returncode == 1
        assert errors.decode().count("\n") == 1
        assert "InvalidArgument" in errors.decode()
