"""A message of a schedule, in whatever entry it lies."""

from __future__ import annotations

from typing import NamedTuple

from magnetar.entry import EntryView, SchedulePlace


class Due(NamedTuple):
    """`place`: what names it; None: the entry says so itself, in its provenance."""

    view: EntryView
    batch_index: int
    place: SchedulePlace | None

    @property
    def name(self) -> SchedulePlace:
        """What names it."""
        if self.place is not None:
            return self.place
        scheduled = self.view.origin(self.batch_index).scheduled
        assert scheduled is not None, "an entry of a run names its messages"
        return scheduled
