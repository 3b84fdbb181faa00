"""Topic records: owner, ledgers and state ledgers, all under one compare-and-set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from magnetar.errors import InvalidArgument, InvalidFrame
from magnetar.ids import BrokerId, LedgerId
from metadata import paths
from metadata.records import Json, RecordReader, encode_record
from metadata.scheduled_topics import ScheduledTopics
from metadata.store import Cancel, MetadataStore, child_names
from metadata.topic_nodes import TopicNodes, TopicVersion

NO_LEDGER_ID: Final = LedgerId(-1)
"""`last_ledger_id` of a topic that never had a ledger."""
BUCKETS_AT_ONCE: Final = 16
"""Buckets of topics listed at the same time."""

NOTHING_COVERED = (-1, -1)


@dataclass(frozen=True, slots=True)
class Owner:
    """Which life of which broker owns the topic; `epoch` grows with every change of owner."""

    broker_id: BrokerId
    incarnation: str
    epoch: int


@dataclass(frozen=True, slots=True)
class LedgerInfo:
    """One ledger of the chain. `entries` is -1 while unknown (open or not yet recovered)."""

    ledger_id: LedgerId
    entries: int = -1
    size_bytes: int = 0
    first_ordinal: int = 0
    closed_ms: int = 0
    last_append_ms: int = 0


@dataclass(frozen=True, slots=True)
class ScheduleRun:
    """Scheduled messages sorted by due time, in a closed ledger of their own. `entries` is -1
    while it is being written: whoever finds it so throws it away."""

    ledger_id: LedgerId
    entries: int = -1
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TopicRecord:
    """A topic's managed log. `last_ledger_id` is the highest ever taken, so that no ledger at or
    below it is accepted again; `next_ordinal` follows the last closed ledger;
    `trimmed_ledgers` counts the ledgers deleted so far, `doomed_ledgers` are those among them that
    may still be there. A topic that is `deleting` is not there any more: whoever finds it finishes
    that.
    The schedule's ledgers hold what comes in; what stands in them up to the entry
    `schedule_covered` (ledger, entry) is in the runs, as are all messages numbered below
    `schedule_covered_sequence`."""

    name: str
    owner: Owner | None = None
    ledgers: tuple[LedgerInfo, ...] = ()
    state_ledgers: tuple[LedgerId, ...] = ()
    last_ledger_id: LedgerId = NO_LEDGER_ID
    next_ordinal: int = 0
    created_ms: int = 0
    trimmed_ledgers: int = 0
    terminated: bool = False
    properties: tuple[tuple[str, str], ...] = ()
    deleting: bool = False
    doomed_ledgers: tuple[LedgerId, ...] = ()
    schedule_ledgers: tuple[LedgerId, ...] = ()
    schedule_runs: tuple[ScheduleRun, ...] = ()
    schedule_covered: tuple[int, int] = NOTHING_COVERED
    schedule_covered_sequence: int = 0
    unknown_fields: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    @property
    def has_schedule(self) -> bool:
        """Messages may wait in it to be due."""
        return bool(self.schedule_ledgers or self.schedule_runs)

    @property
    def every_ledger(self) -> tuple[LedgerId, ...]:
        """All that the topic has, of whatever use; deleted with it."""
        named = (info.ledger_id for info in self.ledgers)
        runs = (run.ledger_id for run in self.schedule_runs)
        return (
            *named, *self.state_ledgers, *self.schedule_ledgers, *runs, *self.doomed_ledgers
        )


def encode_topic(record: TopicRecord) -> bytes:
    """The stored form."""
    owner: Json = None
    if record.owner is not None:
        owner = {
            "broker": record.owner.broker_id,
            "incarnation": record.owner.incarnation,
            "epoch": record.owner.epoch,
        }
    fields: dict[str, Json] = {
        "name": record.name,
        "owner": owner,
        "ledgers": [_encode_info(info) for info in record.ledgers],
        "state_ledgers": [*record.state_ledgers],
        "last_ledger_id": record.last_ledger_id,
        "next_ordinal": record.next_ordinal,
        "created_ms": record.created_ms,
        "trimmed_ledgers": record.trimmed_ledgers,
        "terminated": record.terminated,
        "properties": dict(record.properties),
    }
    if record.deleting:
        fields["deleting"] = True
    if record.doomed_ledgers:
        fields["doomed_ledgers"] = [*record.doomed_ledgers]
    fields |= _encode_schedule(record)
    return encode_record(fields, record.unknown_fields)


def _encode_schedule(record: TopicRecord) -> dict[str, Json]:
    """Absent from the record of a topic that never had a delayed message."""
    fields: dict[str, Json] = {}
    if record.schedule_ledgers:
        fields["schedule_ledgers"] = [*record.schedule_ledgers]
    if record.schedule_runs:
        fields["schedule_runs"] = [
            [run.ledger_id, run.entries, run.size_bytes] for run in record.schedule_runs
        ]
    if record.schedule_covered != NOTHING_COVERED:
        fields["schedule_covered"] = [*record.schedule_covered]
    if record.schedule_covered_sequence:
        fields["schedule_covered_sequence"] = record.schedule_covered_sequence
    return fields


def _encode_info(info: LedgerInfo) -> Json:
    """An array, since a topic may have thousands of them within one node."""
    return [
        info.ledger_id,
        info.entries,
        info.size_bytes,
        info.first_ordinal,
        info.closed_ms,
        info.last_append_ms,
    ]


def decode_topic(value: bytes) -> TopicRecord:
    """Raises InvalidFrame for a malformed record, NotSupported for a newer format, and
    InvalidArgument for a partitioned topic's, which has no log of its own."""
    reader = RecordReader("topic", value)
    if reader.take("partitions") is not None:
        name = reader.text("name")
        raise InvalidArgument(f"{name} is partitioned; open {name}-partition-0 and so on")
    return TopicRecord(
        reader.text("name"),
        _decode_owner(reader.take("owner")),
        tuple(_decode_info(part) for part in reader.items("ledgers")),
        tuple(LedgerId(number) for number in reader.numbers("state_ledgers")),
        LedgerId(reader.number("last_ledger_id")),
        reader.number("next_ordinal"),
        reader.number("created_ms"),
        reader.number("trimmed_ledgers", 0),
        reader.flag("terminated"),
        reader.properties(),
        reader.flag("deleting"),
        tuple(LedgerId(number) for number in reader.numbers("doomed_ledgers")),
        tuple(LedgerId(number) for number in reader.numbers("schedule_ledgers")),
        tuple(_decode_run(part) for part in reader.items("schedule_runs")),
        _decode_covered(reader.numbers("schedule_covered")),
        reader.number("schedule_covered_sequence", 0),
        reader.rest(),
    )


def _decode_run(part: Any) -> ScheduleRun:
    if not isinstance(part, list) or len(part) < 3 or not all(type(n) is int for n in part):
        raise InvalidFrame("a run of the stored topic's schedule is malformed")
    return ScheduleRun(LedgerId(part[0]), *part[1:3])


def _decode_covered(numbers: tuple[int, ...]) -> tuple[int, int]:
    if not numbers:
        return NOTHING_COVERED
    if len(numbers) != 2:
        raise InvalidFrame("what the stored topic's runs cover is malformed")
    return numbers[0], numbers[1]


def _decode_owner(part: Any) -> Owner | None:
    if part is None:
        return None
    reader = RecordReader.nested("topic owner", part)
    return Owner(
        BrokerId(reader.text("broker")), reader.text("incarnation"), reader.number("epoch")
    )


def _decode_info(part: Any) -> LedgerInfo:
    if not isinstance(part, list) or len(part) < 6 or not all(type(n) is int for n in part):
        raise InvalidFrame("a ledger of the stored topic is malformed")
    return LedgerInfo(LedgerId(part[0]), *part[1:6])


class TopicRepository:
    """Topic records under compare-and-set; lost answers of its own writes are settled."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._nodes = TopicNodes(store)
        self.scheduled = ScheduledTopics(store)

    async def create(self, record: TopicRecord) -> None:
        """Raises AlreadyExists."""
        await self._nodes.create(record.name, encode_topic(record))

    async def get(self, name: str) -> tuple[TopicRecord, TopicVersion]:
        """The record and its version, by full name; raises NotFound."""
        value, version = await self._nodes.get(name)
        return decode_topic(value), version

    async def update(self, record: TopicRecord, version: TopicVersion) -> TopicVersion:
        """Replace the record if `version` is current; answers the new version. BadVersion means
        that another broker acted as owner: fence, for good (M2)."""
        return await self._nodes.put(record.name, encode_topic(record), version)

    async def delete(self, name: str, version: TopicVersion) -> None:
        """Raises BadVersion, NotFound."""
        await self._nodes.delete(name, version)

    async def list(self, tenant: str, namespace: str) -> list[str]:
        """Full names of the namespace's topics, sorted; read bucket by bucket, no snapshot.
        Partitions are among them, and the base topics that they are partitions of."""
        folder = paths.topics_of(tenant, namespace)
        return await names_in_buckets(self._store, folder, tenant, namespace)

    def watch(self, name: str, callback: Callable[[], None]) -> Cancel:
        """Call back after changes of the record, and after a reconnect."""
        return self._store.watch(paths.topic(name), callback)


async def names_in_buckets(
    store: MetadataStore, folder: str, tenant: str, namespace: str
) -> list[str]:
    """Full names, sorted, of the topics that have a node in one of the folder's buckets."""
    buckets = await child_names(store, folder)
    names: list[str] = []
    for start in range(0, len(buckets), BUCKETS_AT_ONCE):
        some = buckets[start : start + BUCKETS_AT_ONCE]
        lists = await asyncio.gather(*(child_names(store, f"{folder}/{one}") for one in some))
        for part in chain.from_iterable(lists):
            names.append(f"{paths.PERSISTENT}{tenant}/{namespace}/{paths.decode_name(part)}")
    return sorted(names)
