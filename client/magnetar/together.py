"""Work that is done at the same time, and all of it ended before anybody goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, NoReturn

from magnetar.errors import MagnetarError


async def all_done(work: Iterable[Awaitable[None]]) -> None:
    """Wait for all of it, then raise the first error."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def until_one_fails(*work: Coroutine[Any, Any, NoReturn]) -> MagnetarError:
    """Answers with why it did; any other error than ours is raised."""
    tasks = [asyncio.get_running_loop().create_task(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    error = next(task.exception() for task in tasks if task in done)
    if isinstance(error, MagnetarError):
        return error
    assert error is not None
    raise error
