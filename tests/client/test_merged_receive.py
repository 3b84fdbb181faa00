"""The turns of several links: fairness, errors and ends, without any I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from magnetar.errors import (
    AlreadyClosed,
    ConsumerBusy,
    EndOfTopic,
    InvalidArgument,
    InvalidFrame,
    MagnetarError,
    OperationTimeout,
)
from magnetar.merged_receive import TURN_MESSAGES, MergedReceive
from tests.broker.world import settle


class ScriptedLink:
    """Gives what it was told to."""

    def __init__(self, name: str) -> None:
        self.topic = name
        self.on_ready: Callable[[], None] | None = None
        self.messages: deque[Any] = deque()
        self.trouble: MagnetarError | None = None
        self.once = False
        self.full_at = 1_000

    def give(self, count: int, size: int = 1) -> None:
        view = SimpleNamespace(message_bytes=lambda _index: size)
        self.messages += [
            SimpleNamespace(topic=self.topic, index=0, entry=SimpleNamespace(view=view))
            for _ in range(count)
        ]
        if self.on_ready is not None:
            self.on_ready()

    def fail(self, error: MagnetarError, *, once: bool = False) -> None:
        self.trouble, self.once = error, once
        if self.on_ready is not None:
            self.on_ready()

    @property
    def ready_messages(self) -> int:
        return len(self.messages)

    @property
    def ready_bytes(self) -> int:
        return sum(one.entry.view.message_bytes(0) for one in self.messages)

    @property
    def queue_full(self) -> bool:
        return len(self.messages) >= self.full_at

    def take(self, most: int, most_bytes: int | None, *, at_least_one: bool) -> list[Any]:
        found: list[Any] = []
        while self.messages and len(found) < most:
            size = self.messages[0].entry.view.message_bytes(0)
            if most_bytes is not None:
                if size > most_bytes and (found or not at_least_one):
                    break
                most_bytes -= size
            found.append(self.messages.popleft())
        if not found and not self.messages and self.trouble is not None:
            error = self.trouble
            if self.once:
                self.trouble = None
            raise error
        return found


class Merged:
    """Links in turns, and what was passed on of their trouble."""

    def __init__(self, *names: str) -> None:
        self.removed: list[str] = []
        self.queue: MergedReceive[Any] = MergedReceive(self._trouble)
        self.links = {name: ScriptedLink(name) for name in names}
        for link in self.links.values():
            self.queue.add(link)

    def _trouble(self, link: Any, error: MagnetarError) -> MagnetarError | None:
        if not isinstance(error, InvalidFrame):
            self.queue.remove(link)
            self.removed.append(link.topic)
        return None if isinstance(error, AlreadyClosed) else error

    async def topics(self, count: int) -> list[str]:
        return [(await self.queue.receive(1_000)).topic for _ in range(count)]  # type: ignore[attr-defined]


async def test_a_turn_is_a_few_messages() -> None:
    merged = Merged("a", "b", "c")
    merged.links["a"].give(1_000)
    merged.links["b"].give(1_000)
    merged.links["c"].give(1)

    topics = await merged.topics(3 * TURN_MESSAGES + 1)

    assert topics == [
        *["a"] * TURN_MESSAGES, *["b"] * TURN_MESSAGES, "c", *["a"] * TURN_MESSAGES
    ]


async def test_many_at_once_are_taken_in_turns_too() -> None:
    merged = Merged("a", "b")
    merged.links["a"].give(1_000)
    merged.links["b"].give(10)

    found = await merged.queue.receive_many(100, 1_000, None)

    assert [one.topic for one in found] == [  # type: ignore[attr-defined]
        *["a"] * TURN_MESSAGES, *["b"] * 10, *["a"] * (90 - TURN_MESSAGES)
    ]


async def test_a_limit_in_bytes_lets_one_through_and_no_more() -> None:
    merged = Merged("a", "b")
    merged.links["a"].give(3, size=10)
    merged.links["b"].give(3, size=10)

    sizes = [len(await merged.queue.receive_many(100, 1_000, most)) for most in (5, 25, 100)]

    assert sizes == [1, 2, 3]
    for wrong in ((0, None), (1, 0)):
        with pytest.raises(InvalidArgument):
            await merged.queue.receive_many(wrong[0], 1, wrong[1])


async def test_who_waits_gets_what_comes_and_a_timeout_if_nothing_does() -> None:
    merged = Merged("a")
    with pytest.raises(OperationTimeout, match="within 1 ms"):
        await merged.queue.receive(1)
    waiting = asyncio.create_task(merged.queue.receive(None))
    await settle()

    merged.links["a"].give(1)

    assert (await waiting).topic == "a"  # type: ignore[attr-defined]


async def test_cancelling_loses_nothing() -> None:
    merged = Merged("a")
    waiting = asyncio.create_task(merged.queue.receive(None))
    await settle()
    merged.links["a"].give(1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert await merged.topics(1) == ["a"]


async def test_an_error_is_told_once_and_the_others_go_on() -> None:
    merged = Merged("a", "b")
    merged.links["a"].fail(ConsumerBusy("a has another"))
    merged.links["b"].give(2)

    with pytest.raises(ConsumerBusy, match="a has another"):
        await merged.queue.receive(1_000)

    assert (merged.removed, await merged.topics(2)) == (["a"], ["b", "b"])


async def test_an_error_does_not_cost_messages_taken_before_it() -> None:
    merged = Merged("a", "b")
    merged.links["a"].give(2)
    merged.links["b"].fail(InvalidFrame("b is damaged"), once=True)

    assert len(await merged.queue.receive_many(10, 1_000, None)) == 2
    with pytest.raises(InvalidFrame):
        await merged.queue.receive(1_000)
    merged.links["b"].give(1)
    assert await merged.topics(1) == ["b"]


async def test_an_error_that_nobody_is_to_see_ends_the_link_only() -> None:
    merged = Merged("a", "b")
    merged.links["a"].fail(AlreadyClosed("gone"))
    merged.links["b"].give(1)

    assert (await merged.topics(1), merged.removed) == (["b"], ["a"])


async def test_the_end_comes_when_all_are_at_their_end() -> None:
    merged = Merged("a", "b")
    merged.links["a"].give(1)
    merged.links["a"].fail(EndOfTopic("a ended"))
    assert await merged.topics(1) == ["a"]
    with pytest.raises(OperationTimeout):
        await merged.queue.receive(1)

    merged.links["b"].fail(EndOfTopic("b ended"))
    for _ in range(2):
        with pytest.raises(EndOfTopic, match="all topics"):
            await merged.queue.receive(1_000)

    # A seek back brings messages again.
    merged.links["a"].trouble = None
    with pytest.raises(OperationTimeout):
        await merged.queue.receive(1)
    merged.links["a"].give(1)
    assert await merged.topics(1) == ["a"]


async def test_what_is_reported_comes_before_the_end() -> None:
    merged = Merged("a")
    waiting = asyncio.create_task(merged.queue.receive(None))
    await settle()
    merged.queue.report(ConsumerBusy("later"))
    with pytest.raises(ConsumerBusy, match="later"):
        await waiting
    merged.links["a"].give(1)

    merged.queue.finish(AlreadyClosed("closed"))

    assert await merged.topics(1) == ["a"]
    for _ in range(2):
        with pytest.raises(AlreadyClosed):
            await merged.queue.receive(1_000)


async def test_a_removed_link_leaves_the_line() -> None:
    merged = Merged("a", "b")
    merged.links["a"].give(5)
    merged.links["b"].give(5)
    await merged.topics(1)

    merged.queue.remove(merged.links["a"])

    assert await merged.topics(5) == ["b"] * 5
    assert merged.links["a"].on_ready is None


@pytest.mark.parametrize("why", ["count", "bytes", "full", "error", "end"])
async def test_waiting_for_enough(why: str) -> None:
    merged = Merged("a", "b")
    waiting = asyncio.create_task(merged.queue.until_enough(5_000, 10, 100))
    merged.links["a"].give(5)
    merged.links["b"].give(4)
    await settle()
    assert not waiting.done()

    match why:
        case "count":
            merged.links["b"].give(1)
        case "bytes":
            merged.links["b"].give(1, size=100)
        case "full":
            merged.links["b"].full_at = 4
            merged.links["b"].give(0)
        case "error":
            merged.links["b"].fail(ConsumerBusy("no"))
        case "end":
            merged.links["a"].fail(EndOfTopic("a"))
            await settle()
            assert not waiting.done()
            merged.links["b"].fail(EndOfTopic("b"))

    await waiting
    assert len(merged.queue.take(100, None)) >= 9
