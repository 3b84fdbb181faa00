"""Handing requests to kazoo without ever blocking the event loop.

kazoo wakes its thread with a byte through a socket pair that holds some hundred bytes and then
blocks the caller. So only a window of requests is given to it at a time; the others wait here,
in order, and each gets its answer in the event loop. Background requests (watches armed anew
after a reconnect, possibly many thousand) give way to calls, three to one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

MAX_OUTSTANDING: Final = 100
CALLS_PER_BACKGROUND: Final = 3

Settle = Callable[[Any, BaseException | None], None]
"""Called once, in the event loop, with the answer or what failed."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    begin: Callable[[], Any]
    settle: Settle
    is_wanted: Callable[[], bool]


def _always() -> bool:
    return True


class KazooWindow:
    """Two queues and a count; used from the event loop only, but for `to_loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[_Waiting] = deque()
        self._background: deque[_Waiting] = deque()
        self._outstanding = 0
        self._calls_in_a_row = 0
        self._open = False

    def to_loop(self, callback: Callable[..., None], *args: Any) -> None:
        """From any thread; nothing is left to tell once the loop is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def submit(
        self,
        begin: Callable[[], Any],
        settle: Settle,
        *,
        is_wanted: Callable[[], bool] = _always,
        in_background: bool = False,
    ) -> None:
        """`begin` starts a kazoo request and answers its result object. A request that is no
        longer wanted when its turn comes is dropped unsent and unsettled."""
        queue = self._background if in_background else self._calls
        queue.append(_Waiting(begin, settle, is_wanted))
        self._pump()

    def send_now(self, begin: Callable[[], Any], settle: Settle) -> None:
        """Past the queues: for heartbeats, one at a time."""
        self._send(_Waiting(begin, settle, _always))

    def open(self) -> None:
        """The session is connected."""
        self._open = True
        self._pump()

    def pause(self) -> None:
        """Keep calls until the session is connected again, and forget background requests."""
        self._open = False
        self._background.clear()

    def fail(self, make_error: Callable[[], BaseException]) -> None:
        """Settle all that waits with an error, unsent."""
        self._background.clear()
        waiting, self._calls = self._calls, deque()
        for one in waiting:
            one.settle(None, make_error())

    def _pump(self) -> None:
        while self._open and self._outstanding < MAX_OUTSTANDING:
            waiting = self._next()
            if waiting is None:
                return
            if waiting.is_wanted():
                self._send(waiting)

    def _next(self) -> _Waiting | None:
        turn_of_background = not self._calls or self._calls_in_a_row >= CALLS_PER_BACKGROUND
        if self._background and turn_of_background:
            self._calls_in_a_row = 0
            return self._background.popleft()
        self._calls_in_a_row += 1
        return self._calls.popleft() if self._calls else None

    def _send(self, waiting: _Waiting) -> None:
        def answered(result: Any) -> None:
            self._outstanding -= 1
            waiting.settle(result.value, result.exception)
            self._pump()

        self._outstanding += 1
        waiting.begin().rawlink(lambda result: self.to_loop(answered, result))
