"""What is remembered of messages that were cancelled or moved, for those who ask of them later."""

from __future__ import annotations

from typing import Final

from magnetar.entry import ScheduleMark, SchedulePlace

MAX_ENTRIES: Final = 100_000
"""Records of the schedule of which cancellations are remembered, and moves of single messages."""


class History:
    """Bitmaps of the cancelled, by the record they came in, and the last marks of the moved.

    Kept as long as those records' ledgers are, within the limit; what is forgotten earlier is
    known to be, so that nobody gets an answer that may be wrong.
    """

    def __init__(self) -> None:
        self._cancelled: dict[tuple[int, int], int] = {}
        self._moved: dict[SchedulePlace, ScheduleMark] = {}
        self._forgotten: tuple[int, int] = (-1, -1)

    def cancelled(self, place: SchedulePlace) -> None:
        """It is not going to be delivered."""
        self._moved.pop(place, None)
        key = place.ledger_id, place.entry_id
        self._cancelled[key] = self._cancelled.get(key, 0) | 1 << place.batch_index
        if len(self._cancelled) > MAX_ENTRIES:
            oldest = next(iter(self._cancelled))
            del self._cancelled[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def moved(self, place: SchedulePlace, mark: ScheduleMark) -> None:
        """It waits under this mark now."""
        self._moved.pop(place, None)
        self._moved[place] = mark
        if len(self._moved) > MAX_ENTRIES:
            oldest = next(iter(self._moved))
            del self._moved[oldest]
            self._forgotten = max(self._forgotten, (oldest.ledger_id, oldest.entry_id))

    def was_cancelled(self, place: SchedulePlace) -> bool:
        bits = self._cancelled.get((place.ledger_id, place.entry_id), 0)
        return place.batch_index >= 0 and bool(bits >> place.batch_index & 1)

    def moved_to(self, place: SchedulePlace) -> ScheduleMark | None:
        return self._moved.get(place)

    def may_have_forgotten(self, place: SchedulePlace) -> bool:
        """What happened to it may have been forgotten."""
        return (place.ledger_id, place.entry_id) <= self._forgotten

    def forget_before(self, ledger_id: int) -> None:
        """Records of older ledgers are deleted."""
        for key in [key for key in self._cancelled if key[0] < ledger_id]:
            del self._cancelled[key]
        for place in [place for place in self._moved if place.ledger_id < ledger_id]:
            del self._moved[place]
