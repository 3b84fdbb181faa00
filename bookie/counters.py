"""What a bookie counts, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class StorageCounters:
    """Monotonic counts since the start, for metrics."""

    adds: int = 0
    added_bytes: int = 0
    adds_refused: int = 0
    entries_read: int = 0
    cache_hits: int = 0
    corrupt_reads: int = 0
    fences: int = 0
    ledgers_deleted: int = 0
