"""How much memory all schedules of a broker take together, and whose turn it is to give some."""

from __future__ import annotations

import logging
from typing import Protocol

from magnetar.runtime.clock import Clock

NOTICE_PAUSE_S = 60.0
"""That producers are held back is logged at most so often."""

_log = logging.getLogger(__name__)


class MemoryUser(Protocol):
    """One topic's schedule."""

    @property
    def memory_bytes(self) -> int:
        """Of what waits in memory."""

    @property
    def is_reducing(self) -> bool:
        """It writes what waited in memory to a run, or cannot."""

    def reduce(self) -> None:
        """Write what waits in memory to a run, soon."""

    def room_again(self) -> None:
        """Producers that wait may go on."""


class ScheduleMemory:
    """Above the limit the schedule with most in memory writes it to a run; above twice the limit
    producers of delayed messages are held back until that is done."""

    def __init__(self, limit_bytes: int, clock: Clock) -> None:
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._told_s: float | None = None
        self._users: dict[MemoryUser, int] = {}
        self._reducing: dict[MemoryUser, int] = {}
        """What will be free soon, of each that is at it."""
        self.used_bytes = 0

    @property
    def full(self) -> bool:
        """More than may be waits in memory."""
        return self.used_bytes > 2 * self._limit_bytes

    @property
    def held_topics(self) -> int:
        """Those whose producers are held back."""
        return len(self._users) if self.full else 0

    def changed(self, user: MemoryUser) -> None:
        """The user takes more or less than it did, or is done with reducing it."""
        self._set(user, user.memory_bytes)
        if not user.is_reducing:
            self._reducing.pop(user, None)
        if self.used_bytes - sum(self._reducing.values()) > self._limit_bytes:
            self._reduce()

    def _reduce(self) -> None:
        others = {
            user: size_bytes for user, size_bytes in self._users.items()
            if user not in self._reducing
        }
        if others:
            largest = max(others, key=others.__getitem__)
            self._reducing[largest] = others[largest]
            largest.reduce()

    def left(self, user: MemoryUser) -> None:
        """The user is gone."""
        self._reducing.pop(user, None)
        self._set(user, 0)

    def _set(self, user: MemoryUser, size_bytes: int) -> None:
        was_full = self.full
        self.used_bytes += size_bytes - self._users.pop(user, 0)
        if size_bytes:
            self._users[user] = size_bytes
        if self.full and not was_full:
            self._tell()
        if was_full and not self.full:
            for one in (user, *self._users):
                one.room_again()
        elif was_full and not size_bytes:
            user.room_again()  # it is held back no more, and not among those who are told later

    def _tell(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._told_s is None or now_s - self._told_s >= NOTICE_PAUSE_S:
            self._told_s = now_s
            _log.warning(
                "producers of delayed messages are held back until runs of these are written: %d"
                " bytes wait in memory, more than twice schedule_memory_bytes (%d)",
                self.used_bytes, self._limit_bytes,
            )
