"""The format of log files and of compacted runs. All integers big-endian, all CRCs CRC32C.

    file    file header | commit | commit | ...
    commit  commit header | record | record | ...

    file header, 32 bytes
    +---------+-------------+-------------+-----------+---------+
    | 8 magic | u32 version | u64 file id | u64 nonce | u32 crc |
    +---------+-------------+-------------+-----------+---------+
    commit header, 56 bytes; it is written by one append together with its records
    +---------+-----------+--------------+------------+-----------------+-----------+
    | 4 magic | u64 nonce | u64 sequence | u64 offset | u32 body length | u32 count |
    +---------+-----------+----+---------+------------+---+---------+---+-----------+
    | durable mark: u64 file id, u64 offset               | u32 crc |
    +-----------------------------------------------------+---------+
    record header, 40 bytes, and the body
    +---------+----------+--------+------------+------------+-----------+---------+
    | u8 kind | u8 flags | u16 0  | u32 length | u64 ledger | i64 entry | i64 LAC |
    +---------+----------+--------+------------+------------+-----------+---------+
    | u32 digest | u32 crc of the 36 bytes before |  body, `length` bytes
    +------------+--------------------------------+

The digest is the one the broker made over place and body (`ledger.wire.entry_digest`), so an
entry is covered from the writer's memory to the reader's. The header has a CRC of its own: when
only a body is damaged, it is still known whose it was. The nonce is drawn for each file, so that
no body can pretend to be a commit when a damaged region is scanned. The mark says up to where
the log was durable when the commit was written.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, NewType

from crc32c import crc32c

from ledger.wire import entry_digest
from magnetar.errors import InvalidFrame
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.network import Buffer

FileId = NewType("FileId", int)
"""Twice the number of a file, plus one for a compacted run; never reused."""

FORMAT_VERSION: Final = 1

_FILE_HEADER = struct.Struct(">8sIQQ")
_COMMIT_HEADER = struct.Struct(">4sQQQIIQQ")
_RECORD_HEADER = struct.Struct(">BBHIQqqI")
_CRC = struct.Struct(">I")
_FILE_MAGIC: Final = b"MAGNETAR"
COMMIT_MAGIC: Final = b"\xc7MT\x01"

FILE_HEADER_BYTES: Final = _FILE_HEADER.size + _CRC.size
COMMIT_HEADER_BYTES: Final = _COMMIT_HEADER.size + _CRC.size
RECORD_HEADER_BYTES: Final = _RECORD_HEADER.size + _CRC.size


class RecordKind(IntEnum):
    """What a record says."""

    ADD = 1
    """An entry."""
    LEDGER_STATE = 2
    """The whole state of a ledger (`bookie.ledger_state.LedgerState`)."""
    NODE_STATE = 3
    """The whole state of the bookie (`bookie.ledger_state.NodeState`)."""
    FILES = 4
    """The files that belong to the log from here on; others are left-overs, missing ones lost."""
    AUDIT = 5
    """Words for the operator: why a state was changed by hand."""


class LogPosition(NamedTuple):
    """A place in the log; compares in log order."""

    file_id: FileId
    offset: int


LOG_START: Final = LogPosition(FileId(0), 0)


class Location(NamedTuple):
    """Where a record lies; `length` is that of its body."""

    file_id: FileId
    offset: int
    length: int


class RecordHeader(NamedTuple):
    """A record without its body."""

    kind: int
    flags: int
    reserved: int
    length: int
    ledger_id: LedgerId
    entry_id: EntryId
    last_add_confirmed: EntryId
    digest: int

    def body_holds(self, body: Buffer) -> bool:
        """Whether `body` is the one this header was made for."""
        return len(body) == self.length and self.digest == entry_digest(
            self.ledger_id, self.entry_id, self.last_add_confirmed, body
        )


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The first bytes of a file."""

    file_id: FileId
    nonce: int


@dataclass(frozen=True, slots=True)
class CommitHeader:
    """What precedes the records written and synced together."""

    nonce: int
    sequence: int
    offset: int
    body_length: int
    record_count: int
    mark: LogPosition

    @property
    def end(self) -> int:
        """Offset of the byte after the commit."""
        return self.offset + COMMIT_HEADER_BYTES + self.body_length


def encode_file_header(header: FileHeader) -> bytes:
    """The inverse of `parse_file_header`."""
    return _sealed(_FILE_HEADER.pack(_FILE_MAGIC, FORMAT_VERSION, header.file_id, header.nonce))


def parse_file_header(data: Buffer) -> FileHeader:
    """Raises InvalidFrame, also for a version this code does not know."""
    magic, version, file_id, nonce = _FILE_HEADER.unpack(_opened(data, FILE_HEADER_BYTES))
    if magic != _FILE_MAGIC:
        raise InvalidFrame("not a log file of a bookie")
    if version != FORMAT_VERSION:
        raise InvalidFrame(f"log format {version} is not known to this version")
    return FileHeader(FileId(file_id), nonce)


def encode_commit_header(header: CommitHeader) -> bytes:
    """The inverse of `parse_commit_header`."""
    return _sealed(
        _COMMIT_HEADER.pack(
            COMMIT_MAGIC, header.nonce, header.sequence, header.offset, header.body_length,
            header.record_count, header.mark.file_id, header.mark.offset,
        )
    )


def parse_commit_header(data: Buffer) -> CommitHeader:
    """Raises InvalidFrame."""
    magic, nonce, sequence, offset, length, count, mark_file, mark_offset = _COMMIT_HEADER.unpack(
        _opened(data, COMMIT_HEADER_BYTES)
    )
    if magic != COMMIT_MAGIC:
        raise InvalidFrame("not the start of a commit")
    mark = LogPosition(FileId(mark_file), mark_offset)
    return CommitHeader(nonce, sequence, offset, length, count, mark)


def encode_record_header(
    kind: int,
    length: int,
    ledger_id: LedgerId,
    entry_id: EntryId,
    last_add_confirmed: EntryId,
    digest: int,
) -> bytes:
    """Header of a record whose digest is known already: once for every entry stored."""
    head = _RECORD_HEADER.pack(
        kind, 0, 0, length, ledger_id, entry_id, last_add_confirmed, digest
    )
    return head + _CRC.pack(crc32c(head))


def parse_record_header(data: Buffer) -> RecordHeader:
    """Raises InvalidFrame."""
    return RecordHeader._make(_RECORD_HEADER.unpack(_opened(data, RECORD_HEADER_BYTES)))


def encode_files(file_ids: tuple[FileId, ...]) -> bytes:
    """Body of a FILES record."""
    return struct.pack(f">I{len(file_ids)}Q", len(file_ids), *file_ids)


def parse_files(body: Buffer) -> tuple[FileId, ...]:
    """Raises InvalidFrame."""
    if len(body) < 4 or len(body) != 4 + 8 * int.from_bytes(body[:4], "big"):
        raise InvalidFrame("a list of files of the wrong length")
    return struct.unpack_from(f">{(len(body) - 4) // 8}Q", body, 4)


def _sealed(head: bytes) -> bytes:
    return head + _CRC.pack(crc32c(head))


def _opened(data: Buffer, length: int) -> Buffer:
    if len(data) < length:
        raise InvalidFrame(f"{len(data)} bytes where a header of {length} belongs")
    head = data[: length - _CRC.size]
    if crc32c(head) != _CRC.unpack_from(data, length - _CRC.size)[0]:
        raise InvalidFrame("a header failed its checksum")
    return head
