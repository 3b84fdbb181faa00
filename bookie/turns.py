"""Long walks that let the loop in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """The same items, with the loop let in every so often: there may be a great many."""
    for number, item in enumerate(items, 1):
        yield item
        if number % 256 == 0:
            await asyncio.sleep(0)
