"""Bitmaps over the messages of an entry."""

from __future__ import annotations

from collections.abc import Sequence

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
