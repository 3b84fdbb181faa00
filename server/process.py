"""One event loop a process: start, wait for a signal, stop in order."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import uvloop

SWITCH_INTERVAL_S = 0.0002
"""How long a thread may hold the interpreter: at Python's default of 5 ms a log thread that has
just synced waits that long behind a busy loop before it can acknowledge."""

GC_THRESHOLDS = (50_000, 20, 20)
STOP_LIMIT_S = 30.0

Part = Callable[[], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def stopping_in_time(stop: Callable[[], object], limit_s: float) -> AsyncIterator[None]:
    """Run the body, then await `stop()`, giving up after `limit_s`."""
    try:
        yield
    finally:
        async with asyncio.timeout(limit_s):
            await stop()  # type: ignore[misc]


async def _serve(part: Part, ready: Callable[[], None]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopped.set)
    async with part():
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        ready()
        await stopped.wait()


def run(part: Part, announcement: str) -> None:
    """Serve until SIGTERM or SIGINT; print `announcement` on stderr when ready."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvloop.run(_serve(part, lambda: print(announcement, file=sys.stderr, flush=True)))


def end_process(reason: BaseException) -> None:
    """End at once, without clean-up: what follows a failed sync must not run."""
    print(f"magnetar: fatal: {reason}", file=sys.stderr, flush=True)
    os._exit(70)
