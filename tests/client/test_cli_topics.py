"""The command line with partitioned topics, lists and patterns, against a real broker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from magnetar.entry import Codec
from tests.client.partitioned import PATIENCE_MS, Place, place


@pytest.fixture
async def here() -> AsyncIterator[Place]:
    async with place() as made:
        yield made


async def magnetar(here: Place, *arguments: str, given: str = "") -> list[str]:
    """What the command printed; it must succeed."""
    status, out, errors = await ran(here, *arguments, given=given)
    assert status == 0, errors
    return out.splitlines()


async def refused(here: Place, *arguments: str) -> str:
    """The one line that the command failed with; it printed nothing else."""
    status, out, errors = await ran(here, *arguments)
    assert (status, out, errors.count("\n")) == (1, "", 1), errors
    return errors


async def ran(here: Place, *arguments: str, given: str = "") -> tuple[int | None, str, str]:
    """Exit status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "magnetar", *arguments, "--url", here.broker.url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE)
    out, errors = await process.communicate(given.encode())
    return process.returncode, out.decode(), errors.decode()


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


async def test_what_is_said_of_lines_goes_with_them(here: Place) -> None:
    await here.create("said", 2)
    await magnetar(here, "produce", "said", "-f", "-", "--ordering-key", "driver-7",
                   "--event-time", "2026-01-31T09:30+00:00", "--compression", "zstd",
                   given="long line " * 100 + "\nshort\n")

    reader = await here.client.create_reader("said")
    messages = [await reader.read_next(PATIENCE_MS) for _ in range(2)]

    assert sorted(len(message.data) for message in messages) == [5, 1_000]
    assert {message.entry.view.header.codec for message in messages} == {Codec.ZSTD}
    for message in messages:
        assert message.ordering_key == "driver-7"
        assert message.event_timestamp == 1_769_851_800_000


async def test_an_event_time_is_a_point_in_time(here: Place) -> None:
    error = await refused(here, "produce", "said", "-m", "x", "--event-time", "30m")

    assert "write a time (2026-01-31T09:30, or milliseconds since 1970); not '30m'" in error


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
        error = await refused(here, "consume", *arguments, "-s", "s")
        assert "InvalidArgument" in error
