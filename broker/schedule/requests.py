"""Cancelling, moving and listing what waits in a schedule; the answers are exact.

An answer goes out when it is durable: CANCELLED and MOVED with their record in the schedule,
DELIVERED with the entry in the log, so that no later owner can make it untrue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from broker.schedule.core import Due, Known, State
from broker.schedule.interface import ScheduleAnswer, ScheduledMessage, SchedulePage
from broker.schedule.records import (
    TARGETS_A_RECORD,
    BatchScheduled,
    Target,
    decode_schedule_record,
)
from ledger.position import Position
from magnetar.entry import EntryView, ScheduleMark, SchedulePlace, gather
from magnetar.errors import InvalidArgument
from magnetar.ids import EntryId, LedgerId

if TYPE_CHECKING:
    from broker.schedule.schedule import Schedule

TIME_MAX_MS: Final = 2**63 - 1
PAGE_MAX: Final = 10_000
"""Messages of one page, whatever was asked for."""


class Requests:
    """What may be asked of one topic's schedule; see ScheduleAdministration."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    async def cancel(self, places: Sequence[SchedulePlace]) -> list[ScheduleAnswer]:
        """See ScheduleAdministration.cancel."""
        answers: dict[SchedulePlace, ScheduleAnswer] = {}
        left = list(dict.fromkeys(places))
        while left:
            self._schedule.refuse_if_closing()
            targets = [
                Target(known.mark, place) for place in left
                if (known := self._schedule.core.look_up(place)) is not None
                and known.state is State.WAITING
            ]
            if targets:
                await asyncio.gather(*(
                    self._schedule.record_cancelled(tuple(targets[at:at + TARGETS_A_RECORD]))
                    for at in range(0, len(targets), TARGETS_A_RECORD)
                ))
                answers.update((target.place, ScheduleAnswer.CANCELLED) for target in targets)
            for place in left:
                if place not in answers:
                    answer = await self._settled(place)
                    if answer is not None:
                        answers[place] = answer
            left = [place for place in left if place not in answers]
        return [answers[place] for place in places]

    async def move(self, place: SchedulePlace, deliver_at_ms: int) -> ScheduleAnswer:
        """See ScheduleAdministration.move."""
        if not 0 < deliver_at_ms <= TIME_MAX_MS:
            raise InvalidArgument(f"{deliver_at_ms} is no time in milliseconds since the epoch")
        while True:
            self._schedule.refuse_if_closing()
            known = self._schedule.core.look_up(place)
            if known is None or known.state is not State.WAITING:
                answer = await self._settled(place)
                if answer is not None:
                    return answer
                continue
            message = self._schedule.core.message(place)
            assert message is not None, "what waits is there"
            batch = gather(
                [(message.view, message.batch_index)], [place], deliver_at_ms=[deliver_at_ms]
            )
            await self._schedule.record_moved(Target(known.mark, place), batch, deliver_at_ms)
            return ScheduleAnswer.MOVED

    async def _settled(self, place: SchedulePlace) -> ScheduleAnswer | None:
        """What is certain of a message that does not wait; None: it may wait now, look again."""
        known = self._schedule.core.look_up(place)
        if known is None:
            known = await self._read(place)
            if known is None:
                return ScheduleAnswer.UNKNOWN
        match known.state:
            case State.CANCELLED:
                return ScheduleAnswer.CANCELLED
            case State.HANDED:
                while self._schedule.fired < known.mark:
                    await self._schedule.until_something_is_stored()
                return ScheduleAnswer.DELIVERED
            case State.CHANGING:
                await self._schedule.until_something_is_stored()
        return None

    async def _read(self, place: SchedulePlace) -> Known | None:
        """One that the core does not know: it left the schedule, or it never was there."""
        core = self._schedule.core
        if not (0 < place.ledger_id <= TIME_MAX_MS and 0 <= place.entry_id <= TIME_MAX_MS):
            return None
        body = await self._schedule.entry_at(
            Position(LedgerId(place.ledger_id), EntryId(place.entry_id))
        )
        known = core.look_up(place)
        if known is not None or body is None or core.may_have_forgotten(place):
            return known
        record = decode_schedule_record(body)
        if not isinstance(record, BatchScheduled):
            return None
        view = EntryView(record.batch, verify=False)
        if not 0 <= place.batch_index < view.count:
            return None
        due_ms = max(view.deliver_at_ms(place.batch_index), record.head.floor_ms)
        mark = ScheduleMark(due_ms, record.head.first_sequence + place.batch_index)
        return Known(State.HANDED, mark)

    async def list(
        self, *, from_ms: int = 0, until_ms: int | None = None, limit: int = 100,
        cursor: str = "",
    ) -> SchedulePage:
        """See ScheduleAdministration.list."""
        if limit < 1:
            raise InvalidArgument(f"a page of {limit} messages; ask for at least one")
        limit = min(limit, PAGE_MAX)
        self._schedule.refuse_if_closing()
        after = max(ScheduleMark(from_ms, -1), _parse_cursor(cursor))
        found = self._schedule.core.waiting(after, limit + 1)
        if until_ms is not None:
            found = list(takewhile(lambda one: one[0].due_ms < until_ms, found))
        more = len(found) > limit
        page = found[:limit]
        return SchedulePage(
            tuple(_described(mark, due) for mark, due in page),
            _cursor_at(page[-1][0]) if more else "",
        )


def _described(mark: ScheduleMark, due: Due) -> ScheduledMessage:
    view, index = due.view, due.batch_index
    origin = view.origin(index)
    return ScheduledMessage(
        due.place, mark.due_ms, origin.producer_name, origin.sequence_id,
        origin.publish_time_ms, len(view.payload(index)), view.key(index),
    )


def _cursor_at(mark: ScheduleMark) -> str:
    return f"{mark.due_ms}.{mark.sequence}"


def _parse_cursor(cursor: str) -> ScheduleMark:
    if not cursor:
        return ScheduleMark(-1, -1)
    due_ms, point, sequence = cursor.partition(".")
    if not (point and cursor.isascii() and due_ms.isdigit() and sequence.isdigit()):
        raise InvalidArgument(f"{cursor!r} is no cursor; give one that a page came with")
    return ScheduleMark(int(due_ms), int(sequence))
