"""One event loop a process: start, say so, wait for a signal, stop in order."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final

import uvloop

from magnetar.errors import InvalidArgument

SWITCH_INTERVAL_S: Final = 0.0002
"""How long a thread may hold the interpreter: at Python's default of 5 ms a log thread that has
just synced waits that long behind a busy loop before it can acknowledge."""

GC_THRESHOLDS: Final = (50_000, 20, 20)
EXIT_FATAL: Final = 70

Part = Callable[[], AbstractAsyncContextManager[str]]
"""What to serve: entering starts it and gives the line that announces it; leaving stops it."""


async def _serve(part: Part) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopped.set)
    async with AsyncExitStack() as stack:
        try:
            announcement = await stack.enter_async_context(part())
        except OSError as error:
            # A port that is taken, a folder that is not ours: the operator's to mend, in words.
            raise InvalidArgument(f"cannot start: {error}") from error
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        gc.enable()
        print(announcement, file=sys.stderr, flush=True)
        await stopped.wait()


def run(part: Part) -> None:
    """Serve until SIGTERM or SIGINT."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvloop.run(_serve(part))


def end_process(reason: BaseException) -> None:
    """End at once, without clean-up: what follows a failed sync must not run."""
    print(f"magnetar: fatal: {reason}", file=sys.stderr, flush=True)
    os._exit(EXIT_FATAL)
