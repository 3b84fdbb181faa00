"""Every bound of a bookie by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BookieLimits:
    """Sizes in bytes, times in seconds."""

    max_pending_bytes: int = 128 << 20
    """Accepted and not yet durable; beyond it adds are answered OVERLOADED."""
    max_unindexed_bytes: int = 256 << 20
    """Durable and not yet in the index; beyond it adds are answered OVERLOADED."""
    cache_bytes: int = 32 << 20
    """Newest entries kept in memory for readers at the tail."""
    max_commit_bytes: int = 8 << 20
    max_commit_records: int = 4096
    file_bytes: int = 256 << 20
    """A log file is rolled once it is this long."""
    index_batch_records: int = 256
    """The index holds the interpreter while it writes, so batches are small."""
    idle_mark_s: float = 0.1
    """An idle log writes an empty commit after this time, to mark its last entries durable."""
    max_ledgers_in_memory: int = 100_000
    read_only_below_bytes: int = 1 << 30
    """Free space under which normal adds are refused; capped at a tenth of the disk."""
    reserve_bytes: int = 64 << 20
    """Free space under which recovery adds are refused too; capped at a fiftieth of the disk."""
    space_check_interval_s: float = 1.0
    max_read_bytes: int = 16 << 20
    """A reply to one read is cut here."""
    max_read_entries: int = 16_384
    index_flush_bytes: int = 256 << 20
    """The index is flushed after so much log, which bounds what a start must replay."""

    def read_only_at(self, total_bytes: int) -> int:
        """Free bytes under which the bookie is read-only."""
        return min(self.read_only_below_bytes, total_bytes // 10)

    def reserve_at(self, total_bytes: int) -> int:
        """Free bytes kept for fences and ledger states."""
        return min(self.reserve_bytes, total_bytes // 50)
