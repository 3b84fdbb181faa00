"""What a topic's state ledger holds: one versioned binary record an entry.

A record is a version byte, a kind byte and fields of unsigned variable-length integers (seven
bits a byte, low ones first) and length-prefixed bytes. Replaying all records in order, from the
newest snapshot, gives the subscriptions, their cursors, the delivery counts and the sources of
deduplication. Unknown versions and kinds are an error, never skipped: skipping an
acknowledgement would be a redelivery, skipping a source a duplicate.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

from magnetar.errors import CorruptRecord

FORMAT_VERSION = 1
COMPRESS_FROM_BYTES = 48
MAX_BITMAP_BYTES = 1 << 16
SOURCES_A_RECORD = 200
BATCHES_A_RECORD = 10_000


class SubscriptionKind(IntEnum):
    """How consumers share a subscription."""

    EXCLUSIVE = 0
    SHARED = 1
    FAILOVER = 2
    KEY_SHARED = 3
    BROADCAST = 4


@dataclass(frozen=True, slots=True)
class SubscriptionCreated:
    name: str
    kind: SubscriptionKind
    floor: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class SubscriptionDeleted:
    name: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Everything below `floor`, and the bits of `chunks` (see `broker.cursor`)."""

    name: str
    floor: int
    chunks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class CursorReset:
    """A seek: nothing at or above `floor` is acknowledged any more."""

    name: str
    floor: int


@dataclass(frozen=True, slots=True)
class FilterSet:
    """What the subscription's consumers want from now on; both empty: everything."""

    name: str
    tags: str
    expression: str


@dataclass(frozen=True, slots=True)
class OptionsSet:
    """How failed messages are treated from now on. `hold_failed_keys` 0: as the type of the
    subscription does, 1: later ones of their keys wait, 2: those pass. `max_deliveries` 0: no
    bound. An empty `dead_letter_topic`: the default one."""

    name: str
    hold_failed_keys: int
    max_deliveries: int
    dead_letter_topic: str


@dataclass(frozen=True, slots=True)
class RedeliveryCount:
    """Messages of the entry beginning at `first_ordinal` (`mask`) went out `count` times again.
    `due_ms`: not again before that time of the wall clock, `delay_ms` after they failed.
    `reason`: why they did the last time. `holds`: later messages of their keys wait for them,
    where the subscription says so."""

    first_ordinal: int
    mask: int
    count: int
    due_ms: int = 0
    delay_ms: int = 0
    reason: str = ""
    holds: bool = False


@dataclass(frozen=True, slots=True)
class Redelivered:
    """Stored as REDELIVERED where there are counts alone, else as FAILED."""

    name: str
    counts: tuple[RedeliveryCount, ...]


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch of a source and where it was stored."""

    first_sequence_id: int
    last_sequence_id: int
    ledger_id: int
    entry_id: int


@dataclass(frozen=True, slots=True)
class SourceProgress:
    """`last_sequence_id` -1: none yet. `idle_since_ms` 0: its session lives or is not counted."""

    name: str
    automatic: bool
    epoch: int
    last_sequence_id: int
    idle_since_ms: int
    batches: tuple[StoredBatch, ...]


@dataclass(frozen=True, slots=True)
class SourcesAdvanced:
    sources: tuple[SourceProgress, ...]


@dataclass(frozen=True, slots=True)
class SourcesForgotten:
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All earlier records hold the sources as of this entry; replay of the log starts after it.

    Entry (-1, -1) stands for "before the first".
    """

    ledger_id: int
    entry_id: int
    next_ordinal: int
    append_time_ms: int


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """Messages `mask` of one entry."""

    ledger_id: int
    entry_id: int
    first_ordinal: int
    mask: int


@dataclass(frozen=True, slots=True)
class ForwardPlanned:
    """The batch that goes to the topic `target` next, as the only one: which messages it holds,
    and the sequence id of its first."""

    name: str
    target: str
    first_sequence_id: int
    parts: tuple[PlannedPart, ...]

    @property
    def count(self) -> int:
        """Of messages."""
        return sum(part.mask.bit_count() for part in self.parts)


@dataclass(frozen=True, slots=True)
class TopicEpoch:
    """The newest epoch given to an exclusive producer, and who may come back with it.

    `claimant` empty: nobody may. `connected`: it had the topic when this was written.
    """

    epoch: int
    claimant: str
    connected: bool


@dataclass(frozen=True, slots=True)
class ScheduleProgress:
    """How far the schedule is: the record up to which its sources are as earlier records of the
    state say, the number that the next message takes, and the last mark that the log has at the
    checkpoint which follows. Record (-1, -1) and mark (-1, -1) stand for "before the first"."""

    ledger_id: int
    entry_id: int
    next_sequence: int
    fired_due_ms: int
    fired_sequence: int


@dataclass(frozen=True, slots=True)
class ScheduleSourcesAdvanced:
    """As SourcesAdvanced, of the schedule; places are those of its ledgers."""

    sources: tuple[SourceProgress, ...]


@dataclass(frozen=True, slots=True)
class LogLength:
    """So many bytes the entries of this ledger have, up to this one, which ends before
    `end_ordinal`: what a recovery of the ledger cannot know."""

    ledger_id: int
    entry_id: int
    size_bytes: int
    first_ordinal: int
    end_ordinal: int


StateRecord = (
    SubscriptionCreated | SubscriptionDeleted | Acknowledged | CursorReset | Redelivered
    | SourcesAdvanced | SourcesForgotten | Checkpoint | FilterSet | OptionsSet
    | ForwardPlanned
    | ScheduleProgress | ScheduleSourcesAdvanced | TopicEpoch | LogLength
)


class _Kind(IntEnum):
    SUBSCRIPTION_CREATED = 1
    SUBSCRIPTION_DELETED = 2
    ACKNOWLEDGED = 3
    CURSOR_RESET = 4
    REDELIVERED = 5
    SOURCES_ADVANCED = 6
    SOURCES_FORGOTTEN = 7
    CHECKPOINT = 8
    FILTER_SET = 16
    OPTIONS_SET = 17
    FORWARD_PLANNED = 22
    SCHEDULE_PROGRESS = 24
    SCHEDULE_SOURCES_ADVANCED = 25
    TOPIC_EPOCH = 32
    LOG_LENGTH = 34
    FAILED = 36


class _Writer:
    __slots__ = ("out",)

    def __init__(self, kind: _Kind) -> None:
        self.out = bytearray((FORMAT_VERSION, kind))

    def number(self, value: int) -> None:
        if value < 0:
            raise ValueError(f"a state record holds no negative number: {value}")
        while value > 0x7F:
            self.out.append(value & 0x7F | 0x80)
            value >>= 7
        self.out.append(value)

    def blob(self, value: bytes) -> None:
        self.number(len(value))
        self.out += value

    def text(self, value: str) -> None:
        self.blob(value.encode())

    def bitmap(self, bits: int) -> None:
        """Low bits first; the length's lowest bit tells a compressed one."""
        raw = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
        if len(raw) >= COMPRESS_FROM_BYTES:
            packed = zlib.compress(raw, 1)
            if len(packed) < len(raw):
                self.number(len(packed) << 1 | 1)
                self.out += packed
                return
        self.number(len(raw) << 1)
        self.out += raw


class _Reader:
    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 2

    def number(self) -> int:
        value = shift = 0
        while True:
            if self.at >= len(self.data) or shift > 70:
                raise CorruptRecord("a state record ends within a number")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def blob(self) -> bytes:
        return self._take(self.number())

    def text(self) -> str:
        return self.blob().decode()

    def bitmap(self) -> int:
        length = self.number()
        raw = self._take(length >> 1)
        if length & 1:
            unpacker = zlib.decompressobj()
            raw = unpacker.decompress(raw, MAX_BITMAP_BYTES)
        return int.from_bytes(raw, "little")

    def _take(self, length: int) -> bytes:
        taken = self.data[self.at : self.at + length]
        if len(taken) != length:
            raise CorruptRecord("a state record is cut short")
        self.at += length
        return taken


def encode(record: StateRecord) -> bytes:
    """The record as stored."""
    match record:
        case SubscriptionCreated():
            out = _Writer(_Kind.SUBSCRIPTION_CREATED)
            out.text(record.name)
            for value in (record.kind, record.floor, record.created_ms):
                out.number(value)
        case SubscriptionDeleted():
            out = _Writer(_Kind.SUBSCRIPTION_DELETED)
            out.text(record.name)
        case Acknowledged():
            out = _Writer(_Kind.ACKNOWLEDGED)
            out.text(record.name)
            out.number(record.floor)
            out.number(len(record.chunks))
            for chunk, bits in record.chunks:
                out.number(chunk)
                out.bitmap(bits)
        case CursorReset():
            out = _Writer(_Kind.CURSOR_RESET)
            out.text(record.name)
            out.number(record.floor)
        case FilterSet():
            out = _Writer(_Kind.FILTER_SET)
            for text in (record.name, record.tags, record.expression):
                out.text(text)
        case OptionsSet():
            out = _Writer(_Kind.OPTIONS_SET)
            out.text(record.name)
            out.number(record.hold_failed_keys)
            out.number(record.max_deliveries)
            out.text(record.dead_letter_topic)
        case Redelivered():
            out = _write_redelivered(record)
        case ForwardPlanned():
            out = _write_planned(record)
        case SourcesAdvanced():
            out = _write_sources(_Kind.SOURCES_ADVANCED, record.sources)
        case ScheduleProgress():
            out = _Writer(_Kind.SCHEDULE_PROGRESS)
            for value in (
                record.ledger_id + 1, record.entry_id + 1, record.next_sequence,
                record.fired_due_ms + 1, record.fired_sequence + 1,
            ):
                out.number(value)
        case ScheduleSourcesAdvanced():
            out = _write_sources(_Kind.SCHEDULE_SOURCES_ADVANCED, record.sources)
        case SourcesForgotten():
            out = _Writer(_Kind.SOURCES_FORGOTTEN)
            out.number(len(record.names))
            for name in record.names:
                out.text(name)
        case Checkpoint():
            out = _Writer(_Kind.CHECKPOINT)
            for value in (
                record.ledger_id + 1, record.entry_id + 1, record.next_ordinal,
                record.append_time_ms,
            ):
                out.number(value)
        case LogLength():
            out = _write_log_length(record)
        case TopicEpoch():
            out = _Writer(_Kind.TOPIC_EPOCH)
            out.number(record.epoch)
            out.text(record.claimant)
            out.number(int(record.connected))
    return bytes(out.out)


def _write_redelivered(record: Redelivered) -> _Writer:
    if any(one.due_ms or one.reason or one.holds for one in record.counts):
        return _write_failed(record)
    out = _Writer(_Kind.REDELIVERED)
    out.text(record.name)
    out.number(len(record.counts))
    for count in record.counts:
        out.number(count.first_ordinal)
        out.bitmap(count.mask)
        out.number(count.count)
    return out


def _write_failed(record: Redelivered) -> _Writer:
    """Each reason is stored once; of a message its place is, 0 for none."""
    out = _Writer(_Kind.FAILED)
    out.text(record.name)
    reasons = dict.fromkeys(one.reason for one in record.counts if one.reason)
    out.number(len(reasons))
    for reason in reasons:
        out.text(reason)
    places = {reason: place for place, reason in enumerate(reasons, 1)}
    out.number(len(record.counts))
    for count in record.counts:
        out.number(count.first_ordinal)
        out.bitmap(count.mask)
        out.number(count.count << 1 | count.holds)
        out.number(count.due_ms)
        out.number(count.delay_ms)
        out.number(places.get(count.reason, 0))
    return out


def _write_log_length(record: LogLength) -> _Writer:
    out = _Writer(_Kind.LOG_LENGTH)
    for value in (
        record.ledger_id, record.entry_id, record.size_bytes, record.first_ordinal,
        record.end_ordinal,
    ):
        out.number(value)
    return out


def _write_planned(record: ForwardPlanned) -> _Writer:
    out = _Writer(_Kind.FORWARD_PLANNED)
    out.text(record.name)
    out.text(record.target)
    out.number(record.first_sequence_id)
    out.number(len(record.parts))
    for part in record.parts:
        out.number(part.ledger_id)
        out.number(part.entry_id)
        out.number(part.first_ordinal)
        out.bitmap(part.mask)
    return out


def _write_sources(kind: _Kind, sources: tuple[SourceProgress, ...]) -> _Writer:
    out = _Writer(kind)
    out.number(len(sources))
    for source in sources:
        _write_source(out, source)
    return out


def _write_source(out: _Writer, source: SourceProgress) -> None:
    out.text(source.name)
    for value in (
        int(source.automatic), source.epoch, source.last_sequence_id + 1, source.idle_since_ms,
        len(source.batches),
    ):
        out.number(value)
    for batch in source.batches:
        for value in (
            batch.first_sequence_id, batch.last_sequence_id - batch.first_sequence_id,
            batch.ledger_id, batch.entry_id,
        ):
            out.number(value)


def _read_source(data: _Reader) -> SourceProgress:
    name = data.text()
    automatic, epoch, last, idle_since_ms, count = (data.number() for _ in range(5))
    batches = []
    for _ in range(count):
        first, more, ledger_id, entry_id = (data.number() for _ in range(4))
        batches.append(StoredBatch(first, first + more, ledger_id, entry_id))
    return SourceProgress(name, bool(automatic), epoch, last - 1, idle_since_ms, tuple(batches))


def _read_acknowledged(data: _Reader) -> Acknowledged:
    name, floor, count = data.text(), data.number(), data.number()
    return Acknowledged(name, floor, tuple((data.number(), data.bitmap()) for _ in range(count)))


def _read_redelivered(data: _Reader) -> Redelivered:
    name, count = data.text(), data.number()
    return Redelivered(
        name,
        tuple(
            RedeliveryCount(data.number(), data.bitmap(), data.number()) for _ in range(count)
        ),
    )


def _read_failed(data: _Reader) -> Redelivered:
    name = data.text()
    reasons = ["", *(data.text() for _ in range(data.number()))]
    counts = []
    for _ in range(data.number()):
        first, mask = data.number(), data.bitmap()
        count, due_ms, delay_ms, place = (data.number() for _ in range(4))
        if place >= len(reasons):
            raise CorruptRecord("a state record names a reason that it does not hold")
        counts.append(RedeliveryCount(
            first, mask, count >> 1, due_ms, delay_ms, reasons[place], bool(count & 1)))
    return Redelivered(name, tuple(counts))


def _read_planned(data: _Reader) -> ForwardPlanned:
    name, target, first, count = data.text(), data.text(), data.number(), data.number()
    return ForwardPlanned(name, target, first, tuple(
        PlannedPart(data.number(), data.number(), data.number(), data.bitmap())
        for _ in range(count)
    ))


def _read_created(data: _Reader) -> SubscriptionCreated:
    name, kind, floor, created_ms = data.text(), data.number(), data.number(), data.number()
    return SubscriptionCreated(name, SubscriptionKind(kind), floor, created_ms)


def _read_topic_epoch(data: _Reader) -> TopicEpoch:
    epoch, claimant, connected = data.number(), data.text(), data.number()
    return TopicEpoch(epoch, claimant, bool(connected))


_READERS: dict[int, Callable[[_Reader], StateRecord]] = {
    _Kind.SUBSCRIPTION_CREATED: _read_created,
    _Kind.SUBSCRIPTION_DELETED: lambda data: SubscriptionDeleted(data.text()),
    _Kind.ACKNOWLEDGED: _read_acknowledged,
    _Kind.CURSOR_RESET: lambda data: CursorReset(data.text(), data.number()),
    _Kind.REDELIVERED: _read_redelivered,
    _Kind.FAILED: _read_failed,
    _Kind.SOURCES_ADVANCED: lambda data: SourcesAdvanced(
        tuple(_read_source(data) for _ in range(data.number()))
    ),
    _Kind.SOURCES_FORGOTTEN: lambda data: SourcesForgotten(
        tuple(data.text() for _ in range(data.number()))
    ),
    _Kind.CHECKPOINT: lambda data: Checkpoint(
        data.number() - 1, data.number() - 1, data.number(), data.number()
    ),
    _Kind.FORWARD_PLANNED: _read_planned,
    _Kind.SCHEDULE_PROGRESS: lambda data: ScheduleProgress(
        data.number() - 1, data.number() - 1, data.number(), data.number() - 1,
        data.number() - 1,
    ),
    _Kind.SCHEDULE_SOURCES_ADVANCED: lambda data: ScheduleSourcesAdvanced(
        tuple(_read_source(data) for _ in range(data.number()))
    ),
    _Kind.FILTER_SET: lambda data: FilterSet(data.text(), data.text(), data.text()),
    _Kind.OPTIONS_SET: lambda data: OptionsSet(
        data.text(), data.number(), data.number(), data.text()
    ),
    _Kind.TOPIC_EPOCH: _read_topic_epoch,
    _Kind.LOG_LENGTH: lambda data: LogLength(*(data.number() for _ in range(5))),
}


def decode(data: bytes) -> StateRecord:
    """The record back; raises CorruptRecord on anything unknown, cut or too long."""
    if len(data) < 2 or data[0] != FORMAT_VERSION or data[1] not in _READERS:
        raise CorruptRecord(f"not a state record this version knows: {data[:2].hex()}")
    reader = _Reader(data)
    try:
        record = _READERS[data[1]](reader)
    except (ValueError, zlib.error) as error:
        raise CorruptRecord(f"a state record does not read: {error}") from error
    if reader.at != len(data):
        raise CorruptRecord("a state record has bytes after its end")
    return record


def in_parts(sources: Iterable[SourceProgress]) -> list[tuple[SourceProgress, ...]]:
    """Sources cut so that no record becomes too large for an entry."""
    parts: list[tuple[SourceProgress, ...]] = []
    part: list[SourceProgress] = []
    batches = 0
    for source in sources:
        part.append(source)
        batches += len(source.batches)
        if len(part) >= SOURCES_A_RECORD or batches >= BATCHES_A_RECORD:
            parts.append(tuple(part))
            part, batches = [], 0
    if part:
        parts.append(tuple(part))
    return parts
