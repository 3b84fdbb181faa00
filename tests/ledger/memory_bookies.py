"""Bookies in memory that honour fencing and certainty, and do as they are told.

`test_memory_bookies.py` holds them to the rules a real bookie keeps. Replies come through the
event loop, in the order of the calls, unless a bookie is held or down.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ledger.wire import (
    AddRequest,
    ReadLacReply,
    ReadLacRequest,
    ReadReply,
    ReadRequest,
    Status,
    StoredEntry,
)
from magnetar.ids import BookieId, EntryId, LedgerId

T = TypeVar("T")


@dataclass
class MemoryLedger:
    entries: dict[int, StoredEntry] = field(default_factory=dict)
    fenced: bool = False
    last_add_confirmed: int = -1


@dataclass
class MemoryBookie:
    """One bookie's disk and mood. `down`: every call is UNKNOWN. `held`: answers wait."""

    ledgers: dict[LedgerId, MemoryLedger] = field(default_factory=dict)
    down: bool = False
    held: bool = False
    limbo: bool = False
    add_status: Status | None = None
    script: deque[Status] = field(default_factory=deque)
    waiting: list[Callable[[], None]] = field(default_factory=list)

    def ledger(self, ledger_id: LedgerId) -> MemoryLedger:
        return self.ledgers.setdefault(ledger_id, MemoryLedger())

    def add(self, request: AddRequest) -> Status:
        if self.down:
            return Status.UNKNOWN
        if self.script:
            status = self.script.popleft()
            if status is not Status.OK:
                return status
        if self.add_status is not None:
            return self.add_status
        if not request.verify():
            return Status.BAD_REQUEST
        ledger = self.ledger(request.ledger_id)
        if ledger.fenced and not request.recovery:
            return Status.FENCED
        known = ledger.entries.get(request.entry_id)
        body = bytes(request.body)
        if known is not None and known.body != body:
            return Status.BODY_CONFLICT
        if known is None:
            ledger.entries[request.entry_id] = StoredEntry(
                request.entry_id, request.last_add_confirmed, body, request.digest
            )
        ledger.last_add_confirmed = max(ledger.last_add_confirmed, request.last_add_confirmed)
        return Status.OK

    def read(self, request: ReadRequest) -> ReadReply:
        if self.down:
            return ReadReply(Status.UNKNOWN)
        known = request.ledger_id in self.ledgers
        if request.fence:
            self.ledger(request.ledger_id).fenced = True
        if not known:
            return ReadReply(self._negative(Status.NO_LEDGER))
        found: list[StoredEntry] = []
        ledger, size = self.ledgers[request.ledger_id], 0
        at = request.first_entry_id
        while len(found) < request.max_entries and (entry := ledger.entries.get(at)) is not None:
            size += len(entry.body)
            if found and size > request.max_bytes:
                break
            found.append(entry)
            at = EntryId(at + 1)
        status = Status.OK if found else self._negative(Status.NO_ENTRY)
        return ReadReply(status, tuple(found))

    def read_lac(self, request: ReadLacRequest) -> ReadLacReply:
        if self.down:
            return ReadLacReply(Status.UNKNOWN)
        known = request.ledger_id in self.ledgers
        if request.fence:
            self.ledger(request.ledger_id).fenced = True
        if not known:
            return ReadLacReply(self._negative(Status.NO_LEDGER))
        ledger = self.ledgers[request.ledger_id]
        last = max(ledger.entries, default=-1)
        return ReadLacReply(Status.OK, EntryId(ledger.last_add_confirmed), EntryId(last))

    def _negative(self, status: Status) -> Status:
        """A bookie in limbo cannot be certain of an absence (R17)."""
        return Status.UNKNOWN if self.limbo else status

    def release(self) -> None:
        """Answer everything that was held, and hold no more."""
        self.held = False
        waiting, self.waiting = self.waiting, []
        for answer in waiting:
            answer()


class MemoryBookies:
    """A `BookieClient` over `MemoryBookie`s; `adds` records every add as (bookie, entry id)."""

    def __init__(self, *names: str) -> None:
        self.bookies = {BookieId(name): MemoryBookie() for name in names}
        self.adds: list[tuple[BookieId, AddRequest]] = []
        self.reads: list[tuple[BookieId, ReadRequest]] = []
        self.unreachable: set[LedgerId] = set()
        """Adds to these ledgers get lost on their way, without an answer."""

    def __getitem__(self, name: str) -> MemoryBookie:
        return self.bookies[BookieId(name)]

    def add_nowait(
        self, bookie: BookieId, request: AddRequest, on_reply: Callable[[Status], None]
    ) -> None:
        self.adds.append((bookie, request))
        if request.ledger_id in self.unreachable:
            return
        self._answer(bookie, lambda target: target.add(request), on_reply)

    async def add(self, bookie: BookieId, request: AddRequest) -> Status:
        future: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
        self.add_nowait(bookie, request, future.set_result)
        return await future

    async def read(self, bookie: BookieId, request: ReadRequest) -> ReadReply:
        self.reads.append((bookie, request))
        future: asyncio.Future[ReadReply] = asyncio.get_running_loop().create_future()
        self._answer(bookie, lambda target: target.read(request), _setter(future))
        return await future

    async def read_lac(self, bookie: BookieId, request: ReadLacRequest) -> ReadLacReply:
        future: asyncio.Future[ReadLacReply] = asyncio.get_running_loop().create_future()
        self._answer(bookie, lambda target: target.read_lac(request), _setter(future))
        return await future

    async def close(self) -> None:
        for bookie in self.bookies.values():
            bookie.waiting.clear()

    def _answer(
        self,
        name: BookieId,
        ask: Callable[[MemoryBookie], T],
        on_reply: Callable[[T], None],
    ) -> None:
        bookie = self.bookies[name]

        def answer() -> None:
            loop.call_soon(on_reply, ask(bookie))

        loop = asyncio.get_running_loop()
        if bookie.held and not bookie.down:
            bookie.waiting.append(answer)
        else:
            answer()


def _setter(future: asyncio.Future[T]) -> Callable[[T], None]:
    def set_result(result: T) -> None:
        if not future.done():
            future.set_result(result)

    return set_result
