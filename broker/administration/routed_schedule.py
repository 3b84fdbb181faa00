"""Schedules of any topic, wherever it is served."""

from __future__ import annotations

from broker.administration.limits import PAGE_ITEMS
from broker.administration.routing import Routing
from magnetar.admin.schedule_values import ScheduledMessage, ScheduleOutcome, SchedulePage
from magnetar.errors import InvalidArgument
from magnetar.scheduled_id import ScheduledId
from magnetar.topic import TopicName

FIRST = SchedulePage(())


class RoutedSchedule:
    """See `ScheduleOperations`. A page of a partitioned topic is named PARTITION/PAGE."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing

    async def list(
        self, topic: str, *, from_ms: int = 0, until_ms: int = 0, page_size: int = 0,
        page: str = "",
    ) -> SchedulePage:
        names = await self._routing.names(topic)
        at, page = _parse_page(page, len(names)) if len(names) > 1 else (0, page)
        wanted = page_size or PAGE_ITEMS
        found: list[ScheduledMessage] = []
        while len(found) < wanted and at < len(names):
            (part,) = await self._routing.where_used(
                names[at].full, lambda owner, name: owner.schedule.list(
                    name, from_ms=from_ms, until_ms=until_ms,
                    page_size=wanted - len(found), page=page,  # noqa: B023
                ), lambda _: FIRST,
            )
            found += part.messages
            page = part.next_page
            at += not page
        if len(names) == 1:
            return SchedulePage(tuple(found), page)
        return SchedulePage(tuple(found), f"{at}/{page}" if at < len(names) else "")

    async def count(self, topic: str) -> int:
        return sum(await self._routing.where_used(
            topic, lambda owner, name: owner.schedule.count(name), lambda _: 0
        ))

    async def cancel(self, topic: str, scheduled_id: ScheduledId) -> ScheduleOutcome:
        name = await self._partition(topic, scheduled_id)
        return await self._routing.at_owner(
            name, lambda owner, full: owner.schedule.cancel(full, scheduled_id)
        )

    async def move(
        self, topic: str, scheduled_id: ScheduledId, deliver_at_ms: int
    ) -> ScheduleOutcome:
        name = await self._partition(topic, scheduled_id)
        return await self._routing.at_owner(
            name, lambda owner, full: owner.schedule.move(full, scheduled_id, deliver_at_ms)
        )

    async def _partition(self, topic: str, scheduled_id: ScheduledId) -> TopicName:
        for name in await self._routing.names(topic):
            if name.partition == scheduled_id.partition:
                return name
        raise InvalidArgument(f"{scheduled_id} is of no partition of {topic}")


def _parse_page(page: str, partitions: int) -> tuple[int, str]:
    if not page:
        return 0, ""
    at, separator, rest = page.partition("/")
    if not (separator and at.isascii() and at.isdigit() and int(at) < partitions):
        raise InvalidArgument(f"{page!r} is no page; give one that an answer came with")
    return int(at), rest
