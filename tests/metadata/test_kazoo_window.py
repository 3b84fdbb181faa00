"""The window through which requests reach kazoo."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from metadata.kazoo_window import MAX_OUTSTANDING, KazooWindow


class FakeKazoo:
    """Takes requests, answers them when told to."""

    def __init__(self) -> None:
        self.window = KazooWindow(asyncio.get_running_loop())
        self.begun: list[str] = []
        self.answers: list[tuple[str, BaseException | None]] = []
        self._links: list[Callable[[Any], None]] = []
        self.value, self.exception = None, None

    def submit(self, name: str, **options: Any) -> None:
        def begin() -> FakeKazoo:
            self.begun.append(name)
            return self

        def settle(value: Any, error: BaseException | None) -> None:
            self.answers.append((name, error))

        self.window.submit(begin, settle, **options)

    def rawlink(self, callback: Callable[[Any], None]) -> None:
        self._links.append(callback)

    async def answer(self, count: int) -> None:
        for link in self._links[:count]:
            link(self)
        del self._links[:count]
        await asyncio.sleep(0)


async def test_only_a_window_of_requests_is_outstanding_and_order_is_kept() -> None:
    kazoo = FakeKazoo()
    names = [str(n) for n in range(3 * MAX_OUTSTANDING)]
    kazoo.window.open()
    for name in names:
        kazoo.submit(name)
    assert kazoo.begun == names[:MAX_OUTSTANDING]

    await kazoo.answer(10)
    assert kazoo.begun == names[: MAX_OUTSTANDING + 10]

    for _ in range(3):
        await kazoo.answer(MAX_OUTSTANDING)
    assert [name for name, _ in kazoo.answers] == names


async def test_background_requests_give_way_but_do_not_starve() -> None:
    kazoo = FakeKazoo()
    for n in range(4):
        kazoo.submit(f"background-{n}", in_background=True)
    for n in range(6):
        kazoo.submit(f"call-{n}")

    kazoo.window.open()

    assert kazoo.begun == [
        "call-0", "call-1", "call-2", "background-0",
        "call-3", "call-4", "call-5", "background-1",
        "background-2", "background-3",
    ]  # fmt: skip


async def test_a_pause_keeps_calls_and_forgets_background_requests() -> None:
    kazoo = FakeKazoo()
    kazoo.window.open()
    kazoo.window.pause()
    kazoo.submit("call")
    kazoo.submit("unwanted", is_wanted=lambda: False)
    kazoo.submit("background", in_background=True)
    kazoo.window.pause()
    assert kazoo.begun == []

    kazoo.window.open()

    assert kazoo.begun == ["call"]


async def test_a_failure_settles_what_waits() -> None:
    kazoo, error = FakeKazoo(), RuntimeError("of a test")
    kazoo.submit("one")
    kazoo.submit("two")

    kazoo.window.fail(lambda: error)
    kazoo.window.open()

    assert kazoo.answers == [("one", error), ("two", error)]
    assert kazoo.begun == []
