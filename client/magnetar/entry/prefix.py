"""What the broker puts before a batch when it appends it, with a checksum of its own.

    u32 crc32c      over the rest of the prefix
    u8  version 1, u8 flags, u16 bytes of the whole prefix
    u64 owner epoch, i64 append time in ms, i64 ordinal of the first message
    i64 source watermark                                  when flag 1
    u64 ledger, i64 entry, u8 length and cluster name     when flag 2: where it came from
    i64 due time in ms, i64 number in the schedule        when flag 4: the last one fired with it
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from crc32c import crc32c

from magnetar.entry.header import Buffer
from magnetar.errors import InvalidArgument, InvalidFrame

_FIXED = struct.Struct("<IBBHQqq")
_WATERMARK = struct.Struct("<q")
_ORIGIN = struct.Struct("<QqB")
_MARK = struct.Struct("<qq")
_SIZE_AT = 6
_BATCH_FLAGS_AT = 6
_VERSION = 1
_HAS_WATERMARK = 1
_HAS_ORIGIN = 2
_HAS_MARK = 4
_KNOWN = 7


@dataclass(frozen=True, slots=True)
class Origin:
    """The entry of another cluster that this one copies."""

    cluster_id: str
    ledger_id: int
    entry_id: int


class ScheduleMark(NamedTuple):
    """A place in the order in which a schedule fires: by due time, then by its number."""

    due_ms: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Prefix:
    """`append_time_ms` never falls along a partition; `first_ordinal` is dense along it."""

    owner_epoch: int
    append_time_ms: int
    first_ordinal: int
    watermark: int = -1
    """How far the source (a replicator) is in the log with this entry; -1: no source."""
    origin: Origin | None = None
    mark: ScheduleMark | None = None
    """How far the schedule is in the log with this entry; None: the entry is a producer's own."""


def encode_prefix(prefix: Prefix) -> bytes:
    """The prefix as stored; raises InvalidArgument for numbers that do not fit."""
    flags, rest = 0, b""
    if prefix.watermark != -1:
        flags |= _HAS_WATERMARK
        rest += _WATERMARK.pack(prefix.watermark)
    if prefix.origin is not None:
        flags |= _HAS_ORIGIN
        name = prefix.origin.cluster_id.encode()
        if len(name) > 255:
            raise InvalidArgument("a cluster id has at most 255 bytes")
        rest += _ORIGIN.pack(prefix.origin.ledger_id, prefix.origin.entry_id, len(name)) + name
    if prefix.mark is not None:
        flags |= _HAS_MARK
        rest += _MARK.pack(*prefix.mark)
    try:
        fixed = _FIXED.pack(
            0, _VERSION, flags, _FIXED.size + len(rest), prefix.owner_epoch,
            prefix.append_time_ms, prefix.first_ordinal,
        )
    except struct.error as error:
        raise InvalidArgument(f"prefix out of range: {error}") from error
    body = fixed[4:] + rest
    return crc32c(body).to_bytes(4, "little") + body


def parse_prefix(body: Buffer) -> tuple[Prefix, memoryview]:
    """The prefix and the client part behind it, not copied; raises InvalidFrame."""
    view = memoryview(body)
    if len(view) < _FIXED.size:
        raise InvalidFrame(f"a stored entry of {len(view)} bytes has no prefix")
    crc, version, flags, size, epoch, time_ms, ordinal = _FIXED.unpack_from(view)
    if version != _VERSION or flags > _KNOWN or not _FIXED.size <= size <= len(view):
        raise InvalidFrame(f"unknown prefix: version {version}, flags {flags}, {size} bytes")
    if crc32c(view[4:size]) != crc:
        raise InvalidFrame("the prefix's checksum does not match its bytes")
    if not flags and size == _FIXED.size:
        return Prefix(epoch, time_ms, ordinal), view[size:]
    return _parse_optional(view[:size], flags, Prefix(epoch, time_ms, ordinal)), view[size:]


def batch_flags(body: Buffer) -> int:
    """The flags of the batch in a stored entry, as `EntryHeader.flags` and much cheaper; only for
    bytes that were parsed before."""
    at = (body[_SIZE_AT] | body[_SIZE_AT + 1] << 8) + _BATCH_FLAGS_AT
    return body[at] | body[at + 1] << 8


def _parse_optional(view: memoryview, flags: int, prefix: Prefix) -> Prefix:
    at, watermark, origin, mark = _FIXED.size, -1, None, None
    try:
        if flags & _HAS_WATERMARK:
            (watermark,) = _WATERMARK.unpack_from(view, at)
            at += _WATERMARK.size
        if flags & _HAS_ORIGIN:
            ledger_id, entry_id, length = _ORIGIN.unpack_from(view, at)
            at += _ORIGIN.size
            origin = Origin(str(view[at:at + length], "utf-8"), ledger_id, entry_id)
            at += length
        if flags & _HAS_MARK:
            mark = ScheduleMark(*_MARK.unpack_from(view, at))
            at += _MARK.size
    except (struct.error, UnicodeDecodeError) as error:
        raise InvalidFrame(f"broken prefix: {error}") from error
    if at != len(view):
        raise InvalidFrame("the optional fields do not fill the prefix")
    return Prefix(
        prefix.owner_epoch, prefix.append_time_ms, prefix.first_ordinal, watermark, origin, mark
    )
