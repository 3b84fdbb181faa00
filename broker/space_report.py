"""Why the space of a topic is not freed: for each of its ledgers, what holds it.

The rules are those of `broker.retention`; a ledger that nothing holds goes with the next round of
maintenance.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest

from broker.retention import retained_until_ms
from broker.topic import Topic
from ledger.position import Position
from magnetar.ids import EntryId, LedgerId
from metadata.topics import LedgerInfo
from tenants.policies import UNLIMITED

SHOWN_SUBSCRIPTIONS = 100
"""That hold one ledger; those furthest behind are named."""


class LedgerUse(Enum):
    """What a ledger of a topic is for."""

    MESSAGES = "messages"
    STATE = "subscriptions, producers and the schedule's progress"
    SCHEDULE = "messages that wait for their time"
    DELETED = "deleted, but the metadata have not confirmed it yet"


class Hold(Enum):
    """Why a ledger is still there; the value is told in words."""

    OPEN = "it is being written"
    UNCONSUMED = "a subscription has not consumed it"
    NO_SUBSCRIPTION = "no subscription has come to consume it"
    OLDER_LEDGER = "ledgers go from the oldest on, and an older one is held"
    RETENTION_TIME = "retention keeps it for some time"
    RETENTION_FOR_EVER = "retention keeps it for ever"
    CHECKPOINT = "the last durable checkpoint lies before its end"
    IN_USE = "the topic needs it"
    DUE = "nothing: it goes with the next round of maintenance"


@dataclass(frozen=True, slots=True)
class Holder:
    """One reason. `subscription` and `position`, the first ordinal it has not, of UNCONSUMED;
    `until_ms` of RETENTION_TIME, by the wall clock."""

    hold: Hold
    text: str
    subscription: str = ""
    ordinal: int = 0
    until_ms: int = 0


@dataclass(frozen=True, slots=True)
class LedgerSpace:
    """One ledger; `size_bytes` is of one copy, 0 while unknown. `entries` -1: not counted."""

    ledger_id: LedgerId
    use: LedgerUse
    entries: int
    size_bytes: int
    first_ordinal: int
    last_append_ms: int
    held_by: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class SpaceReport:
    """All ledgers of a topic, those of messages oldest first."""

    topic: str
    ledgers: tuple[LedgerSpace, ...]

    @property
    def size_bytes(self) -> int:
        """One copy of everything whose size is known."""
        return sum(one.size_bytes for one in self.ledgers)


async def space_report(topic: Topic) -> SpaceReport:
    """What holds each ledger now. Raises what reading raises, NotOwner once the topic closes."""
    topic.refuse_if_closing()
    return SpaceReport(
        topic.name, (*await _messages(topic), *_state(topic), *_schedule(topic), *_doomed(topic))
    )


async def _messages(topic: Topic) -> list[LedgerSpace]:
    log = topic.log
    found: list[LedgerSpace] = []
    consumed = topic.retention.consumed_ordinal()
    deletable = [] if consumed is None else await topic.retention.deletable(consumed)
    kept = {info.ledger_id for info in deletable[topic.retention.gone(deletable):]}
    consumed_ids = {info.ledger_id for info in deletable}
    ledgers = log.log.record.ledgers
    for info, following in zip_longest(ledgers, ledgers[1:]):
        if info is None:
            break
        first = await log.first_ordinal_of(info.ledger_id)
        end = None if following is None else await log.first_ordinal_of(following.ledger_id)
        holders = [*_subscriptions(topic, log.end_ordinal if end is None else end)]
        if not info.closed_ms:
            holders.insert(0, Holder(Hold.OPEN, Hold.OPEN.value))
        if not holders and info.ledger_id in kept:
            holders.append(_retention(topic, info))
        if not holders and info.ledger_id not in consumed_ids:
            holders.append(Holder(Hold.OLDER_LEDGER, Hold.OLDER_LEDGER.value))
        last = Position(info.ledger_id, EntryId(info.entries - 1))
        if info.closed_ms and last > topic.state.checkpoint_position:
            holders.append(Holder(Hold.CHECKPOINT, Hold.CHECKPOINT.value))
        if not holders:
            holders.append(Holder(Hold.DUE, Hold.DUE.value))
        found.append(LedgerSpace(
            info.ledger_id, LedgerUse.MESSAGES, log.log.entries_of(info), log.log.bytes_of(info),
            0 if first is None else first, info.last_append_ms, tuple(holders),
        ))
    return found


def _subscriptions(topic: Topic, end: int) -> list[Holder]:
    """Who has not all messages below `end`; the furthest behind first."""
    durable = [*topic.durable_subscriptions()]
    if not durable:
        if topic.policies.retention_minutes or topic.quota.evicted_below >= end:
            return []
        return [Holder(Hold.NO_SUBSCRIPTION, Hold.NO_SUBSCRIPTION.value)]
    behind = sorted(
        (one.durable_floor, one.name) for one in durable if one.durable_floor < end
    )
    return [
        Holder(
            Hold.UNCONSUMED, f"subscription {name!r} has consumed all before message {floor}",
            name, floor,
        )
        for floor, name in behind[:SHOWN_SUBSCRIPTIONS]
    ]


def _retention(topic: Topic, info: LedgerInfo) -> Holder:
    policies = topic.policies
    if policies.retention_minutes == UNLIMITED:
        limit = policies.retention_bytes
        text = "retention keeps it for ever" if limit == UNLIMITED else (
            f"retention keeps the newest {limit} bytes"
        )
        return Holder(Hold.RETENTION_FOR_EVER, text)
    return Holder(
        Hold.RETENTION_TIME,
        f"retention keeps it for {policies.retention_minutes} minutes from its newest message on",
        until_ms=int(retained_until_ms(info, policies)),
    )


def _state(topic: Topic) -> list[LedgerSpace]:
    ledgers = topic.log.log.record.state_ledgers
    in_use = (Holder(Hold.IN_USE, Hold.IN_USE.value),)
    return [
        LedgerSpace(
            ledger_id, LedgerUse.STATE, -1,
            topic.log.log.state.size_bytes if ledger_id == ledgers[-1] else 0, 0, 0, in_use,
        )
        for ledger_id in ledgers
    ]


def _schedule(topic: Topic) -> list[LedgerSpace]:
    record, in_use = topic.log.log.record, (Holder(Hold.IN_USE, Hold.IN_USE.value),)
    plain = [
        LedgerSpace(ledger_id, LedgerUse.SCHEDULE, -1, 0, 0, 0, in_use)
        for ledger_id in record.schedule_ledgers
    ]
    runs = [
        LedgerSpace(run.ledger_id, LedgerUse.SCHEDULE, run.entries, run.size_bytes, 0, 0, in_use)
        for run in record.schedule_runs
    ]
    return plain + runs


def _doomed(topic: Topic) -> list[LedgerSpace]:
    due = (Holder(Hold.DUE, Hold.DUE.value),)
    return [
        LedgerSpace(ledger_id, LedgerUse.DELETED, -1, 0, 0, 0, due)
        for ledger_id in topic.log.log.doomed_ledgers
    ]
