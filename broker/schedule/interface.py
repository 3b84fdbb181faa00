"""What may be asked of a topic's schedule: by operators, by the SDK, by tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from magnetar.entry import SchedulePlace


class ScheduleAnswer(Enum):
    """What became of a message that was to be cancelled or moved. Each but the last is certain."""

    CANCELLED = "cancelled"
    """It was not delivered, and will not be: cancelled now, or before."""
    MOVED = "moved"
    """It waits, for the new time only."""
    DELIVERED = "delivered"
    """It is in the topic's log already."""
    UNKNOWN = "unknown"
    """No such message is known here: there never was one, or it is so long ago that it was
    delivered or cancelled that its ledger is deleted. The only answer that does not bind later
    owners: a broker that was replaced and has not heard of it knows nothing of what came since."""


@dataclass(frozen=True, slots=True)
class ScheduledMessage:
    """One that waits. Times in milliseconds since the epoch."""

    place: SchedulePlace
    deliver_at_ms: int
    producer_name: str
    sequence_id: int
    publish_time_ms: int
    size_bytes: int
    key: str | None


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """Messages in the order of delivery; `cursor` continues behind them, empty: no more."""

    messages: tuple[ScheduledMessage, ...]
    cursor: str


class ScheduleAdministration(Protocol):
    """A loaded topic's schedule. Every method may raise NotOwner once the topic is closing."""

    @property
    def count(self) -> int:
        """Messages that wait; kept, not counted."""

    @property
    def next_due_ms(self) -> int | None:
        """When the first of them is due; None: none waits."""

    async def cancel(self, places: Sequence[SchedulePlace]) -> list[ScheduleAnswer]:
        """Do not deliver these. Answers once that is durable: CANCELLED, DELIVERED, UNKNOWN."""

    async def move(self, place: SchedulePlace, deliver_at_ms: int) -> ScheduleAnswer:
        """Deliver it at that time instead. Answers once that is durable: MOVED, DELIVERED,
        CANCELLED (before), UNKNOWN. Raises InvalidArgument for what is no time."""

    async def list(
        self, *, from_ms: int = 0, until_ms: int | None = None, limit: int = 100,
        cursor: str = "",
    ) -> SchedulePage:
        """Those due from `from_ms` on, before `until_ms`, at most `limit`; a `cursor` goes on
        where a page ended. Raises InvalidArgument for a cursor that is none."""
