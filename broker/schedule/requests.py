"""Cancelling, moving and listing what waits in a schedule; the answers are exact.

An answer goes out when it is durable: CANCELLED and MOVED with their record in the schedule,
DELIVERED with the entry in the log, so that no later owner can make it untrue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from broker.schedule.core import Known, State
from broker.schedule.due import Due
from broker.schedule.interface import ScheduleAnswer, ScheduledMessage, SchedulePage
from broker.schedule.records import (
    TARGETS_A_RECORD,
    BatchScheduled,
    Target,
    decode_schedule_record,
)
from broker.schedule.runs.blocks import Fate
from ledger.position import Position
from magnetar.entry import EntryView, ScheduleMark, SchedulePlace, gather
from magnetar.errors import InvalidArgument
from magnetar.ids import EntryId, LedgerId

if TYPE_CHECKING:
    from broker.schedule.schedule import Schedule

TIME_MAX_MS: Final = 2**63 - 1
PAGE_MAX: Final = 10_000
"""Messages of one page, whatever was asked for."""

_Elsewhere = ScheduleMark | Known | None


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
            in_runs = {
                place: await self._mark_elsewhere(place) for place in left
                if self._schedule.core.look_up(place) is None
            }
            targets: list[Target] = []
            others: dict[SchedulePlace, Known | None] = {}
            for place in left:  # without a wait from here on, until they are recorded
                known = self._look_up(place, in_runs.get(place))
                if known is None and place not in in_runs:
                    continue  # it went from memory to a run meanwhile: look there
                if known is not None and known.state is State.WAITING:
                    targets.append(Target(known.mark, place))
                else:
                    others[place] = known
            await asyncio.gather(*(
                self._schedule.record_cancelled(tuple(targets[at:at + TARGETS_A_RECORD]))
                for at in range(0, len(targets), TARGETS_A_RECORD)
            ))
            answers.update((target.place, ScheduleAnswer.CANCELLED) for target in targets)
            for place, known in others.items():
                answer = await self._settled(place, known)
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
            elsewhere = await self._mark_elsewhere(place)
            known = self._look_up(place, elsewhere)
            if known is None or known.state is not State.WAITING:
                answer = await self._settled(place, known)
                if answer is not None:
                    return answer
                continue
            message = self._schedule.core.message(place)
            if message is None:
                message = await self._schedule.message_in_runs(known.mark)
                if message is None or self._look_up(place, elsewhere) != known:
                    continue  # it changed while it was read
            batch = gather(
                [(message.view, message.batch_index)], [place], deliver_at_ms=[deliver_at_ms]
            )
            await self._schedule.record_moved(Target(known.mark, place), batch, deliver_at_ms)
            return ScheduleAnswer.MOVED

    async def _settled(
        self, place: SchedulePlace, known: Known | None
    ) -> ScheduleAnswer | None:
        """What is certain of a message that does not wait; None: it may wait now, look again."""
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
                if self._schedule.core.is_changing(place):  # it was when it was looked up
                    await self._schedule.until_something_is_stored()
        return None

    def _look_up(self, place: SchedulePlace, elsewhere: _Elsewhere) -> Known | None:
        if isinstance(elsewhere, Known):
            return self._schedule.core.look_up(place) or elsewhere
        return self._schedule.core.look_up(place, elsewhere)

    async def _mark_elsewhere(self, place: SchedulePlace) -> _Elsewhere:
        """What is known of one that memory does not know: its mark in the runs, or what became
        of it, or nothing."""
        if self._schedule.core.look_up(place) is not None:
            return None
        if not (0 <= place.ledger_id <= TIME_MAX_MS and 0 <= place.entry_id <= TIME_MAX_MS):
            return None
        name = await self._schedule.name_in_runs(place)
        if name is not None:
            cancelled = name.fate is Fate.CANCELLED
            return Known(State.CANCELLED, name.mark) if cancelled else name.mark
        return await self._in_ledgers(place)

    async def _in_ledgers(self, place: SchedulePlace) -> Known | None:
        """One that is not in the schedule any more, or never was there."""
        core = self._schedule.core
        body = await self._schedule.entry_at(
            Position(LedgerId(place.ledger_id), EntryId(place.entry_id))
        )
        if body is None:
            return None
        record = decode_schedule_record(body)
        if not isinstance(record, BatchScheduled):
            return None
        view = EntryView(record.batch, verify=False)
        if not 0 <= place.batch_index < view.count:
            return None
        due_ms = max(view.deliver_at_ms(place.batch_index), record.head.floor_ms)
        mark = ScheduleMark(due_ms, record.head.first_sequence + place.batch_index)
        return Known(State.HANDED, mark) if mark <= core.handed else None

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
        found = await self._schedule.waiting(after, limit + 1, _described)
        if until_ms is not None:
            found = list(takewhile(lambda one: one[0].due_ms < until_ms, found))
        page = found[:limit]
        return SchedulePage(
            tuple(message for _, message in page),
            _cursor_at(page[-1][0]) if len(found) > limit else "",
        )


def _described(mark: ScheduleMark, due: Due) -> ScheduledMessage:
    view, index = due.view, due.batch_index
    origin = view.origin(index)
    return ScheduledMessage(
        due.name, mark.due_ms, origin.producer_name, origin.sequence_id,
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
