"""The asyncio shell of a ledger's writer.

The way of an entry makes no coroutine and no Future: `add_nowait` sends, answers come in by
callback, completions go out by callback. Everything slow (ensemble changes, closing, following
the record) is done by one task a ledger, one thing at a time, which lives only while it has
something to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from ledger.bookie_client import BookieClient
from ledger.health import BookieHealth
from ledger.ledger_record import Conflict, LedgerRecords
from ledger.limits import LedgerLimits
from ledger.overload import NEVER_REFUSED, HeldAdd, Overload
from ledger.range_reading import RangeReading
from ledger.wire import AddRequest, Status, StoredEntry
from ledger.writer import (
    Complete,
    Effects,
    LedgerWriter,
    SendAdd,
    SlotFailed,
    Stop,
    Target,
    WriteMetadata,
    WriterState,
)
from magnetar.errors import (
    AlreadyClosed,
    EntryUnknown,
    LedgerError,
    LedgerNotFound,
    SessionExpired,
)
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Buffer
from metadata.bookies import BookieDirectory
from metadata.ledgers import LedgerMetadata

OnAdded = Callable[[EntryId | LedgerError], None]
"""Called once an entry, in entry order: its id, LedgerClosed (certainly not stored) or
LedgerFenced (unknown)."""

_log = logging.getLogger(__name__)


class LedgerWriterHandle:
    """One open ledger and its only writer. Made by `LedgerStore.create`."""

    def __init__(
        self,
        core: LedgerWriter,
        client: BookieClient,
        records: LedgerRecords,
        reading: RangeReading,
        health: BookieHealth,
        directory: BookieDirectory,
        clock: Clock,
        limits: LedgerLimits,
    ) -> None:
        self._max_fragments = limits.max_fragments
        self._overload = Overload(clock, limits, self._send_held)
        self._core = core
        self._client = client
        self._records = records
        self._reading = reading
        self._health = health
        self._waiting: deque[OnAdded] = deque()
        self._told = -1
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._record_changed = False
        self._close_wanted = False
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopped: LedgerError | None = None
        self.on_stopped: Callable[[LedgerError], None] | None = None
        """Called once when the ledger takes no more entries, after their callbacks."""
        self.on_stuck: Callable[[], None] | None = None
        """Called when the ledger should be ended so that a new one can go on: its bookies
        cannot be replaced, or it has been cut into too many fragments."""
        self._cancels = [
            directory.on_change(self._bookies_changed),
            records.repository.watch(self.ledger_id, self._record_may_have_changed),
        ]

    @property
    def ledger_id(self) -> LedgerId:
        return self._core.metadata.ledger_id

    @property
    def metadata(self) -> LedgerMetadata:
        """The record as the writer knows it."""
        return self._core.metadata

    @property
    def last_add_confirmed(self) -> EntryId:
        """Highest entry stored with all below it; -1 for none."""
        return self._core.last_add_confirmed

    @property
    def last_add_pushed(self) -> EntryId:
        """Highest entry handed out."""
        return self._core.last_add_pushed

    @property
    def length_bytes(self) -> int:
        """Bytes of the confirmed entries."""
        return self._core.length_bytes

    @property
    def pending_bytes(self) -> int:
        """Bytes of entries in flight."""
        return self._core.pending_bytes

    @property
    def blocked_reason(self) -> str | None:
        """Why nothing can be stored just now, in words for an operator; None when it can."""
        core = self._core
        if self._stopped is not None or core.reaches_quorum:
            return None
        failed = ", ".join(core.ensemble[slot] for slot in core.failed_slots)
        return (
            f"ledger {self.ledger_id} needs {core.metadata.ack_quorum} bookies to store an "
            f"entry; failed without replacement: {failed}"
        )

    @property
    def beyond_repair(self) -> bool:
        """Whether this ledger is stuck for good, while a new one would find its bookies."""
        core = self._core
        if core.reaches_quorum or core.state is not WriterState.OPEN:
            return False
        usable = self._health.usable()
        banned = core.banned
        lasting = [one for one in usable if one.bookie_id not in banned]
        return len(usable) >= core.metadata.ack_quorum > len(lasting)

    def add_nowait(self, body: Buffer, on_done: OnAdded) -> None:
        """Append; raises LedgerClosed (or LedgerFenced) when the ledger takes no more."""
        if self._stopped is not None:
            raise self._stopped
        send = self._core.add(body)
        self._waiting.append(on_done)
        self._send(send)

    async def add(self, body: Buffer) -> EntryId:
        """Append and wait until the entry is stored."""
        future: asyncio.Future[EntryId] = asyncio.get_running_loop().create_future()
        self.add_nowait(body, partial(_resolve, future))
        return await future

    async def read(self, first: EntryId, max_entries: int, max_bytes: int) -> list[StoredEntry]:
        """Entries from `first` on, never above LAC (R15); raises EntryUnknown, EntryNotFound."""
        confirmed = self.last_add_confirmed
        if first > confirmed:
            raise EntryUnknown(f"entry {first} of ledger {self.ledger_id} is not confirmed")
        return await self._reading.read(
            self._core.metadata, first, confirmed, max_entries, max_bytes
        )

    async def close(self) -> EntryId:
        """End the ledger at LAC; adds in flight end with LedgerClosed. Answers the last entry.

        Raises LedgerFenced when another ended or recovers it.
        """
        if self._core.state is not WriterState.CLOSED:
            self._close_wanted = True
            self._kick()
            await asyncio.shield(self._end)
        return self.last_add_confirmed

    def abandon(self, reason: str) -> None:
        """Stop at once without a word to the metadata; adds in flight are unknown."""
        self._execute(self._core.fence(reason))

    # -- effects -------------------------------------------------------------------------------

    def _send(self, send: SendAdd) -> None:
        request, targets = send
        add_nowait, on_reply = self._client.add_nowait, self._on_reply
        for target in targets:
            add_nowait(target.bookie, request, partial(on_reply, target, request, NEVER_REFUSED))

    def _on_reply(
        self, target: Target, request: AddRequest, give_up_s: float, status: Status
    ) -> None:
        if status is Status.OVERLOADED and self._core.expects(target) and self._overload.hold(
            target, request, give_up_s
        ):
            return
        effects = self._core.add_reply(target.slot, target.generation, request.entry_id, status)
        if effects:
            self._execute(effects)

    def _send_held(self, held: HeldAdd) -> None:
        if self._core.expects(held.target):
            on_reply = partial(self._on_reply, held.target, held.request, held.give_up_s)
            self._client.add_nowait(held.target.bookie, held.request, on_reply)

    def _execute(self, effects: Effects) -> WriteMetadata | None:
        """Carry effects out; a write of metadata is handed back to the task that asked."""
        write = None
        for effect in effects:
            if isinstance(effect, Complete):
                self._complete(effect.last_entry)
            elif isinstance(effect, SendAdd):
                self._send(effect)
            elif isinstance(effect, SlotFailed):
                _log.warning(
                    "bookie %s failed an add of ledger %d: %s",
                    effect.bookie, self.ledger_id, effect.status.name,
                )
                self._health.failed(effect.bookie)
                self._kick()
            elif isinstance(effect, Stop):
                self._stop(effect.error)
            else:
                write = effect
        return write

    def _complete(self, last_entry: EntryId) -> None:
        """The oldest waiter is that of the first entry not yet told; it may add, or stop us."""
        waiting = self._waiting
        while waiting and self._told < last_entry:
            self._told += 1
            waiting.popleft()(EntryId(self._told))

    def _stop(self, error: LedgerError) -> None:
        self._stopped = error
        for cancel in self._cancels:
            cancel()
        self._overload.cancel()
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            self._waiting.popleft()(error)
        if not self._end.done():
            if self._core.state is WriterState.CLOSED:
                self._end.set_result(None)
            else:
                self._end.set_exception(error)
                self._end.exception()  # taken, so that it is not reported as never retrieved
        if self.on_stopped is not None:
            self.on_stopped(error)

    # -- the record ----------------------------------------------------------------------------

    def _record_may_have_changed(self) -> None:
        self._record_changed = True
        self._kick()

    def _bookies_changed(self) -> None:
        if self._core.failed_slots:
            self._kick()

    def _kick(self) -> None:
        """See to the record soon."""
        if self._stopped is None and self._task is None:
            self._task = asyncio.create_task(
                self._maintain(), name=f"ledger {self.ledger_id} upkeep"
            )

    def _has_work(self) -> bool:
        if self._stopped is not None:
            return False
        return (
            self._close_wanted or self._record_changed
            or self._core.can_be_repaired(self._health.usable())
        )

    async def _maintain(self) -> None:
        try:
            while self._has_work():
                try:
                    await self._step()
                except (AlreadyClosed, SessionExpired, LedgerNotFound) as error:
                    self._execute(self._core.fence(str(error)))
                except Exception as error:
                    # Nobody would go on with the record, and whoever waits would wait for ever.
                    _log.exception("the upkeep of ledger %d failed", self.ledger_id)
                    self._execute(self._core.fence(f"its upkeep failed: {error!r}"))
        finally:
            self._task = None
            self._schedule_retry()
        if self._stopped is None and self.on_stuck is not None and (
            self.beyond_repair or len(self.metadata.fragments) > self._max_fragments
        ):
            self.on_stuck()

    async def _step(self) -> None:
        self._record_changed = False
        metadata, version = await self._records.read(self.ledger_id)
        core = self._core
        if self._close_wanted:
            effects = core.begin_close(metadata, version)
        else:
            effects = core.repair(metadata, version, self._health.usable())
        write = self._execute(effects)
        while write is not None:
            outcome = await self._records.write(write.metadata, write.version)
            if isinstance(outcome, Conflict):
                effects = core.metadata_conflict(outcome.metadata, outcome.version)
            else:
                effects = core.metadata_written(write.metadata, outcome)
            write = self._execute(effects)

    def _schedule_retry(self) -> None:
        """Bookies in quarantine are tried again when it ends, without an event to tell of it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stopped is not None or not self._core.failed_slots:
            return
        wait_s = self._health.next_release_s()
        if wait_s is not None:
            self._timer = asyncio.get_running_loop().call_later(wait_s + 0.001, self._kick)


def _resolve(future: asyncio.Future[EntryId], result: EntryId | LedgerError) -> None:
    if future.done():
        return
    if isinstance(result, LedgerError):
        future.set_exception(result)
    else:
        future.set_result(result)
