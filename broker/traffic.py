"""Counts messages and bytes, and tells how many of them came in the last minute.

Counting is two additions. Someone takes a sample from time to time; a rate is the difference to
the oldest sample that is not older than the window, so it costs nothing until it is asked for.
"""

from __future__ import annotations

from collections import deque

from magnetar.admin.topic_values import Traffic

WINDOW_S = 60.0
SAMPLES = 64
"""Samples kept at most: with one every `maintenance_interval_s`, far more than a window has."""


class TrafficCounter:
    """`now_s` is on the monotonic clock."""

    __slots__ = ("_samples", "bytes", "messages")

    def __init__(self, now_s: float) -> None:
        self.messages = 0
        self.bytes = 0
        self._samples: deque[tuple[float, int, int]] = deque([(now_s, 0, 0)], SAMPLES)

    def count(self, messages: int, size_bytes: int) -> None:
        """So many more."""
        self.messages += messages
        self.bytes += size_bytes

    def sample(self, now_s: float) -> None:
        """Remember where the counters stand."""
        samples = self._samples
        samples.append((now_s, self.messages, self.bytes))
        while len(samples) > 1 and samples[1][0] <= now_s - WINDOW_S:
            samples.popleft()

    def read(self, now_s: float) -> Traffic:
        """The counters, and their growth a second over the last minute."""
        then_s, messages, size_bytes = self._samples[0]
        for sample in self._samples:
            then_s, messages, size_bytes = sample
            if then_s > now_s - WINDOW_S:
                break
        elapsed_s = max(now_s - then_s, 1.0)
        return Traffic(
            self.messages, self.bytes, (self.messages - messages) / elapsed_s,
            (self.bytes - size_bytes) / elapsed_s,
        )
