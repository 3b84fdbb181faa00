"""The log: group commit without a timer.

While one commit is being synced, the next collects; so the slower the disk, the larger the
groups, and an idle disk makes nobody wait. There is one commit under way at a time, hence each
commit's mark is the end of the one before it.

    idle --append--> writing --synced, nothing waits--> settling --idle_mark_s--> empty commit
                     ^    |                                                          |
                     +----+ synced, something waits                        idle <----+
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from bookie.limits import BookieLimits
from bookie.log_files import LogFiles
from bookie.record import (
    COMMIT_HEADER_BYTES,
    FILE_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    CommitHeader,
    FileHeader,
    FileId,
    LogPosition,
    RecordKind,
    encode_commit_header,
    encode_file_header,
    encode_files,
    encode_record_header,
)
from ledger.wire import Status, entry_digest
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import Clock
from magnetar.runtime.disk import AppendFile, DiskFull
from magnetar.runtime.network import Buffer

_NOBODY = LedgerId(0)


class LogRecord:
    """One record on its way through the log; `file_id` and `offset` are set by its commit."""

    __slots__ = (
        "also", "body", "digest", "entry_id", "file_id", "kind", "last_add_confirmed",
        "ledger_id", "offset", "on_done", "stage",
    )
    file_id: FileId
    offset: int

    def __init__(
        self,
        kind: int,
        ledger_id: LedgerId,
        entry_id: EntryId,
        last_add_confirmed: EntryId,
        digest: int,
        body: bytes,
    ) -> None:
        self.kind = kind
        self.ledger_id = ledger_id
        self.entry_id = entry_id
        self.last_add_confirmed = last_add_confirmed
        self.digest = digest
        self.body = body
        self.stage = PENDING
        self.on_done: Callable[[Status], None] | None = None
        """Told OK when durable, READ_ONLY when certainly not stored, UNKNOWN when the log died."""
        self.also: list[Callable[[Status], None]] | None = None
        """Others who wait for the same."""

    def settle(self, status: Status) -> None:
        """Tell everyone who waits, once."""
        on_done, also = self.on_done, self.also
        self.on_done = self.also = None
        if on_done is not None:
            on_done(status)
        if also is not None:
            for waiter in also:
                waiter(status)

    def wait(self, waiter: Callable[[Status], None]) -> None:
        """Be told as well; the record is PENDING."""
        if self.also is None:
            self.also = []
        self.also.append(waiter)

    @classmethod
    def about(cls, kind: RecordKind, body: bytes, ledger_id: LedgerId = _NOBODY) -> LogRecord:
        """A record that is not an entry."""
        nowhere = EntryId(-1)
        digest = entry_digest(ledger_id, nowhere, nowhere, body)
        return cls(kind, ledger_id, nowhere, nowhere, digest, body)


PENDING, LOGGED, INDEXED, DROPPED = range(4)
"""Stages of a record: accepted; durable; durable and indexed; not stored and never will be."""


class LogOwner(Protocol):
    """Who is told what became of the records."""

    def committed(self, records: list[LogRecord], position: LogPosition) -> None:
        """All are durable; the log is durable up to `position`."""

    def dropped(self, records: list[LogRecord]) -> None:
        """The disk was full: none of them is stored."""

    def log_failed(self, error: BaseException) -> None:
        """The disk failed: what was under way is not known, and the process must end."""


class Log:
    """Appends records, in order, by one task."""

    def __init__(
        self,
        files: LogFiles,
        owner: LogOwner,
        clock: Clock,
        random_: random.Random,
        limits: BookieLimits,
        *,
        sequence: int,
        mark: LogPosition,
    ) -> None:
        self._files = files
        self._owner = owner
        self._clock = clock
        self._random = random_
        self._limits = limits
        self._sequence = sequence
        self._mark = mark
        self._mark_pinned = True
        self._waiting: deque[LogRecord] = deque()
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._file: AppendFile | None = None
        self._file_id = FileId(0)
        self._nonce = 0
        self._marked = True
        self.commits = 0
        self.commit_seconds = 0.0
        self.written_bytes = 0

    @property
    def active_file_id(self) -> FileId:
        """The file being written; never compacted."""
        return self._file_id

    @property
    def durable(self) -> LogPosition:
        """Everything before this position is on the disk."""
        return self._mark

    async def begin(self, carried: Sequence[LogRecord]) -> None:
        """Start a new file with what replay found behind the durable mark.

        Until `unpin` the commits repeat the old mark: a crash now must find the old tail again
        as a tail, not as corruption. Raises DiskFull or DiskFailure.
        """
        await self._roll()
        rest = list(carried)
        while True:
            batch, rest = self._cut(rest)
            await self._write(batch)
            if not rest:
                return

    async def unpin(self) -> None:
        """The old tail is gone from the disk; from here on marks follow the log."""
        self._mark_pinned = False
        await self._write([])
        self._task = asyncio.create_task(self._run(), name="bookie log")

    def append(self, record: LogRecord) -> None:
        """Take a record; the owner is told when its commit ended."""
        self._waiting.append(record)
        self._wake.set()

    async def stop(self) -> None:
        """Commit what was accepted, mark it durable and end."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    def kill(self) -> None:
        """End at once, as a crash would: nothing more is written and nobody is told."""
        if self._task is not None:
            self._task.cancel()

    # the task

    async def _run(self) -> None:
        try:
            while True:
                if self._waiting:
                    await self._commit()
                elif self._stopping:
                    await self._write([])
                    return
                elif self._marked:
                    self._wake.clear()
                    await self._wake.wait()
                else:
                    await self._settle()
        except DiskFull:
            return  # only the farewell mark found no room: everything accepted is durable
        except Exception as error:
            # Whatever it was, what was under way is not known: never go on from here.
            self._owner.log_failed(error)

    async def _settle(self) -> None:
        """Nothing waits: give new records a moment, then mark the last ones as durable."""
        self._wake.clear()
        try:
            async with asyncio.timeout(self._limits.idle_mark_s):
                await self._wake.wait()
        except TimeoutError:
            try:
                await self._write([])
            except DiskFull:
                self._marked = True  # in vain, and there is nothing to gain by trying again
                return
            self._marked = True
            self._owner.committed([], self._mark)

    async def _commit(self) -> None:
        batch = self._take()
        started = self._clock.monotonic_s()
        try:
            if self._file is None or self._file.size_bytes >= self._limits.file_bytes:
                await self._roll()
            written = await self._write(batch)
        except DiskFull:
            self._owner.dropped(batch)
            return
        self._marked = False
        self.commits += 1
        self.commit_seconds += self._clock.monotonic_s() - started
        self._owner.committed(written, self._mark)

    def _take(self) -> list[LogRecord]:
        batch: list[LogRecord] = []
        size, waiting = 0, self._waiting
        most_bytes, most_records = self._limits.max_commit_bytes, self._limits.max_commit_records
        while waiting and size < most_bytes and len(batch) < most_records:
            record = waiting.popleft()
            batch.append(record)
            size += len(record.body)
        return batch

    def _cut(self, records: list[LogRecord]) -> tuple[list[LogRecord], list[LogRecord]]:
        size = 0
        for count, record in enumerate(records):
            size += len(record.body)
            if size >= self._limits.max_commit_bytes:
                return records[: count + 1], records[count + 1 :]
        return records, []

    async def _roll(self) -> None:
        file_id, file = await self._files.create()
        self._file, self._file_id = file, file_id
        self._nonce = self._random.getrandbits(64)

    async def _write(self, batch: list[LogRecord]) -> list[LogRecord]:
        """One commit: records and header in one append; returns what it really holds."""
        assert self._file is not None
        parts: list[Buffer] = []
        start = self._file.size_bytes
        records = batch
        if start == 0:
            parts.append(encode_file_header(FileHeader(self._file_id, self._nonce)))
            start = FILE_HEADER_BYTES
            # A file begins by telling which files there are, itself included.
            records = [files_record(self._files), *batch]
        for record in batch:
            if record.kind == RecordKind.FILES:
                # Listed when it was appended: the log may have begun a file since, and a list
                # that lacks it would have the next start unlink it.
                now = files_record(self._files)
                record.body, record.digest = now.body, now.digest
        header_at = len(parts)
        parts.append(b"")
        offset = start + COMMIT_HEADER_BYTES
        offset = place_records(records, self._file_id, offset, parts)
        parts[header_at] = encode_commit_header(
            CommitHeader(
                self._nonce, self._sequence, start, offset - start - COMMIT_HEADER_BYTES,
                len(records), self._mark,
            )
        )
        await self._file.append_and_sync(parts)
        self._sequence += 1
        self.written_bytes += offset - start
        if not self._mark_pinned:
            assert self._mark <= (self._file_id, offset), "the durable mark went back"
            self._mark = LogPosition(self._file_id, offset)
        return records


def files_record(files: LogFiles) -> LogRecord:
    """The record that tells which files belong to the log from here on."""
    return LogRecord.about(RecordKind.FILES, encode_files(tuple(sorted(files.listed))))


def place_records(
    records: Sequence[LogRecord], file_id: FileId, offset: int, parts: list[Buffer]
) -> int:
    """Give each record its place from `offset` on and add its bytes; returns the end."""
    add = parts.append
    for record in records:
        body = record.body
        length = len(body)
        add(
            encode_record_header(
                record.kind, length, record.ledger_id, record.entry_id,
                record.last_add_confirmed, record.digest,
            )
        )
        add(body)
        record.file_id = file_id
        record.offset = offset
        offset += RECORD_HEADER_BYTES + length
    return offset
