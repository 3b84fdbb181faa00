"""What a schedule's ledgers hold: one versioned record an entry, little-endian.

    u32 crc32c      over everything after it
    u8  version 1, u8 kind, u16 0
    u64 owner epoch, i64 append time in ms
    i64 number of the first message in the schedule, i64 floor in ms
    kind 1: a batch, as its producer made it
    kind 2: u32 count, then as many targets: cancelled
    kind 3: one target, then a batch of one message: the target, moved to another time

A message is due when it asked for, but never before the floor: the due time up to which messages
had been handed to the log when the record was made. Messages take one number each, in the order
of the records; a cancellation takes none. A target is where a message stands in the order
(i64 due time, i64 number) and what names it (u64 ledger, i64 entry, u32 index).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from crc32c import crc32c

from magnetar.entry import ScheduleMark, SchedulePlace
from magnetar.errors import CorruptRecord
from magnetar.runtime.network import Buffer

_FIXED: Final = struct.Struct("<IBBHQqqq")
_TARGET: Final = struct.Struct("<qqQqI")
_COUNT: Final = struct.Struct("<I")
_VERSION: Final = 1
TARGETS_A_RECORD: Final = 4_096
"""So that no record becomes too large for an entry."""


class _Kind(IntEnum):
    BATCH = 1
    CANCELLED = 2
    MOVED = 3


class Target(NamedTuple):
    """A message that waits: its place in the order, and its name."""

    mark: ScheduleMark
    place: SchedulePlace


@dataclass(frozen=True, slots=True)
class Head:
    """What every record begins with."""

    owner_epoch: int
    append_time_ms: int
    first_sequence: int
    floor_ms: int


@dataclass(frozen=True, slots=True)
class BatchScheduled:
    """A producer's batch, all of whose messages are to be delivered later."""

    head: Head
    batch: Buffer


@dataclass(frozen=True, slots=True)
class Cancelled:
    """These are not to be delivered."""

    head: Head
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """This one is to be delivered at another time: the batch holds it alone, with that time."""

    head: Head
    target: Target
    batch: Buffer


ScheduleRecord = BatchScheduled | Cancelled | Moved


def encode_schedule_record(record: ScheduleRecord) -> bytes:
    """The record as stored."""
    match record:
        case BatchScheduled():
            return _sealed(_Kind.BATCH, record.head, record.batch)
        case Cancelled():
            targets = b"".join(map(_pack_target, record.targets))
            return _sealed(_Kind.CANCELLED, record.head, _COUNT.pack(len(record.targets)), targets)
        case Moved():
            return _sealed(_Kind.MOVED, record.head, _pack_target(record.target), record.batch)


def _sealed(kind: _Kind, head: Head, *parts: Buffer) -> bytes:
    fixed = _FIXED.pack(
        0, _VERSION, kind, 0, head.owner_epoch, head.append_time_ms, head.first_sequence,
        head.floor_ms,
    )
    body = b"".join((fixed[4:], *parts))
    return crc32c(body).to_bytes(4, "little") + body


def _pack_target(target: Target) -> bytes:
    return _TARGET.pack(*target.mark, *target.place)


def decode_schedule_record(data: Buffer) -> ScheduleRecord:
    """The record back, batches not copied; raises CorruptRecord on anything unknown or cut."""
    view = memoryview(data)
    if len(view) < _FIXED.size:
        raise CorruptRecord(f"a schedule record of {len(view)} bytes is cut short")
    crc, version, kind, _, epoch, time_ms, first_sequence, floor_ms = _FIXED.unpack_from(view)
    if version != _VERSION or kind not in _Kind.__members__.values():
        raise CorruptRecord(f"not a schedule record this version knows: {version}, kind {kind}")
    if crc32c(view[4:]) != crc:
        raise CorruptRecord("a schedule record's checksum does not match its bytes")
    head = Head(epoch, time_ms, first_sequence, floor_ms)
    rest = view[_FIXED.size:]
    try:
        match _Kind(kind):
            case _Kind.BATCH:
                return BatchScheduled(head, rest)
            case _Kind.CANCELLED:
                (count,) = _COUNT.unpack_from(rest)
                return Cancelled(head, _targets(rest[_COUNT.size:], count))
            case _Kind.MOVED:
                (target,) = _targets(rest[:_TARGET.size], 1)
                return Moved(head, target, rest[_TARGET.size:])
    except struct.error as error:
        raise CorruptRecord(f"a schedule record does not read: {error}") from error


def _targets(view: memoryview, count: int) -> tuple[Target, ...]:
    if len(view) != count * _TARGET.size:
        raise CorruptRecord("the targets do not fill their schedule record")
    return tuple(
        Target(ScheduleMark(due_ms, sequence), SchedulePlace(ledger_id, entry_id, index))
        for due_ms, sequence, ledger_id, entry_id, index in _TARGET.iter_unpack(view)
    )

