"""A confirmed entry of a chain of ledgers, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.position import Position


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A confirmed entry."""

    position: Position
    body: bytes
