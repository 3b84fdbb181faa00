"""Reads a log file from front to end, past whatever is damaged in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bookie.record import (
    COMMIT_HEADER_BYTES,
    COMMIT_MAGIC,
    FILE_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    CommitHeader,
    FileId,
    LogPosition,
    RecordHeader,
    parse_commit_header,
    parse_file_header,
    parse_record_header,
)
from magnetar.errors import InvalidFrame, StorageError
from magnetar.runtime.disk import AppendFile

_SEARCH_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A record whose header holds; `body_holds` tells of its body."""

    offset: int
    header: RecordHeader
    body: bytes
    body_holds: bool


@dataclass(frozen=True, slots=True)
class FoundCommit:
    """A commit whose header holds, with the records of it that can be told."""

    file_id: FileId
    header: CommitHeader
    records: list[FoundRecord]
    damaged_at: int | None
    """From here to the commit's end nothing can be told."""

    @property
    def end(self) -> LogPosition:
        """The position after the commit."""
        return LogPosition(self.file_id, self.header.end)


@dataclass(frozen=True, slots=True)
class Damage:
    """A region of a file in which not even the kind of content can be told."""

    start: LogPosition
    end: int


def scan_file(
    file: AppendFile, file_id: FileId, start: int = 0
) -> Iterator[FoundCommit | Damage]:
    """Commits from `start`, which is 0 or the end of a commit; damaged regions as `Damage`."""
    size = file.size_bytes
    nonce = _nonce(file, file_id)
    offset = max(start, FILE_HEADER_BYTES)
    if nonce is None and start == 0 and size > 0:
        yield Damage(LogPosition(file_id, 0), min(size, FILE_HEADER_BYTES))
    while offset < size:
        header = _commit_at(file, offset, nonce)
        if header is None:
            following = _next_commit(file, offset + 1, size, nonce)
            yield Damage(LogPosition(file_id, offset), following)
            offset = following
            continue
        nonce = header.nonce
        yield _commit(file, file_id, header)
        offset = header.end


def _nonce(file: AppendFile, file_id: FileId) -> int | None:
    try:
        header = parse_file_header(file.read_at(0, FILE_HEADER_BYTES))
    except (InvalidFrame, StorageError):
        return None
    return header.nonce if header.file_id == file_id else None


def _commit_at(file: AppendFile, offset: int, nonce: int | None) -> CommitHeader | None:
    """The commit that begins at `offset`; one written for another place or file is none."""
    try:
        header = parse_commit_header(file.read_at(offset, COMMIT_HEADER_BYTES))
    except (InvalidFrame, StorageError):
        return None
    if header.offset != offset or (nonce is not None and header.nonce != nonce):
        return None
    return header


def _next_commit(file: AppendFile, offset: int, size: int, nonce: int | None) -> int:
    """Offset of the next valid commit header, or the end of the file."""
    while offset < size:
        try:
            window = file.read_at(offset, _SEARCH_BYTES + len(COMMIT_MAGIC) - 1)
        except StorageError:
            window = b""  # unreadable sectors: go on behind them
        at = window.find(COMMIT_MAGIC)
        while at >= 0:
            if _commit_at(file, offset + at, nonce) is not None:
                return offset + at
            at = window.find(COMMIT_MAGIC, at + 1)
        offset += _SEARCH_BYTES
    return size


def _commit(file: AppendFile, file_id: FileId, header: CommitHeader) -> FoundCommit:
    start = header.offset + COMMIT_HEADER_BYTES
    try:
        data = file.read_at(start, header.body_length)
    except StorageError:
        data = b""
    records: list[FoundRecord] = []
    at = 0
    for _ in range(header.record_count):
        body_at = at + RECORD_HEADER_BYTES
        try:
            found = parse_record_header(data[at:body_at])
        except InvalidFrame:
            return FoundCommit(file_id, header, records, start + at)
        body = data[body_at : body_at + found.length]
        records.append(FoundRecord(start + at, found, body, found.body_holds(body)))
        at = body_at + found.length
    return FoundCommit(file_id, header, records, None)
