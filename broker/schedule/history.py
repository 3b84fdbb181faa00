"""What is remembered of messages that were cancelled or moved, for those who ask of them later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from magnetar.entry import ScheduleMark, SchedulePlace

REMEMBERED: Final = 100_000
"""Changes kept in memory that a run has as well."""
FRESH_BYTES: Final = 250
"""Of one change in memory."""


Record = tuple[int, int]


class History:
    """The last mark of each message that was moved, None of one that was cancelled.

    Nothing is forgotten before a run has it, unless nobody could be misled: `fresh` is what no
    run has yet, with the records that say so, oldest first.
    """

    def __init__(self) -> None:
        self._changes: dict[SchedulePlace, ScheduleMark | None] = {}
        self._fresh: dict[SchedulePlace, Record] = {}

    def cancelled(self, place: SchedulePlace, record: Record) -> None:
        """It is not going to be delivered."""
        self._change(place, None, record)

    def moved(self, place: SchedulePlace, mark: ScheduleMark, record: Record) -> None:
        """It waits under this mark now."""
        self._change(place, mark, record)

    def _change(
        self, place: SchedulePlace, mark: ScheduleMark | None, record: Record
    ) -> None:
        self._changes.pop(place, None)
        self._changes[place] = mark
        self._fresh.pop(place, None)
        self._fresh[place] = record

    def was_cancelled(self, place: SchedulePlace) -> bool:
        return self._changes.get(place, _UNCHANGED) is None

    def moved_to(self, place: SchedulePlace) -> ScheduleMark | None:
        return self._changes.get(place)

    @property
    def size_bytes(self) -> int:
        """Of what no run has yet."""
        return FRESH_BYTES * len(self._fresh)

    def oldest(self, is_needed: Callable[[SchedulePlace], bool]) -> Record | None:
        """The oldest record that says what no run has, and somebody needs; None: none."""
        for place, record in self._fresh.items():
            if is_needed(place):
                return record
        return None

    def take_fresh(
        self, is_needed: Callable[[SchedulePlace], bool]
    ) -> list[tuple[SchedulePlace, ScheduleMark | None]]:
        """What no run has yet, in order, for the next one; what nobody could be misled about is
        left out. All of it may be forgotten once that run counts: see `written`."""
        return [
            (place, self._changes[place]) for place in sorted(self._fresh) if is_needed(place)
        ]

    def written(self, changes: list[tuple[SchedulePlace, ScheduleMark | None]]) -> None:
        """A run has these, as they were when they were taken."""
        for place, mark in changes:
            if self._changes.get(place, _UNCHANGED) == mark:
                self._fresh.pop(place, None)

    def forget(self, is_needed: Callable[[SchedulePlace], bool]) -> None:
        """Let go of what nobody could be misled about, and of what runs have, above a limit."""
        for place in [place for place in self._fresh if not is_needed(place)]:
            del self._fresh[place]
            self._changes.pop(place, None)
        surplus = len(self._changes) - len(self._fresh) - REMEMBERED
        if surplus > 0:
            old = [place for place in self._changes if place not in self._fresh]
            for place in old[:surplus]:
                del self._changes[place]


_UNCHANGED: Final = ScheduleMark(-2, -2)
