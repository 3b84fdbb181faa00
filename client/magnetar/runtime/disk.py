"""Files as a seam: what a write-once log needs, and no more.

Errors of `append_and_sync` are `DiskFull` (nothing of this call counts as written; the tail is
truncated back) or `DiskFailure` (fatal). A name is relative to the disk's root folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from magnetar.errors import StorageError
from magnetar.runtime.network import Buffer


class DiskFull(StorageError):
    """No room; nothing of the write counts."""


class AppendFile(Protocol):
    """A file that only grows. One append at a time; the owner serialises."""

    @property
    def name(self) -> str: ...

    @property
    def size_bytes(self) -> int:
        """Length after the last completed append."""

    async def append_and_sync(self, parts: Sequence[Buffer]) -> None:
        """Append all parts and make them durable; raises DiskFull or DiskFailure."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset` (short at the end of the file); raises StorageError."""

    async def truncate_and_sync(self, length: int) -> None: ...

    def close(self) -> None: ...


class Disk(Protocol):
    def names(self, prefix: str = "") -> list[str]:
        """Sorted names of the files present."""

    async def create(self, name: str) -> AppendFile:
        """Create, and make the file and its folder entry durable before returning."""

    async def open(self, name: str) -> AppendFile:
        """Open for reading and appending; raises FileNotFoundError."""

    async def unlink(self, name: str) -> None:
        """Remove, and make the removal durable. Open files stay readable."""

    async def replace(self, name: str, content: bytes) -> None:
        """Write a small file atomically and durably."""

    def read(self, name: str) -> bytes:
        """All of a small file; raises FileNotFoundError."""

    def free_bytes(self) -> int: ...

    def total_bytes(self) -> int: ...
