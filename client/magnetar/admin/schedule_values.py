"""What administration answers with about messages to be delivered later.

Field names are those of the messages in `proto/admin.proto`, which `codec` relies on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from magnetar.scheduled_id import ScheduledId


class ScheduleOutcome(Enum):
    """What became of a message that was to be cancelled or moved. Each is certain."""

    CANCELLED = "cancelled"
    """It was not delivered, and will not be: cancelled now, or before."""
    MOVED = "moved"
    """It waits, for the new time only."""
    DELIVERED = "delivered"
    """It is in the topic already."""
    UNKNOWN = "unknown"
    """There is no such message, or it was delivered or cancelled long ago."""


@dataclass(frozen=True, slots=True)
class ScheduledMessage:
    """One that waits. Times in milliseconds since the epoch."""

    scheduled_id: ScheduledId
    deliver_at_ms: int
    producer_name: str
    sequence_id: int
    publish_timestamp: int
    data_bytes: int
    key: str | None = None


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """Some scheduled messages, by time, of a partitioned topic partition by partition. An empty
    `next_page` says that there are no more."""

    messages: tuple[ScheduledMessage, ...]
    next_page: str = ""
