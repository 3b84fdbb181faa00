"""The one background loop, and how other threads wait for what runs in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from magnetar.errors import InvalidArgument

Result = TypeVar("Result")


class LoopThread:
    """The one background loop, started by the first client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = _new_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="magnetar", daemon=True)
                self._thread.start()
            return self._loop

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run in the loop and wait; an interrupt of the caller cancels the work."""
        if threading.current_thread() is self._thread:
            work.close()
            raise InvalidArgument("a callback may not block the thread that runs it")
        future = asyncio.run_coroutine_threadsafe(work, self.loop())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


THREAD = LoopThread()
