"""How long a failed message waits before it is delivered again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from magnetar.errors import InvalidArgument

LONGEST_DELAY_MS = (1 << 32) - 1
"""What the protocol can say; 49 days."""

Delay = timedelta | float
"""A timedelta, or seconds."""


@dataclass(frozen=True, slots=True)
class RedeliveryBackoff:
    """`first_delay_s` after the first failure, each further one times `multiplier`, at most
    `most_delay_s`. Raises InvalidArgument."""

    first_delay_s: float = 1.0
    most_delay_s: float = 60.0
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.first_delay_s <= self.most_delay_s or self.multiplier < 1:
            raise InvalidArgument(
                "a back-off has 0 <= first_delay_s <= most_delay_s and a multiplier of 1 or more")
        delay_ms_of(self.most_delay_s)

    def delay_ms(self, redelivery_count: int) -> int:
        """After a delivery that had been preceded by so many others."""
        delay_s, left = self.first_delay_s, redelivery_count
        while left > 0 and delay_s < self.most_delay_s and self.multiplier > 1:
            delay_s, left = delay_s * self.multiplier, left - 1
        return delay_ms_of(min(delay_s, self.most_delay_s))


@dataclass(frozen=True, slots=True)
class ListedDelays:
    """One after the other, then the last again and again."""

    delays_ms: tuple[int, ...]

    def delay_ms(self, redelivery_count: int) -> int:
        """See RedeliveryBackoff."""
        return self.delays_ms[min(redelivery_count, len(self.delays_ms) - 1)]


Backoffs = RedeliveryBackoff | ListedDelays


def backoff_of(given: RedeliveryBackoff | Sequence[Delay] | None, flat_ms: int) -> Backoffs:
    """From what a user gave; None is `flat_ms` every time. Raises InvalidArgument."""
    if isinstance(given, RedeliveryBackoff):
        return given
    if given is None:
        return ListedDelays((delay_ms_of(flat_ms / 1000),))
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise InvalidArgument("redelivery_backoff is a RedeliveryBackoff or a list of delays")
    return ListedDelays(tuple(map(delay_ms_of, given)))


def delay_ms_of(delay: Delay) -> int:
    """In milliseconds; raises InvalidArgument outside of what the protocol can say."""
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidArgument(f"a delay is a timedelta or seconds, not {delay!r}")
    if not 0 <= seconds * 1000 <= LONGEST_DELAY_MS:
        raise InvalidArgument(f"a delay is between 0 and 49 days, not {delay!r}")
    return round(seconds * 1000)
