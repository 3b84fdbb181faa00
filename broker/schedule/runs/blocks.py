"""What a run's ledger holds: one block an entry, little-endian.

    u32 crc32c      over everything after it
    u8  version 1, u8 kind, u16 0, u32 count
    kind 1, messages: as many i64 numbers in the schedule, then an entry's client part with the
        messages in the order of (due time, number); its delivery times are the due times, its
        provenance says what names them
    kind 2, tombs: due times, then numbers: marks of messages in other runs that do not fire
        there any more, being cancelled or moved; in order
    kind 3, names: packed by zlib: i64 ledgers, i64 entries, u32 indexes, i64 due times, i64
        numbers, u8 fates: what names a message, its mark here, and what it is known for; in the
        order of the names
    kind 4, foot: the last entry of every run, see `Foot`

In a run the blocks of each kind follow each other, in the order of their kinds.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from crc32c import crc32c

from magnetar.entry import EntryView, ScheduleMark, SchedulePlace
from magnetar.entry.layout import column_bytes, read_column
from magnetar.errors import CorruptRecord, InvalidFrame
from magnetar.runtime.network import Buffer

_HEAD: Final = struct.Struct("<IBBHI")
_VERSION: Final = 1
_NAME_BYTES: Final = 8 * 4 + 4 + 1
_FOOT: Final = struct.Struct("<qqqqqII")
_PLACE: Final = struct.Struct("<qqi")


class Kind(IntEnum):
    """Of a block."""

    MESSAGES = 1
    TOMBS = 2
    NAMES = 3
    FOOT = 4


class Fate(IntEnum):
    """What a run's name says of a message."""

    SCHEDULED = 0
    """It came in, and waits or waited under this mark."""
    MOVED = 1
    """It waits or waited under this mark, to which it was moved."""
    CANCELLED = 2
    """The mark says nothing."""


class Name(NamedTuple):
    """Which message, where it stands in the order, and what became of it."""

    place: SchedulePlace
    mark: ScheduleMark
    fate: Fate


class MarkBlock:
    """Marks in order, and the messages under them if they are messages."""

    __slots__ = ("dues_ms", "sequences", "view")

    def __init__(
        self, dues_ms: array[int], sequences: array[int], view: EntryView | None
    ) -> None:
        self.dues_ms = dues_ms
        self.sequences = sequences
        self.view = view

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True, slots=True)
class Index:
    """Where blocks of one kind begin: the first mark of each, and how many come before it."""

    dues_ms: array[int]
    sequences: array[int]
    before: array[int]
    count: int
    """Of all marks."""

    def __len__(self) -> int:
        return len(self.before)


class NameRange(NamedTuple):
    """From the first to the last."""

    first: SchedulePlace
    last: SchedulePlace

    @property
    def is_empty(self) -> bool:
        return self.last < self.first

    def holds(self, place: SchedulePlace) -> bool:
        return self.first <= place <= self.last

    def meets(self, other: NameRange) -> bool:
        """Some name may be in both."""
        return (
            not self.is_empty and not other.is_empty
            and self.first <= other.last and other.first <= self.last
        )


NO_NAMES: Final = NameRange(SchedulePlace(0, 0, 0), SchedulePlace(0, 0, -1))


@dataclass(frozen=True, slots=True)
class NameIndex:
    """The first name of each block of names; between which names all lie, and between which those
    of changed messages. A range without names ends before it begins."""

    ledger_ids: array[int]
    entry_ids: array[int]
    batch_indexes: array[int]
    every: NameRange
    changed: NameRange

    def __len__(self) -> int:
        return len(self.ledger_ids)


@dataclass(frozen=True, slots=True)
class Foot:
    """What is known of a run without reading the rest. `last`: the highest mark in it. Message
    blocks are the ledger's first entries, then come tombs, then names."""

    messages: Index
    tombs: Index
    names: NameIndex
    last: ScheduleMark
    message_bytes: int


def _sealed(kind: Kind, count: int, *parts: Buffer) -> bytes:
    body = b"".join((_HEAD.pack(0, _VERSION, kind, 0, count)[4:], *parts))
    return crc32c(body).to_bytes(4, "little") + body


def _opened(data: Buffer, kind: Kind) -> tuple[int, memoryview]:
    view = memoryview(data)
    if len(view) < _HEAD.size:
        raise CorruptRecord(f"a block of {len(view)} bytes is cut short")
    crc, version, found, _, count = _HEAD.unpack_from(view)
    if version != _VERSION or found != kind:
        raise CorruptRecord(f"not a block of {kind.name}: version {version}, kind {found}")
    if crc32c(view[4:]) != crc:
        raise CorruptRecord("a block's checksum does not match its bytes")
    return count, view[_HEAD.size:]


def encode_messages(sequences: array[int], batch: bytes) -> bytes:
    """A block of messages; `batch` holds them with their due times and names."""
    return _sealed(Kind.MESSAGES, len(sequences), column_bytes(sequences), batch)


def decode_messages(data: Buffer) -> MarkBlock:
    """Raises CorruptRecord."""
    count, rest = _opened(data, Kind.MESSAGES)
    try:
        sequences = read_column(rest, 0, "q", count)
        view = EntryView(rest[8 * count:], verify=False)
        dues_ms = array("q", view.delivery_times_ms())
    except InvalidFrame as error:
        raise CorruptRecord(f"a block of messages does not read: {error}") from error
    if not view.header.delayed or view.count != count:
        raise CorruptRecord("a block's messages and their numbers disagree")
    return MarkBlock(dues_ms, sequences, view)


def encode_tombs(marks: list[ScheduleMark]) -> bytes:
    """A block of tombs."""
    dues_ms = array("q", [mark.due_ms for mark in marks])
    sequences = array("q", [mark.sequence for mark in marks])
    return _sealed(Kind.TOMBS, len(marks), column_bytes(dues_ms), column_bytes(sequences))


def decode_tombs(data: Buffer) -> MarkBlock:
    """Raises CorruptRecord."""
    count, rest = _opened(data, Kind.TOMBS)
    try:
        return MarkBlock(
            read_column(rest, 0, "q", count), read_column(rest, 8 * count, "q", count), None
        )
    except InvalidFrame as error:
        raise CorruptRecord(f"a block of tombs does not read: {error}") from error


def encode_names(names: list[Name]) -> bytes:
    """A block of names."""
    columns = (
        column_bytes(array("q", [name.place.ledger_id for name in names])),
        column_bytes(array("q", [name.place.entry_id for name in names])),
        column_bytes(array("I", [name.place.batch_index for name in names])),
        column_bytes(array("q", [name.mark.due_ms for name in names])),
        column_bytes(array("q", [name.mark.sequence for name in names])),
        bytes([name.fate for name in names]),
    )
    return _sealed(Kind.NAMES, len(names), zlib.compress(b"".join(columns), 1))


def decode_names(data: Buffer) -> list[Name]:
    """Raises CorruptRecord."""
    count, rest = _opened(data, Kind.NAMES)
    try:
        unpacked = memoryview(zlib.decompressobj().decompress(rest, count * _NAME_BYTES + 1))
        if len(unpacked) != count * _NAME_BYTES:
            raise CorruptRecord("the names do not fill their block")
        ledger_ids = read_column(unpacked, 0, "q", count)
        entry_ids = read_column(unpacked, 8 * count, "q", count)
        indexes = read_column(unpacked, 16 * count, "I", count)
        dues_ms = read_column(unpacked, 20 * count, "q", count)
        sequences = read_column(unpacked, 28 * count, "q", count)
        fates = [Fate(fate) for fate in unpacked[36 * count:]]
    except (InvalidFrame, ValueError, zlib.error) as error:
        raise CorruptRecord(f"a block of names does not read: {error}") from error
    return [
        Name(SchedulePlace(*place), ScheduleMark(*mark), fate)
        for place, mark, fate in zip(
            zip(ledger_ids, entry_ids, indexes, strict=True),
            zip(dues_ms, sequences, strict=True), fates, strict=True,
        )
    ]


def encode_foot(foot: Foot) -> bytes:
    """The last entry of a run."""
    blocks = [len(foot.messages), len(foot.tombs), len(foot.names)]
    fixed = _FOOT.pack(
        foot.messages.count, foot.tombs.count, foot.last.due_ms, foot.last.sequence,
        foot.message_bytes, *blocks[1:],
    )
    for place in (*foot.names.every, *foot.names.changed):
        fixed += _PLACE.pack(*place)
    columns = [
        column_bytes(column) for index in (foot.messages, foot.tombs)
        for column in (index.dues_ms, index.sequences, index.before)
    ]
    names = foot.names
    columns += [
        column_bytes(names.ledger_ids), column_bytes(names.entry_ids),
        column_bytes(names.batch_indexes),
    ]
    return _sealed(Kind.FOOT, blocks[0], fixed, *columns)


def decode_foot(data: Buffer) -> Foot:
    """Raises CorruptRecord."""
    message_blocks, rest = _opened(data, Kind.FOOT)
    try:
        (messages, tombs, due_ms, sequence, message_bytes, tomb_blocks, name_blocks) = (
            _FOOT.unpack_from(rest)
        )
        at = _FOOT.size
        places: list[SchedulePlace] = []
        for _ in range(4):
            places.append(SchedulePlace(*_PLACE.unpack_from(rest, at)))
            at += _PLACE.size
        columns: list[array[int]] = []
        for count, typecodes in (
            (message_blocks, "qqq"), (tomb_blocks, "qqq"), (name_blocks, "qqI")
        ):
            for typecode in typecodes:
                columns.append(read_column(rest, at, typecode, count))
                at += count * columns[-1].itemsize
    except (struct.error, InvalidFrame) as error:
        raise CorruptRecord(f"the foot of a run does not read: {error}") from error
    if at != len(rest):
        raise CorruptRecord("the foot of a run has bytes after its end")
    (dues, sequences, before, tomb_dues, tomb_sequences, tombs_before, ledger_ids, entry_ids,
     indexes) = columns
    return Foot(
        Index(dues, sequences, before, messages),
        Index(tomb_dues, tomb_sequences, tombs_before, tombs),
        NameIndex(
            ledger_ids, entry_ids, indexes, NameRange(*places[:2]), NameRange(*places[2:])
        ),
        ScheduleMark(due_ms, sequence), message_bytes,
    )
