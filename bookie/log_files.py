"""The files of the log: names, open descriptors, and how much of whom lies in each.

A file stays open from its start to its unlinking, so a reader that has found a location can
always follow it: locating and reading happen in one step of the loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bookie.record import (
    RECORD_HEADER_BYTES,
    FileId,
    Location,
    RecordHeader,
    parse_record_header,
)
from bookie.usage import Usage
from magnetar.errors import CorruptRecord, InvalidFrame, StorageError
from magnetar.ids import LedgerId
from magnetar.runtime.disk import AppendFile, Disk

_LOG: Final = "log-"
_RUN: Final = "run-"
_MERGE_BYTES: Final = 8 << 20


def file_id_of(number: int, run: bool = False) -> FileId:
    """The id of log file or run `number`."""
    return FileId(2 * number + run)


def is_run(file_id: FileId) -> bool:
    """Whether the file was written by compaction."""
    return file_id % 2 == 1


def file_name(file_id: FileId) -> str:
    """Its name on disk."""
    return f"{_RUN if is_run(file_id) else _LOG}{file_id // 2:012d}"


def parse_file_name(name: str) -> FileId | None:
    """The inverse of `file_name`; None for what is not ours."""
    head, digits = name[:4], name[4:]
    if head not in (_LOG, _RUN) or not digits.isdigit():
        return None
    return file_id_of(int(digits), head == _RUN)


class LogFiles:
    """Open files by id, and the bytes each ledger has in them."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._open: dict[FileId, AppendFile] = {}
        self.usage = Usage()
        self.stated: dict[FileId, set[LedgerId]] = {}
        """Ledgers whose states were written into a file, for files begun since the start."""
        self.listed: set[FileId] = set()
        """Files that belong to the log; a run not yet published is present and not listed."""
        self._next_number = 1

    async def open_present(self) -> None:
        """Open every file of ours that is on the disk."""
        for name in (*self.disk.names(_LOG), *self.disk.names(_RUN)):
            file_id = parse_file_name(name)
            if file_id is not None:
                self._open[file_id] = await self.disk.open(name)
                self.reserve(file_id)

    def reserve(self, file_id: FileId) -> None:
        """Never give out a number up to this one: ids are not reused."""
        self._next_number = max(self._next_number, file_id // 2 + 1)

    async def create(self, run: bool = False) -> tuple[FileId, AppendFile]:
        """A new file, durable with its folder entry."""
        file_id = file_id_of(self._next_number, run)
        self._next_number += 1
        file = await self.disk.create(file_name(file_id))
        self._open[file_id] = file
        if not run:
            self.listed.add(file_id)
            self.stated[file_id] = set()
        return file_id, file

    async def unlink(self, file_id: FileId) -> None:
        """Remove for good; nothing may be located in it any more."""
        file = self._open.pop(file_id, None)
        self.usage.drop_file(file_id)
        self.stated.pop(file_id, None)
        self.listed.discard(file_id)
        await self.disk.unlink(file_name(file_id))
        if file is not None:
            file.close()

    def ids(self) -> tuple[FileId, ...]:
        """All files present, ascending."""
        return tuple(sorted(self._open))

    def __getitem__(self, file_id: FileId) -> AppendFile:
        """Raises KeyError."""
        return self._open[file_id]

    def __contains__(self, file_id: FileId) -> bool:
        return file_id in self._open

    def total_bytes(self) -> int:
        """Bytes in all files."""
        return sum(file.size_bytes for file in self._open.values())

    def live_bytes(self, file_id: FileId) -> int:
        """Bytes of ledgers not deleted."""
        return self.usage.file_bytes(file_id)

    def read(self, locations: list[Location]) -> Iterator[tuple[RecordHeader, bytes]]:
        """The records at `locations`, neighbours by one read. Raises CorruptRecord."""
        at = 0
        while at < len(locations):
            first = locations[at]
            end, after = first.offset + RECORD_HEADER_BYTES + first.length, at + 1
            while after < len(locations) and end - first.offset < _MERGE_BYTES:
                following = locations[after]
                if following.file_id != first.file_id or following.offset != end:
                    break
                end += RECORD_HEADER_BYTES + following.length
                after += 1
            file = self._open.get(first.file_id)
            if file is None:
                raise CorruptRecord(f"{file_name(first.file_id)} is lost")
            try:
                data = file.read_at(first.offset, end - first.offset)
            except StorageError as error:
                raise CorruptRecord(str(error)) from error
            for location in locations[at:after]:
                yield _record(location, data, location.offset - first.offset)
            at = after

    def close(self) -> None:
        """Give all descriptors back."""
        for file in self._open.values():
            file.close()
        self._open.clear()


def _record(location: Location, data: bytes, at: int) -> tuple[RecordHeader, bytes]:
    start = at + RECORD_HEADER_BYTES
    body = data[start : start + location.length]
    try:
        header = parse_record_header(data[at:start])
    except InvalidFrame as error:
        place = f"{file_name(location.file_id)} at {location.offset}"
        raise CorruptRecord(f"{place}: {error}") from error
    if header.length != location.length or not header.body_holds(body):
        raise CorruptRecord(f"{file_name(location.file_id)} at {location.offset}: body is damaged")
    return header, body
