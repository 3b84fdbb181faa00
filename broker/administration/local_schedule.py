"""The schedules of the topics that this broker serves."""

from __future__ import annotations

from broker.administration.limits import PAGE_ITEMS, PAGE_ITEMS_MAX
from broker.broker import Broker
from broker.schedule.interface import ScheduledMessage as Waiting
from magnetar.admin.schedule_values import ScheduledMessage, ScheduleOutcome, SchedulePage
from magnetar.entry import SchedulePlace
from magnetar.errors import InvalidArgument
from magnetar.scheduled_id import ScheduledId
from magnetar.topic import TopicName


class LocalSchedule:
    """Messages to be delivered later, of one topic or partition."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def list(
        self, topic: str, *, from_ms: int = 0, until_ms: int = 0, page_size: int = 0,
        page: str = "",
    ) -> SchedulePage:
        if not 0 <= page_size <= PAGE_ITEMS_MAX:
            raise InvalidArgument(f"page_size is from 1 to {PAGE_ITEMS_MAX}")
        found = await (await self._broker.existing_topic(topic)).schedule.list(
            from_ms=from_ms, until_ms=until_ms or None, limit=page_size or PAGE_ITEMS, cursor=page
        )
        partition = TopicName.parse(topic).partition
        return SchedulePage(
            tuple(_shown(one, partition) for one in found.messages), found.cursor
        )

    async def count(self, topic: str) -> int:
        return (await self._broker.existing_topic(topic)).schedule.count

    async def cancel(self, topic: str, scheduled_id: ScheduledId) -> ScheduleOutcome:
        place = _place(topic, scheduled_id)
        found = await self._broker.existing_topic(topic)
        (answer,) = await found.schedule.cancel([place])
        return ScheduleOutcome(answer.value)

    async def move(
        self, topic: str, scheduled_id: ScheduledId, deliver_at_ms: int
    ) -> ScheduleOutcome:
        place = _place(topic, scheduled_id)
        found = await self._broker.existing_topic(topic)
        return ScheduleOutcome((await found.schedule.move(place, deliver_at_ms)).value)


def _place(topic: str, scheduled_id: ScheduledId) -> SchedulePlace:
    name = TopicName.parse(topic)
    if scheduled_id.partition != name.partition:
        raise InvalidArgument(f"{scheduled_id} is not of {name.full}")
    return SchedulePlace(
        scheduled_id.ledger_id, scheduled_id.entry_id, scheduled_id.batch_index
    )


def _shown(one: Waiting, partition: int) -> ScheduledMessage:
    place = one.place
    return ScheduledMessage(
        ScheduledId(partition, place.ledger_id, place.entry_id, place.batch_index),
        one.deliver_at_ms, one.producer_name, one.sequence_id, one.publish_time_ms,
        one.size_bytes, one.key,
    )
