"""One thing tried again and again."""

from __future__ import annotations

from random import Random
from typing import Final

from magnetar.backoff import Backoff
from magnetar.errors import MagnetarError, OperationTimeout
from magnetar.runtime.clock import Clock

NO_TIME_S: Final = 0.01
"""An attempt that ran out of time with less than this left was cut short by the deadline."""


class Attempts:
    """Until `deadline_s` on the monotonic clock; None: for ever."""

    def __init__(self, clock: Clock, random: Random, deadline_s: float | None) -> None:
        self._clock = clock
        self._backoff = Backoff(random)
        self._failure: MagnetarError | None = None
        self.deadline_s = deadline_s

    @property
    def left_s(self) -> float | None:
        """Until the deadline; None: there is none."""
        return None if self.deadline_s is None else self.deadline_s - self._clock.monotonic_s()

    def limit_s(self, most_s: float) -> float:
        """For one attempt, which may take `most_s`."""
        left_s = self.left_s
        return most_s if left_s is None else max(min(most_s, left_s), 0.001)

    async def failed(self, failure: MagnetarError, *, again_at_once: bool = False) -> None:
        """Wait before the next attempt; raises why the last one failed, or the one before if
        the deadline cut the last short, when there is no time for another."""
        left_s = self.left_s
        if (
            left_s is not None and left_s < NO_TIME_S and isinstance(failure, OperationTimeout)
            and self._failure is not None
        ):
            raise self._failure from failure
        self._failure = failure
        wait_s = 0.0 if again_at_once else self._backoff.next_s()
        if left_s is not None and left_s <= wait_s:
            raise failure
        await self._clock.sleep(wait_s)
