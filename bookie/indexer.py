"""Brings durable records into the index, behind the acknowledgement, in small batches."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from bookie.index import Index, IndexBatch
from bookie.ledger_state import LedgerState, NodeState
from bookie.ledger_table import LedgerTable
from bookie.limits import BookieLimits
from bookie.log import INDEXED, LogRecord
from bookie.log_files import LogFiles
from bookie.record import RECORD_HEADER_BYTES, FileId, Location, LogPosition, RecordKind
from magnetar.errors import StorageError
from magnetar.ids import LedgerId

_log = logging.getLogger(__name__)


class Indexer:
    """Records wait here, readable in memory, until their batch is written."""

    def __init__(
        self,
        index: Index,
        files: LogFiles,
        table: LedgerTable,
        limits: BookieLimits,
        on_state: Callable[[bool], None],
    ) -> None:
        self._index = index
        self._files = files
        self._table = table
        self._limits = limits
        self._on_state = on_state
        self._waiting: deque[LogRecord | LogPosition] = deque()
        self._scheduled = False
        self._cached: deque[LogRecord] = deque()
        self._since_flush_bytes = 0
        self.waiting_bytes = 0
        self.cached_bytes = 0
        self.failing = False
        self.position: LogPosition | None = index.position()

    def put(self, records: list[LogRecord], position: LogPosition) -> None:
        """Take a commit; it is written in later turns of the loop."""
        self._waiting.extend(records)
        self._waiting.append(position)
        for record in records:
            self.waiting_bytes += len(record.body)
        if not self._scheduled and not self.failing:
            self._schedule()

    def write_all(self) -> None:
        """Write what waits, now. Raises StorageError."""
        while self._waiting:
            self._write_some()

    def retry(self) -> None:
        """Try again after a failure."""
        if self.failing and not self._scheduled:
            self._schedule()

    # internals

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        try:
            self._write_some()
        except StorageError as error:
            # Nothing is lost: the records stay in memory and in the log.
            _log.error("%s; refusing adds until it can be written again", error)
            self.failing = True
            self._on_state(True)
            return
        if self.failing:
            self.failing = False
            self._on_state(False)
        if self._waiting:
            self._schedule()

    def _write_some(self) -> None:
        taken: list[LogRecord | LogPosition] = []
        batch = IndexBatch()
        waiting = self._waiting
        while waiting and len(batch.locations) < self._limits.index_batch_records:
            item = waiting.popleft()
            taken.append(item)
            if isinstance(item, LogPosition):
                batch.position = item
            elif item.kind == RecordKind.ADD:
                location = Location(item.file_id, item.offset, len(item.body))
                batch.locations.append((item.ledger_id, item.entry_id, location))
            else:
                self._add_state(batch, item)
        pairs = self._count(batch)
        try:
            self._index.write(batch)
        except StorageError:
            waiting.extendleft(reversed(taken))
            raise
        for file_id, ledger_id, size in pairs:
            self._files.usage.set(file_id, ledger_id, size)
        self._written(taken, batch)

    def _count(self, batch: IndexBatch) -> list[tuple[FileId, LedgerId, int]]:
        """Bytes in use, for the choice of files to compact."""
        sums: dict[tuple[FileId, LedgerId], int] = {}
        for ledger_id, _, location in batch.locations:
            pair = (location.file_id, ledger_id)
            sums[pair] = sums.get(pair, 0) + location.length + RECORD_HEADER_BYTES
        pairs = []
        for (file_id, ledger_id), size in sums.items():
            if ledger_id not in batch.forgotten:
                size += self._files.usage.get(file_id, ledger_id)
                pairs.append((file_id, ledger_id, size))
                batch.usage[file_id, ledger_id] = size
        return pairs

    def _add_state(self, batch: IndexBatch, record: LogRecord) -> None:
        if record.kind == RecordKind.LEDGER_STATE:
            stated = self._files.stated.get(record.file_id)
            if stated is not None:
                stated.add(record.ledger_id)
            state = LedgerState.decode(record.body)
            known = batch.states.get(record.ledger_id) or self._index.state(record.ledger_id)
            if known is not None:
                state = state.merged(LedgerState.decode(known))
            batch.states[record.ledger_id] = state.encode()
            if state.deleted:
                batch.forgotten.append(record.ledger_id)
                for file_id in self._files.usage.files_of(record.ledger_id):
                    batch.usage[file_id, record.ledger_id] = 0
        elif record.kind == RecordKind.NODE_STATE:
            node_state = NodeState.decode(record.body)
            known = batch.node_state or self._index.node_state()
            if known is not None:
                node_state = node_state.merged(NodeState.decode(known))
            batch.node_state = node_state.encode()
        elif record.kind == RecordKind.FILES:
            batch.files = record.body

    def _written(self, taken: list[LogRecord | LogPosition], batch: IndexBatch) -> None:
        if batch.position is not None:
            self.position = batch.position
        for ledger_id in batch.forgotten:
            self._files.usage.drop_ledger(ledger_id)
        for item in taken:
            if isinstance(item, LogPosition):
                continue
            size = len(item.body)
            item.stage = INDEXED
            self.waiting_bytes -= size
            self._since_flush_bytes += size
            if item.kind == RecordKind.ADD:
                self.cached_bytes += size
                self._cached.append(item)
            elif item.kind == RecordKind.LEDGER_STATE:
                self._table.unpin(item.ledger_id)
        self._evict()
        if self._since_flush_bytes >= self._limits.index_flush_bytes:
            self._since_flush_bytes = 0
            self._index.flush_soon()

    def _evict(self) -> None:
        while self._cached and self.cached_bytes > self._limits.cache_bytes:
            record = self._cached.popleft()
            self.cached_bytes -= len(record.body)
            ledger = self._table.loaded(record.ledger_id)
            if ledger is not None and ledger.recent.get(record.entry_id) is record:
                del ledger.recent[record.entry_id]
