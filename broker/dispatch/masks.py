"""Bitmaps over the messages of an entry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

from magnetar.entry import indexes_of

SPARSE = 16
"""With fewer ones than a bit in so many, they are found one by one."""


def ones(mask: int) -> Sequence[int]:
    """Where a bitmap has ones, growing."""
    count, length = mask.bit_count(), mask.bit_length()
    if count == length:
        return range(count)
    if count * SPARSE > length:
        return indexes_of(mask)
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def in_order(masks: Iterable[int]) -> list[tuple[int, int]]:
    """The messages of all masks, which share none, in their order: (place of the mask, which of
    its messages), a mask cut wherever another one's message comes between."""
    heap = [(mask & -mask, place, mask) for place, mask in enumerate(masks) if mask]
    heapify(heap)
    runs = []
    while heap:
        _, place, mask = heappop(heap)
        run = mask & (heap[0][0] - 1) if heap else mask
        runs.append((place, run))
        if rest := mask ^ run:
            heappush(heap, (rest & -rest, place, rest))
    return runs
