"""The index: (ledger, entry) -> place in the log, and the newest states.

It is written without a journal of its own: after a crash any suffix of its batches since the
last flush may be gone. Each batch carries the position in the log it reaches to, so a start
replays exactly what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from bookie.record import FileId, Location, LogPosition
from magnetar.ids import NO_ENTRY_ID, EntryId, LedgerId


@dataclass(slots=True)
class IndexBatch:
    """Changes applied all or none, in the order of the fields."""

    locations: list[tuple[LedgerId, EntryId, Location]] = field(default_factory=list)
    states: dict[LedgerId, bytes] = field(default_factory=dict)
    forgotten: list[LedgerId] = field(default_factory=list)
    """Ledgers whose entries go; their state stays as a tombstone."""
    pruned: list[LedgerId] = field(default_factory=list)
    """Tombstones that go."""
    usage: dict[tuple[FileId, LedgerId], int] = field(default_factory=dict)
    """Bytes of a ledger in a file, absolute; 0 removes the pair."""
    node_state: bytes | None = None
    files: bytes | None = None
    position: LogPosition | None = None
    """The log up to here is in the index once this batch is."""


class Index(Protocol):
    """Reads raise CorruptRecord when the index itself is damaged."""

    def write(self, batch: IndexBatch) -> None:
        """Apply; durable only after `flush`. Raises StorageError."""

    def flush(self) -> None:
        """Make every batch written so far durable."""

    def flush_soon(self) -> None:
        """Begin to flush and do not wait."""

    def close(self) -> None:
        """Flush and give the files back."""

    def locate(
        self, ledger_id: LedgerId, first: EntryId, max_entries: int, max_bytes: int
    ) -> list[Location]:
        """Places of contiguous entries from `first`; the first one however long it is."""

    def last_entry(self, ledger_id: LedgerId) -> EntryId:
        """The highest entry indexed, or -1."""

    def state(self, ledger_id: LedgerId) -> bytes | None: ...

    def states(self) -> Iterator[tuple[LedgerId, bytes]]: ...

    def ledgers(self) -> Iterator[LedgerId]:
        """Ledgers with entries, ascending."""

    def usage(self) -> Iterator[tuple[FileId, LedgerId, int]]: ...

    def node_state(self) -> bytes | None: ...

    def files(self) -> bytes | None: ...

    def position(self) -> LogPosition | None: ...


class MemoryIndex:
    """In memory, for tests and the simulator: `crash` loses what was not flushed."""

    def __init__(self) -> None:
        self._entries: dict[LedgerId, dict[EntryId, Location]] = {}
        self._states: dict[LedgerId, bytes] = {}
        self._usage: dict[tuple[FileId, LedgerId], int] = {}
        self._node_state: bytes | None = None
        self._files: bytes | None = None
        self._position: LogPosition | None = None
        self._durable: list[IndexBatch] = []
        self._unflushed: list[IndexBatch] = []

    @property
    def unflushed_batches(self) -> int:
        """How many batches a crash may take."""
        return len(self._unflushed)

    def crash(self, kept_batches: int) -> MemoryIndex:
        """The index as a restart finds it: the flushed batches and the first few after them."""
        survivor = MemoryIndex()
        for batch in (*self._durable, *self._unflushed[:kept_batches]):
            survivor._apply(batch)
            survivor._durable.append(batch)
        return survivor

    def write(self, batch: IndexBatch) -> None:
        self._apply(batch)
        self._unflushed.append(batch)

    def flush(self) -> None:
        self._durable += self._unflushed
        self._unflushed = []

    def flush_soon(self) -> None:
        self.flush()

    def close(self) -> None:
        self.flush()

    def locate(
        self, ledger_id: LedgerId, first: EntryId, max_entries: int, max_bytes: int
    ) -> list[Location]:
        entries = self._entries.get(ledger_id, {})
        found: list[Location] = []
        size = 0
        while len(found) < max_entries:
            location = entries.get(EntryId(first + len(found)))
            if location is None or (found and size + location.length > max_bytes):
                break
            found.append(location)
            size += location.length
        return found

    def last_entry(self, ledger_id: LedgerId) -> EntryId:
        return max(self._entries.get(ledger_id, {}), default=NO_ENTRY_ID)

    def state(self, ledger_id: LedgerId) -> bytes | None:
        return self._states.get(ledger_id)

    def states(self) -> Iterator[tuple[LedgerId, bytes]]:
        return iter(sorted(self._states.items()))

    def ledgers(self) -> Iterator[LedgerId]:
        return iter(sorted(self._entries))

    def usage(self) -> Iterator[tuple[FileId, LedgerId, int]]:
        return iter([(file, ledger, size) for (file, ledger), size in sorted(self._usage.items())])

    def node_state(self) -> bytes | None:
        return self._node_state

    def files(self) -> bytes | None:
        return self._files

    def position(self) -> LogPosition | None:
        return self._position

    def _apply(self, batch: IndexBatch) -> None:
        for ledger_id, entry_id, location in batch.locations:
            self._entries.setdefault(ledger_id, {})[entry_id] = location
        self._states.update(batch.states)
        for ledger_id in batch.forgotten:
            self._entries.pop(ledger_id, None)
        for ledger_id in batch.pruned:
            self._states.pop(ledger_id, None)
        for pair, size in batch.usage.items():
            if size:
                self._usage[pair] = size
            else:
                self._usage.pop(pair, None)
        if batch.node_state is not None:
            self._node_state = batch.node_state
        if batch.files is not None:
            self._files = batch.files
        if batch.position is not None:
            self._position = batch.position
