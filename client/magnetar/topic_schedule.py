"""What waits in a topic's schedule, for those who sent it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from magnetar.admin.schedule_values import ScheduleOutcome
from magnetar.connection import Connections
from magnetar.errors import InvalidArgument
from magnetar.scheduled_id import ScheduledId
from magnetar.send_options import due_ms

if TYPE_CHECKING:
    from magnetar.admin.schedule import Schedule


class TopicSchedule:
    """Cancels and moves what waits, through any broker; a partitioned topic has one for all."""

    def __init__(self, connections: Connections, topic: str) -> None:
        self._connections = connections
        self._topic = topic
        self._made: Schedule | None = None

    async def cancel(self, scheduled_id: ScheduledId) -> ScheduleOutcome:
        """See `Producer.cancel`."""
        return await self._calls.cancel(self._topic, scheduled_id)

    async def reschedule(
        self, scheduled_id: ScheduledId, deliver_at: int | None,
        deliver_after: timedelta | float | None,
    ) -> ScheduleOutcome:
        """See `Producer.reschedule`."""
        at_ms = due_ms(self._connections.clock, deliver_at, deliver_after)
        if at_ms is None:
            raise InvalidArgument("give deliver_at or deliver_after: when to deliver it instead")
        return await self._calls.move(self._topic, scheduled_id, at_ms)

    @property
    def _calls(self) -> Schedule:
        if self._made is None:
            from magnetar.admin.any_broker import AnyBroker
            from magnetar.admin.schedule import Schedule

            self._made = Schedule(AnyBroker(self._connections))
        return self._made
