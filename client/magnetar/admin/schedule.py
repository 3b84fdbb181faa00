"""Messages to be delivered later."""

from __future__ import annotations

from magnetar.admin.codec import id_message, read
from magnetar.admin.schedule_values import ScheduleOutcome, SchedulePage
from magnetar.admin.topics import MAX_INT64, count, full
from magnetar.admin.transport import Transport, ask
from magnetar.errors import InvalidArgument
from magnetar.message_id import MessageId
from magnetar.scheduled_id import ScheduledId
from magnetar.wire import admin_pb2 as pb

OUTCOME = "OUTCOME_"
"""Before the names of the wire's enum."""


class Schedule:
    """`client.admin.schedule`. Every call raises TopicNotFound."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(
        self, topic: str, *, from_ms: int = 0, until_ms: int = 0, page_size: int = 0,
        page: str = "",
    ) -> SchedulePage:
        """Messages that wait, by time, those due from `from_ms` on and before `until_ms` (0: no
        end), `page_size` at a time (0: as the broker likes). `page` is the `next_page` of the
        answer before."""
        request = pb.ListScheduledRequest(
            topic=full(topic), page_size=count(page_size, "page_size"), page=page,
            from_ms=count(from_ms, "from_ms", MAX_INT64),
            until_ms=count(until_ms, "until_ms", MAX_INT64),
        )
        return read(
            SchedulePage, await ask(self._transport, "ListScheduled", request,
                                    pb.ListScheduledReply)
        )

    async def count(self, topic: str) -> int:
        """How many messages wait."""
        request = pb.TopicRequest(topic=full(topic))
        return (await ask(self._transport, "CountScheduled", request, pb.CountReply)).count

    async def cancel(self, topic: str, scheduled_id: ScheduledId) -> ScheduleOutcome:
        """Do not deliver it. CANCELLED, DELIVERED (too late) or UNKNOWN."""
        request = pb.CancelScheduledRequest(
            topic=full(topic), scheduled_id=id_message(_checked(scheduled_id))
        )
        return _outcome(
            await ask(self._transport, "CancelScheduled", request, pb.ScheduleOutcomeReply)
        )

    async def move(
        self, topic: str, scheduled_id: ScheduledId, deliver_at_ms: int
    ) -> ScheduleOutcome:
        """Deliver it at that time instead. MOVED, DELIVERED (too late), CANCELLED (before) or
        UNKNOWN."""
        request = pb.MoveScheduledRequest(
            topic=full(topic), scheduled_id=id_message(_checked(scheduled_id)),
            deliver_at_ms=count(deliver_at_ms, "deliver_at_ms", MAX_INT64),
        )
        return _outcome(
            await ask(self._transport, "MoveScheduled", request, pb.ScheduleOutcomeReply)
        )


def _checked(scheduled_id: object) -> ScheduledId:
    """Raises InvalidArgument for what can name no message that waits."""
    if isinstance(scheduled_id, MessageId):
        raise InvalidArgument(f"{scheduled_id} is in the topic already: only what was sent with"
                              " deliver_at or deliver_after, and has a ScheduledId, can wait")
    if not isinstance(scheduled_id, ScheduledId):
        raise InvalidArgument(f"give a ScheduledId, not {scheduled_id!r}")
    if scheduled_id.entry_id < 0:
        raise InvalidArgument(f"{scheduled_id} says only that the message was scheduled before;"
                              " the schedule's list has its id")
    return scheduled_id


def _outcome(reply: pb.ScheduleOutcomeReply) -> ScheduleOutcome:
    try:
        name = pb.ScheduleOutcome.Name(reply.outcome)
        return ScheduleOutcome(name.removeprefix(OUTCOME).lower())
    except ValueError:
        raise InvalidArgument(f"the broker answers {reply.outcome}, which is no outcome") from None
