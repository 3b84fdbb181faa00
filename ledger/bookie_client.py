"""Calls to bookies: the port that the protocol cores' drivers use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ledger.framed_client import BookieClientLimits, FramedBookieClient
from ledger.wire import AddRequest, ReadLacReply, ReadLacRequest, ReadReply, ReadRequest, Status
from magnetar.ids import BookieId

__all__ = ["BookieClient", "BookieClientLimits", "FramedBookieClient"]


class BookieClient(Protocol):
    """Never raises for a peer's failure: that is UNKNOWN. Every call has a deadline."""

    def add_nowait(
        self, bookie: BookieId, request: AddRequest, on_reply: Callable[[Status], None]
    ) -> None:
        """Send an add; `on_reply` is called once, never before this call returned."""

    async def add(self, bookie: BookieId, request: AddRequest) -> Status:
        """Add one entry and wait."""

    async def read(self, bookie: BookieId, request: ReadRequest) -> ReadReply:
        """Read a range; a digest that does not hold is UNKNOWN, as is no answer."""

    async def read_lac(self, bookie: BookieId, request: ReadLacRequest) -> ReadLacReply:
        """Read the highest LAC the bookie knows."""

    async def close(self) -> None:
        """Drop all links; what is pending is answered UNKNOWN."""
