"""How times and durations are typed."""

from __future__ import annotations

import re
import time
from datetime import datetime

from magnetar.errors import InvalidArgument

POINT = "a time (2026-01-31T09:30, or milliseconds since 1970)"
WHEN = f"{POINT}, or so far ahead (30m, 2h, 7d)"
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d)", re.ASCII)


def is_duration(text: str) -> bool:
    """Whether `milliseconds` reads it, with its unit."""
    return _DURATION.fullmatch(text) is not None


def milliseconds(text: str) -> int:
    """Of a duration such as 500ms, 90s, 30m, 2h or 7d, ms by itself; raises InvalidArgument."""
    if text.isascii() and text.isdigit():
        return int(text)
    found = _DURATION.fullmatch(text)
    if found is None:
        raise InvalidArgument(f"write a duration as 500ms, 90s, 30m, 2h or 7d, not {text!r}")
    number, unit = int(found[1]), found[2]
    return number if unit == "ms" else number * _SECONDS[unit] * 1000


def due_ms(text: str) -> int:
    """A point in time, or so long from now; raises InvalidArgument."""
    if is_duration(text):
        return time.time_ns() // 1_000_000 + milliseconds(text)
    return time_ms(text, WHEN)


def time_ms(text: str, meant: str = POINT) -> int:
    """Milliseconds since 1970 of a point in time; raises InvalidArgument, which says what is
    `meant`."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise InvalidArgument(f"write {meant}; not {text!r}") from None
