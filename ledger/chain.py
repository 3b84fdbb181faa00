"""Appending to a chain of ledgers: one open at a time, the next opened when needed.

    IDLE ── first append ──▶ OPENING ── record written ──▶ WRITING
      ▲                                                      │ full, rolled, stuck, closed
      └───────────────── record written ◀── ENDING ◀─────────┘
    any state ── another owner, or the session's end ──▶ FENCED            IDLE ──▶ CLOSED

What is appended waits in one queue, in order, until it is stored. A ledger ends at its LAC by
CAS; entries in flight then are certainly not part of it, and go to the next ledger in order.
If another ended the ledger, they are unknown and the chain is fenced for good (M3). A ledger
takes entries only after the record names it, and the one before it is closed by then, so that
whoever takes over has only the last to recover.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol

from ledger.driver import LedgerStore, LedgerWriterHandle
from ledger.invariant import invariant
from ledger.position import BEFORE_FIRST, Position
from ledger.quorum import Quorums
from magnetar.errors import (
    AlreadyClosed,
    ConnectionLoss,
    LedgerClosed,
    LedgerError,
    LedgerFenced,
    MetadataError,
    NotEnoughBookies,
    SessionExpired,
)
from magnetar.ids import EntryId, LedgerId

OnAppended = Callable[[Position | LedgerError], None]
"""Called once an append, in order: where it is stored; LedgerFenced (unknown); LedgerClosed
(certainly not stored)."""

CLOSE_PATIENCE_S: Final = 5.0
"""How long `close` waits for what is in flight before it ends the ledger without it."""


class ChainState(Enum):
    """See the picture above."""

    IDLE = "idle"
    OPENING = "opening"
    WRITING = "writing"
    ENDING = "ending"
    CLOSED = "closed"
    FENCED = "fenced"


TRANSITIONS: Final = {
    ChainState.IDLE: (ChainState.OPENING, ChainState.CLOSED, ChainState.FENCED),
    ChainState.OPENING: (ChainState.WRITING, ChainState.IDLE, ChainState.FENCED),
    ChainState.WRITING: (ChainState.ENDING, ChainState.FENCED),
    ChainState.ENDING: (ChainState.IDLE, ChainState.FENCED),
    ChainState.CLOSED: (),
    ChainState.FENCED: (),
}


class EndedLedger(NamedTuple):
    """A closed ledger of the chain, to be recorded."""

    ledger_id: LedgerId
    entries: int
    size_bytes: int


class ChainKeeper(Protocol):
    """Who records the chain. Every method is a CAS; raises LedgerFenced."""

    async def record_chain(self, ended: Sequence[EndedLedger], opened: LedgerId | None) -> None:
        """These ledgers are closed; this one takes entries from now on."""

    async def record_snapshot(self, opened: LedgerId | None) -> None:
        """Only this ledger counts from now on."""

    async def may_name(self, ledger_id: LedgerId) -> bool:
        """False only if the record, as read now, certainly does not name the ledger."""


class _Pending(NamedTuple):
    body: bytes
    on_done: OnAppended


@dataclass(slots=True)
class _Snapshot:
    """`covers`: so many of the oldest waiting appends were made before it and are part of it."""

    records: Sequence[bytes]
    done: asyncio.Future[None]
    covers: int


class LedgerChain:
    """The writing side of a managed log or a state log."""

    def __init__(
        self,
        name: str,
        ledgers: LedgerStore,
        quorums: Callable[[], Quorums],
        keeper: ChainKeeper,
        is_full: Callable[[LedgerWriterHandle, float], bool],
        on_fenced: Callable[[LedgerError], None],
    ) -> None:
        self._name = name
        self._ledgers = ledgers
        self._quorums = quorums
        self._keeper = keeper
        self._is_full = is_full
        self._on_fenced = on_fenced
        self._pending: deque[_Pending] = deque()
        self._sent = 0
        self._ended: list[EndedLedger] = []
        self._roll_wanted = False
        self._stuck = False
        self._close_wanted = False
        self._patience_ends_s = 0.0
        self._snapshot: _Snapshot | None = None
        self._opened_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._waiting_for: str | None = None
        self._cancel_bookies = ledgers.on_bookies_changed(self._bookies_changed)
        self.error: LedgerError | None = None
        self.state = ChainState.IDLE
        self.writer: LedgerWriterHandle | None = None
        self.pending_bytes = 0

    @property
    def blocked_reason(self) -> str | None:
        """Why appends wait, for an operator; None when nothing is in the way."""
        if self._waiting_for is not None:
            return self._waiting_for
        return self.writer.blocked_reason if self.writer is not None else None

    # -- appending -----------------------------------------------------------------------------

    def append(self, body: bytes, on_done: OnAppended) -> None:
        """Append in order; `on_done` comes later, never within this call."""
        if self.error is not None or self._close_wanted:
            error = self.error or LedgerClosed(f"{self._name} is closed")
            asyncio.get_running_loop().call_soon(on_done, error)
            return
        self._pending.append(_Pending(body, on_done))
        self.pending_bytes += len(body)
        writer = self.writer
        if self.state is ChainState.WRITING and writer is not None and not self._must_end:
            self._send(writer, body)
            if self._is_full(writer, self._opened_s):
                self._roll_wanted = True
                self._kick()
        else:
            self._kick()

    def _send(self, writer: LedgerWriterHandle, body: bytes) -> None:
        self._sent += 1
        try:
            writer.add_nowait(body, self._added)
        except LedgerError:
            self._sent -= 1  # it stopped a moment ago, and its end is about to be handled

    def _added(self, result: EntryId | LedgerError) -> None:
        """The writer's answer for the oldest entry it was given."""
        self._sent -= 1
        if isinstance(result, LedgerClosed):
            return  # not stored: it stays in the queue, for the next ledger
        if self.state is ChainState.FENCED and not self._pending:
            return  # whoever heard an answer before this one gave up, and all were told then
        body, on_done = self._pending.popleft()
        self.pending_bytes -= len(body)
        if self._snapshot is not None and self._snapshot.covers:
            self._snapshot.covers -= 1
        if isinstance(result, LedgerError):
            on_done(result)
            return
        assert self.writer is not None
        if not self._sent:
            self._wake.set()
        on_done(Position(self.writer.ledger_id, result))

    # -- what is asked -------------------------------------------------------------------------

    @property
    def _must_end(self) -> bool:
        return (
            self._roll_wanted or self._stuck or self._close_wanted or self._snapshot is not None
        )

    async def roll(self) -> None:
        """End the open ledger, if it has entries, once what is in flight is stored."""
        writer = self.writer
        if writer is None or writer.last_add_pushed < 0:
            return
        self._roll_wanted = True
        await self._finish()

    async def replace_by(self, records: Sequence[bytes]) -> None:
        """Write these to a new ledger and record that only it counts; appends wait meanwhile."""
        if self._snapshot is not None:
            raise AlreadyClosed(f"{self._name} is being replaced already")
        self._check()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._snapshot = _Snapshot(records, done, len(self._pending))
        self._kick()
        await asyncio.shield(done)

    async def close(self) -> None:
        """Store what is in flight, end the open ledger, take no more."""
        if self.state in (ChainState.CLOSED, ChainState.FENCED):
            return
        self._close_wanted = True
        self._patience_ends_s = asyncio.get_running_loop().time() + CLOSE_PATIENCE_S
        self._wake.set()
        await self._finish()

    async def _finish(self) -> None:
        """Until the task has nothing left to do."""
        self._kick()
        while self._task is not None:
            await asyncio.shield(self._task)
        if self.state is ChainState.FENCED:
            self._check()

    @property
    def _gives_up(self) -> bool:
        """Closing has waited long enough for what cannot be stored."""
        loop = asyncio.get_running_loop()
        return self._close_wanted and loop.time() >= self._patience_ends_s

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def fence(self, error: LedgerError) -> None:
        """Stop for good; what waits is unknown to its callers."""
        if self.state in (ChainState.FENCED, ChainState.CLOSED):
            return
        self._move(ChainState.FENCED)
        self.error = error
        self._cancel_bookies()
        if self.writer is not None:
            self.writer.abandon(str(error))
        self._fail_pending(error)
        if self._snapshot is not None and not self._snapshot.done.done():
            self._snapshot.done.set_exception(error)
            self._snapshot.done.exception()  # taken, in case nobody waits any more
        self._wake.set()
        self._on_fenced(error)

    def _fail_pending(self, error: LedgerError) -> None:
        while self._pending:
            body, on_done = self._pending.popleft()
            self.pending_bytes -= len(body)
            on_done(error)

    def _bookies_changed(self) -> None:
        self._wake.set()
        writer = self.writer
        if writer is None or self.state is not ChainState.WRITING:
            return
        metadata = writer.metadata
        if metadata.ensemble_size < min(
            metadata.wanted_ensemble_size, self._ledgers.writable_bookies
        ) and writer.last_add_pushed >= 0:
            self._roll_wanted = True  # the next ledger gets the copies this one lacks
            self._kick()

    # -- the task that opens and ends ledgers --------------------------------------------------

    def _kick(self) -> None:
        if self._task is None and self._has_work():
            self._task = asyncio.create_task(self._run(), name=f"{self._name} chain")

    def _has_work(self) -> bool:
        if self.state in (ChainState.FENCED, ChainState.CLOSED):
            return False
        if self.writer is not None:
            return self._must_end
        return self._must_end or bool(self._pending) or bool(self._ended)

    async def _run(self) -> None:
        try:
            while self._has_work():
                await self._step()
        except (SessionExpired, AlreadyClosed) as error:
            self.fence(LedgerFenced(f"{self._name}: {error}"))
        except LedgerError as error:
            self.fence(error)
        except Exception as error:
            self.fence(LedgerFenced(f"{self._name} met a defect: {error!r}"))
            raise
        finally:
            self._task = None

    async def _step(self) -> None:
        if self.writer is not None:
            await self._end_ledger(self.writer)
        elif self._snapshot is not None:
            await self._write_snapshot(self._snapshot)
        elif self._pending and not self._gives_up:
            await self._open_ledger()
        elif self._ended:
            await self._keeper.record_chain(self._ended, None)
            self._ended.clear()
        else:
            self._roll_wanted = self._stuck = False
            if self._close_wanted:
                self._end_chain()

    def _end_chain(self) -> None:
        self._move(ChainState.CLOSED)
        self._cancel_bookies()
        self.error = LedgerClosed(f"{self._name} is closed")
        self._fail_pending(self.error)

    async def _end_ledger(self, writer: LedgerWriterHandle) -> None:
        self._move(ChainState.ENDING)
        await self._drained()
        last_entry = await writer.close()
        if self.state is ChainState.FENCED:
            return
        invariant(self._sent == 0, "M3", "a closed ledger leaves nothing in flight")
        self.writer = None
        self._roll_wanted = self._stuck = False
        self._ended.append(
            EndedLedger(writer.ledger_id, last_entry + 1, writer.length_bytes)
        )
        self._move(ChainState.IDLE)

    async def _drained(self) -> None:
        while self._sent and not self._stuck and self.state is ChainState.ENDING:
            deadline = self._patience_ends_s if self._close_wanted else None
            self._wake.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _open_ledger(self) -> None:
        self._move(ChainState.OPENING)
        writer = await self._new_writer()
        if writer is None:
            if self.state is ChainState.OPENING:
                self._move(ChainState.IDLE)
            return
        await self._adopt(writer, self._keeper.record_chain(self._ended, writer.ledger_id))
        if self.error is not None:
            writer.abandon(str(self.error))
            return
        self._ended.clear()
        self._start_writing(writer)

    async def _adopt(
        self, writer: LedgerWriterHandle, recorded: Coroutine[None, None, None]
    ) -> None:
        """Wait for the record. A failed write may have been applied and its answer lost, so the
        ledger is deleted only if the record, read again, does not name it."""
        try:
            await recorded
        except LedgerError:
            writer.abandon("it could not be recorded")
            if not await self._keeper.may_name(writer.ledger_id):
                await self._discard(writer)
            raise

    async def _discard(self, writer: LedgerWriterHandle) -> None:
        """Let go of a ledger that no record names; one left behind costs space only."""
        writer.abandon("no record names it")
        with contextlib.suppress(MetadataError):
            await self._ledgers.delete(writer.ledger_id)

    def _start_writing(self, writer: LedgerWriterHandle) -> None:
        self.writer = writer
        self._opened_s = self._ledgers.clock.monotonic_s()
        writer.on_stopped = self._writer_stopped
        writer.on_stuck = self._writer_stuck
        self._move(ChainState.WRITING)
        for pending in self._pending:
            self._send(writer, pending.body)
            if self._is_full(writer, self._opened_s):
                self._roll_wanted = True  # the rest is for the next ledger
                break

    def _writer_stopped(self, error: LedgerError) -> None:
        if not isinstance(error, LedgerClosed):
            self.fence(error)

    def _writer_stuck(self) -> None:
        """Its bookies cannot be replaced, and a new ledger would find others."""
        self._stuck = True
        self._wake.set()
        self._kick()

    async def _new_writer(self) -> LedgerWriterHandle | None:
        """A new ledger as soon as there are bookies for it; None when no longer wanted."""
        limits = self._ledgers.limits
        while self.error is None and not self._gives_up:
            self._wake.clear()
            try:
                writer = await self._ledgers.create(self._quorums())
            except (NotEnoughBookies, ConnectionLoss) as error:
                self._waiting_for = f"{self._name} cannot open a ledger: {error}"
                try:
                    async with asyncio.timeout(limits.bookies_retry_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue
            else:
                self._waiting_for = None
                return writer
        self._waiting_for = None
        return None

    async def _write_snapshot(self, snapshot: _Snapshot) -> None:
        if not snapshot.records:
            await self._keeper.record_snapshot(None)
            self._snapshot_done(snapshot, BEFORE_FIRST)
            return
        self._move(ChainState.OPENING)
        writer = await self._new_writer()
        if writer is None:
            error = self.error or LedgerClosed(f"{self._name} is closed")
            if not snapshot.done.done():
                snapshot.done.set_exception(error)
            self._snapshot = None
            if self.state is ChainState.OPENING:
                self._move(ChainState.IDLE)
            return
        writer.on_stuck = self._writer_stuck
        stored = asyncio.ensure_future(_add_all(writer, snapshot.records))
        if not await self._ends_in_time(stored):
            stored.cancel()
            await self._discard(writer)
            self._stuck = False
            if self.error is None:
                self._move(ChainState.IDLE)
            return
        stored.result()
        await self._adopt(writer, self._keeper.record_snapshot(writer.ledger_id))
        if self.error is not None:
            writer.abandon(str(self.error))
            return
        self._snapshot_done(snapshot, Position(writer.ledger_id, writer.last_add_confirmed))
        self._start_writing(writer)

    async def _ends_in_time(self, stored: asyncio.Future[None]) -> bool:
        """False when there is no use in waiting: its bookies are gone for good, the chain is
        fenced, or closing has waited long enough."""
        stored.add_done_callback(lambda _: self._wake.set())
        while not stored.done():
            if self._stuck or self._gives_up or self.error is not None:
                return False
            self._wake.clear()
            deadline_s = self._patience_ends_s if self._close_wanted else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline_s):
                    await self._wake.wait()
        return True

    def _snapshot_done(self, snapshot: _Snapshot, stored: Position) -> None:
        self._snapshot = None
        self._ended.clear()
        for _ in range(snapshot.covers):
            body, on_done = self._pending.popleft()
            self.pending_bytes -= len(body)
            on_done(stored)
        if not snapshot.done.done():
            snapshot.done.set_result(None)

    def _move(self, state: ChainState) -> None:
        invariant(
            state in TRANSITIONS[self.state], "M3", f"{state.value} while {self.state.value}"
        )
        self.state = state


async def _add_all(writer: LedgerWriterHandle, records: Sequence[bytes]) -> None:
    """Store all, in order; raises the first error."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = len(records)

    def added(result: EntryId | LedgerError) -> None:
        nonlocal left
        left -= 1
        if done.done():
            return
        if isinstance(result, LedgerError):
            done.set_exception(result)
        elif not left:
            done.set_result(None)

    for record in records:
        writer.add_nowait(record, added)
    await done
