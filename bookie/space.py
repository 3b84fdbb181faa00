"""When a bookie refuses to write: little room, a full disk, an index that fails, an order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from bookie.limits import BookieLimits
from magnetar.runtime.disk import Disk

_TRY_AGAIN_CHECKS: Final = 30

_log = logging.getLogger(__name__)


class SpaceGuard:
    """Two thresholds: below the first normal adds stop, below the second recovery adds too.

    Fences and ledger states may use the rest; they are small and others depend on them.
    """

    def __init__(
        self, disk: Disk, limits: BookieLimits, on_read_only: Callable[[bool], None]
    ) -> None:
        self._disk = disk
        self._limits = limits
        self._on_read_only = on_read_only
        self._full_at_bytes: int | None = None
        self._checks_since_full = 0
        self._no_reserve = False
        self._forced = False
        self._index_fails = False
        self.read_only = False
        """Whether normal adds are refused."""

    def disk_was_full(self) -> None:
        """A write found no room, whatever the free bytes say."""
        self._full_at_bytes = self._disk.free_bytes()
        self._checks_since_full = 0
        self.check()

    def index_fails(self, fails: bool) -> None:
        """What is logged cannot be indexed, or can again."""
        self._index_fails = fails
        self.check()

    def force(self, forced: bool) -> None:
        """By the operator: before maintenance, say."""
        self._forced = forced
        self.check()

    def refuses(self, recovery: bool) -> bool:
        """Whether an add is answered READ_ONLY."""
        return self._no_reserve if recovery else self.read_only

    def check(self) -> None:
        """Look at the disk and become read-only or writable; called every so often."""
        free, total = self._disk.free_bytes(), self._disk.total_bytes()
        threshold = self._limits.read_only_at(total)
        full = self._still_full(free)
        self._no_reserve = full or free < self._limits.reserve_at(total)
        # Writable again only with some room to spare, so that it does not flap.
        wanted = threshold * 11 // 10 if self.read_only else threshold
        read_only = full or self._index_fails or self._forced or free < wanted
        if read_only != self.read_only:
            self.read_only = read_only
            _log.warning("%s, %d bytes free", "read-only" if read_only else "writable", free)
            self._on_read_only(read_only)

    def _still_full(self, free: int) -> bool:
        """Free bytes do not tell of every limit, so after some checks a write is tried again."""
        if self._full_at_bytes is None:
            return False
        self._checks_since_full += 1
        if free > self._full_at_bytes or self._checks_since_full > _TRY_AGAIN_CHECKS:
            self._full_at_bytes = None
        return self._full_at_bytes is not None
