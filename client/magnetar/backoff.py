"""Waiting times between attempts."""

from __future__ import annotations

from random import Random


class Backoff:
    """Doubles from `first_s` to `most_s`; each wait is drawn from the upper half."""

    def __init__(self, random: Random, first_s: float = 0.05, most_s: float = 1.0) -> None:
        self._random = random
        self._first_s = self._next_s = first_s
        self._most_s = most_s

    def next_s(self) -> float:
        """Seconds to wait before the next attempt."""
        current = self._next_s
        self._next_s = min(current * 2, self._most_s)
        return current * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin again; for after a success."""
        self._next_s = self._first_s
