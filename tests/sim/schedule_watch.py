"""I19: what was asked of a topic's schedule, and what the topic's log has of it.

Where a message stands in the order in which the schedule fires is read from the schedule's own
records as a broker sends them to the bookies, and how far that broker's clock was from the entries
that it fires. Only entries that are found in the log are judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.schedule.interface import ScheduleAnswer
from broker.schedule.records import BatchScheduled, Cancelled, Target, decode_schedule_record
from ledger.wire import AddRequest
from magnetar.entry import EntryView, ScheduleMark, SchedulePlace, parse_prefix
from metadata.topics import TopicRecord
from tests.sim.history import Place

MOST_VIOLATIONS = 20
NEVER = None
"""The due time of what was cancelled."""
BEHIND_A_RUN = "scheduled message changed that is in a run"

Name = tuple[str, int]
"""A message's producer and number."""


@dataclass(slots=True)
class Delayed:
    """One message, by what clients know of it."""

    name: Name
    due_ms: set[int | None]
    """When it may be due: one time, unless an answer is missing."""
    place: SchedulePlace | None = None
    """What names it, as its receipt said."""
    changed_s: float = 0.0
    """Since when it is certain that it waits for that time, or was cancelled."""
    changing: bool = False
    uncertain: bool = False
    """A request for it went unanswered: it may be done late, and is best not contradicted."""
    delivered_s: float | None = None
    unknown_s: float | None = None
    """When it was said that the schedule knows no such message."""


@dataclass(frozen=True, slots=True)
class Fired:
    """An entry of the log that the schedule made. `names` beside what names them there."""

    mark: ScheduleMark
    messages: list[tuple[Name, SchedulePlace | None]]


@dataclass(frozen=True, slots=True)
class Change:
    """What an operator asks for: these are to be due at another time, or never."""

    names: tuple[Name, ...]
    due_ms: int | None


@dataclass(slots=True)
class ScheduleWatch:
    """Over all owners of one topic."""

    counts: Counter[str]
    messages: dict[Name, Delayed] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    _marks: dict[SchedulePlace, list[tuple[int, ScheduleMark]]] = field(default_factory=dict)
    """By what names a message: the times asked for it, and where it stands for each."""
    _sent: dict[Place, tuple[float, int]] = field(default_factory=dict)
    """Entries of the log and the schedule: when they were sent first, by a clock that had shown
    this time at most."""
    _found: dict[Place, Fired | list[Name]] = field(default_factory=dict)
    """Entries that were read from the log: those of the schedule, and those of producers."""

    # --- what clients see

    def sent(self, name: Name, due_ms: int) -> None:
        self.messages[name] = Delayed(name, {due_ms})

    def stored(self, name: Name, place: SchedulePlace | None, now_s: float) -> None:
        """A receipt."""
        message = self.messages[name]
        message.place, message.changed_s = place, now_s

    def asked(self, change: Change) -> None:
        """It may be done from now on."""
        for name in change.names:
            message = self.messages[name]
            message.changing = True
            message.due_ms.add(change.due_ms)

    def unanswered(self, change: Change) -> None:
        for name in change.names:
            self.messages[name].uncertain = True

    def answered(
        self, change: Change, answers: Iterable[ScheduleAnswer], now_s: float, by_owner: bool
    ) -> None:
        """A broker that was replaced knows of no message that came in since."""
        for name, answer in zip(change.names, answers, strict=True):
            message = self.messages[name]
            message.changing, message.changed_s = False, now_s
            self.counts[f"schedule answered {answer.value}"] += 1
            match answer:
                case ScheduleAnswer.CANCELLED:
                    if NEVER not in message.due_ms:
                        self._tell(f"{name} was called cancelled, and nobody asked for that")
                    message.due_ms = {NEVER}
                case ScheduleAnswer.MOVED:
                    if change.due_ms is NEVER:
                        self._tell(f"{name} was called moved, and was to be cancelled")
                    message.due_ms = {change.due_ms}
                case ScheduleAnswer.DELIVERED:
                    if message.due_ms == {NEVER}:
                        self._tell(f"{name} was cancelled, and is called delivered")
                    message.due_ms = message.due_ms - {NEVER} or {NEVER}
                    message.delivered_s = now_s
                case ScheduleAnswer.UNKNOWN if by_owner:
                    message.unknown_s = now_s

    def listed(self, places: set[SchedulePlace], asked_s: float, clock_ms: int) -> None:
        """What waits, as the owner said while no owner's clock ever showed more than that."""
        for message in self.messages.values():
            if message.changing or message.changed_s >= asked_s or len(message.due_ms) > 1:
                continue
            (due_ms,) = message.due_ms
            if due_ms is NEVER and message.place in places:
                self._tell(f"{message.name} was cancelled, and listed at {asked_s}")
            elif due_ms is not NEVER and due_ms > clock_ms and message.place is not None and (
                message.place not in places
            ):
                self._tell(f"{message.name} waits, and was not listed at {asked_s}")

    def may_be_cancelled(self, name: Name) -> bool:
        message = self.messages.get(name)
        return message is not None and NEVER in message.due_ms

    # --- what crosses the wire

    def add_sent(
        self, record: TopicRecord, request: AddRequest, now_s: float, clock_ms: int
    ) -> None:
        """A broker, whose clock never showed more than that, sends an entry of any ledger."""
        spot = Place(request.ledger_id, request.entry_id)
        if request.recovery or spot in self._sent:
            return
        if request.ledger_id in record.schedule_ledgers:
            self._sent[spot] = now_s, clock_ms
            self._recorded(record, request)
        elif any(info.ledger_id == request.ledger_id for info in record.ledgers):
            self._sent[spot] = now_s, clock_ms

    def _recorded(self, topic: TopicRecord, request: AddRequest) -> None:
        record = decode_schedule_record(request.body)
        if isinstance(record, Cancelled):
            self._changed(topic, record.targets)
            return
        view, head = EntryView(record.batch), record.head
        if not isinstance(record, BatchScheduled):
            self._changed(topic, (record.target,))
        for index in range(view.count):
            place = SchedulePlace(request.ledger_id, request.entry_id, index)
            if not isinstance(record, BatchScheduled):
                place = record.target.place
            asked_ms = view.deliver_at_ms(index)
            mark = ScheduleMark(max(asked_ms, head.floor_ms), head.first_sequence + index)
            self._marks.setdefault(place, []).append((asked_ms, mark))

    def _changed(self, topic: TopicRecord, targets: Iterable[Target]) -> None:
        for target in targets:
            if target.mark.sequence < topic.schedule_covered_sequence:
                self.counts[BEHIND_A_RUN] += 1

    # --- what the log holds

    def read(self, place: Place, body: bytes) -> None:
        """An entry of the log, whoever read it."""
        if place in self._found:
            return
        prefix, batch = parse_prefix(body)
        view = EntryView(batch)
        names = [_name(view, index) for index in range(view.count)]
        if prefix.mark is None:
            self._found[place] = names
            return
        scheduled = [view.origin(index).scheduled for index in range(view.count)]
        self._found[place] = Fired(prefix.mark, list(zip(names, scheduled, strict=True)))

    def judge(self, acknowledged: Iterable[Name], delivered: set[Name]) -> list[str]:
        """What is wrong with all that was read from the log; `delivered` is what consumers got,
        also from ledgers that are deleted since."""
        where: dict[Name, Place] = {}
        before = ScheduleMark(-1, -1)
        for place, entry in sorted(self._found.items(), key=lambda found: found[0]):
            if isinstance(entry, Fired):
                before = self._judge_entry(place, entry, before)
                names = [name for name, _ in entry.messages]
            else:
                names = entry
                for name in names:
                    if name in self.messages:
                        self._tell(f"{name} at {place} was to be delayed, and was not")
            for name in names:
                if name in where:
                    self._tell(f"{name} was delivered at {where[name]} and at {place}")
                where[name] = place
        for name in acknowledged:
            if name in self.messages:
                self._judge_message(self.messages[name], where.get(name), name in delivered)
        self._judge_places(acknowledged)
        return self.violations

    def _judge_entry(self, place: Place, entry: Fired, before: ScheduleMark) -> ScheduleMark:
        _, clock_ms = self._sent[place]
        for name, scheduled in entry.messages:
            message = self.messages.get(name)
            if message is None or scheduled is None:
                self._tell(f"{name} at {place} was never scheduled")
                continue
            if message.place not in (None, scheduled):
                self._tell(f"{name}, scheduled as {message.place}, was delivered as {scheduled}")
            marks = [
                (asked_ms, mark) for asked_ms, mark in self._marks.get(scheduled, ())
                if before < mark <= entry.mark
            ]
            wanted = [mark for asked_ms, mark in marks if asked_ms in message.due_ms]
            if not marks:
                self._tell(f"{name} at {place} is out of order, behind {before}")
            elif not wanted:
                self._tell(f"{name} at {place} was delivered for {marks}, and was to be due at"
                           f" {message.due_ms}")
            else:
                before = min(wanted)
                if before.due_ms > clock_ms:
                    self._tell(f"{name} at {place} came at {clock_ms}, before {before.due_ms}")
        return max(before, entry.mark)

    def _judge_message(self, message: Delayed, place: Place | None, delivered: bool) -> None:
        name = message.name
        if not (delivered or place or NEVER in message.due_ms):
            self._tell(f"{name}, due at {message.due_ms}, is lost")
        if message.delivered_s is not None:
            if not (delivered or place):
                self._tell(f"{name} was called delivered, and is not in the log")
            elif place and self._sent[place][0] > message.delivered_s:
                self._tell(f"{name} was called delivered at {message.delivered_s}, and came later")
        if message.unknown_s is not None and place and self._sent[place][0] > message.unknown_s:
            self._tell(f"{name} was called unknown at {message.unknown_s}, and came later")

    def _judge_places(self, acknowledged: Iterable[Name]) -> None:
        """A producer's receipts follow the order of the schedule's records (I5)."""
        last: dict[str, tuple[SchedulePlace, int]] = {}
        for producer, number in acknowledged:
            message = self.messages.get((producer, number))
            if message is None or message.place is None:
                continue
            if (message.place, number) <= last.get(producer, (SchedulePlace(-1, -1, -1), -1)):
                self._tell(f"{producer}/{number} at {message.place} after {last[producer]}")
            last[producer] = message.place, number

    def _tell(self, violation: str) -> None:
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(f"I19 {violation}")


def _name(view: EntryView, index: int) -> Name:
    producer, number, _ = bytes(view.payload(index)).decode().split("/", 2)
    return producer, int(number)
