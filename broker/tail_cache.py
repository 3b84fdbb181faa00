"""The newest entries of all topics, so that consumers that keep up cost no read."""

from __future__ import annotations

from collections import deque

from broker.stored_entry import StoredEntry

ENTRY_OVERHEAD_BYTES = 300
"""What an entry costs beside its body; without it a million tiny ones would exceed the limit."""


class TailCache:
    """Bounded in bytes, oldest out first. Ledger ids are unique, so topics need no part of it."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: dict[tuple[int, int], StoredEntry] = {}
        self._order: deque[tuple[int, int]] = deque()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: StoredEntry) -> None:
        """Keep the entry, at the cost of the oldest ones."""
        key = (entry.ledger_id, entry.entry_id)
        if key in self._entries:
            return
        self._entries[key] = entry
        self._order.append(key)
        self.size_bytes += len(entry.body) + ENTRY_OVERHEAD_BYTES
        while self.size_bytes > self._limit_bytes and self._order:
            gone = self._entries.pop(self._order.popleft())
            self.size_bytes -= len(gone.body) + ENTRY_OVERHEAD_BYTES

    def get(self, ledger_id: int, entry_id: int) -> StoredEntry | None:
        return self._entries.get((ledger_id, entry_id))
