"""The rules of a bookie, over the seams: no sockets, no threads, no wall clock.

    add ──> refuse? ──> log (commit) ──> acknowledge ──> index
             |  fenced, repeated, full, too much          |
    read ────┴── recent entries (logged or cached), then the index, then the log files

R4  an add is acknowledged only when its commit is on the disk.
R9  a fence refuses normal adds from its arrival, is a record itself, and is answered after the
    commit that holds it; commits are in order, so that commit also settles every add accepted
    before the fence.
R16 NO_ENTRY is said only when certain: not of damaged records, not in limbo, not of an entry
    whose commit is under way.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from bookie.counters import StorageCounters
from bookie.index import Index, IndexBatch
from bookie.indexer import Indexer
from bookie.ledger_state import LedgerState, NodeState
from bookie.ledger_table import Ledger, LedgerTable
from bookie.limits import BookieLimits
from bookie.log import DROPPED, LOGGED, PENDING, Log, LogRecord, files_record
from bookie.log_files import LogFiles
from bookie.record import LogPosition, RecordKind
from bookie.replay import Replay, ReplayOutcome
from bookie.space import SpaceGuard
from bookie.turns import in_turns
from ledger.wire import (
    AddRequest,
    ReadLacReply,
    ReadLacRequest,
    ReadReply,
    ReadRequest,
    Status,
    StoredEntry,
)
from magnetar.errors import CorruptRecord, DiskFailure, StorageError
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import Clock
from magnetar.runtime.disk import Disk

_NEW: Final = Status.NO_ENTRY  # what `_repeated` says of an entry that is not here

_log = logging.getLogger(__name__)


class BookieStorage:
    """Entries of ledgers on one disk."""

    def __init__(
        self,
        disk: Disk,
        index: Index,
        clock: Clock,
        random_: random.Random,
        limits: BookieLimits | None = None,
        *,
        on_fatal: Callable[[BaseException], None] = lambda _: None,
        on_read_only: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """`on_fatal` means: what is on the disk is not known, end the process."""
        self._disk = disk
        self.index = index
        self._clock = clock
        self._random = random_
        self.limits = self._limits = limits if limits is not None else BookieLimits()
        self._on_fatal = on_fatal
        self.files = LogFiles(disk)
        self._table = LedgerTable(index, self.files, self._limits.max_ledgers_in_memory)
        self.space = SpaceGuard(disk, self._limits, on_read_only)
        self.indexer = Indexer(
            index, self.files, self._table, self._limits, self.space.index_fails
        )
        self._log: Log | None = None
        self._serving = False
        self._pending: dict[LogRecord, None] = {}
        self._pending_bytes = 0
        self._space_watch: asyncio.Task[None] | None = None
        self.counters = StorageCounters()
        self.outcome = ReplayOutcome()

    # life

    async def start(self) -> None:
        """Replay the log and begin a new file. Raises DiskFull, DiskFailure, CorruptRecord."""
        await self.files.open_present()
        outcome = await Replay(self.files, self.index).run()
        self.outcome = outcome
        node_state = outcome.node_state
        for record in outcome.carried:
            if record.kind == RecordKind.NODE_STATE:
                node_state = node_state.merged(NodeState.decode(record.body))
        carried = list(outcome.carried)
        if outcome.limbo:
            node_state = node_state.entered_limbo(tuple(d.start for d in outcome.corrupt))
            carried.append(LogRecord.about(RecordKind.NODE_STATE, node_state.encode()))
            _log.error("something of this bookie is lost: negatives are not certain (limbo)")
        self._table.set_node_state(node_state)
        log = self._log = Log(
            self.files, self, self._clock, self._random, self._limits,
            sequence=outcome.next_sequence, mark=outcome.mark,
        )
        await log.begin(carried)
        await self._cut_tail(outcome)
        await log.unpin()
        self.indexer.put([*carried, files_record(self.files)], log.durable)
        self.indexer.write_all()
        self.index.flush()
        self._serving = True
        self.space.check()
        self._space_watch = asyncio.create_task(self._watch_space(), name="bookie space")

    async def stop(self) -> None:
        """Commit and index what was accepted. The index stays open: its maker closes it."""
        self._serving = False
        if self._space_watch is not None:
            self._space_watch.cancel()
        if self._log is not None:
            await self._log.stop()
            try:
                self.indexer.write_all()
                self.index.flush()
            except StorageError as error:
                _log.warning("%s; the next start will replay the log", error)
        self.files.close()

    def kill(self) -> None:
        """Stop like a crash, for the simulator: nothing is written or answered any more."""
        self._serving = False
        if self._space_watch is not None:
            self._space_watch.cancel()
        if self._log is not None:
            self._log.kill()

    async def _cut_tail(self, outcome: ReplayOutcome) -> None:
        """The carried records are safe in the new file; now the old tail may go."""
        mark_file, offset = outcome.mark
        if mark_file in self.files and self.files[mark_file].size_bytes > offset:
            await self.files[mark_file].truncate_and_sync(offset)
        for file_id in outcome.leftovers:
            await self.files.unlink(file_id)

    # adds

    def add(self, request: AddRequest, on_done: Callable[[Status], None]) -> None:
        """Store an entry. `on_done` is called once: at once on refusal, else by its commit.

        A body that is not `bytes` is copied, so the caller's buffer is free afterwards.
        """
        try:
            status = self._accept(request, on_done)
        except (CorruptRecord, DiskFailure) as error:
            _log.error("entry %d of ledger %d: %s", request.entry_id, request.ledger_id, error)
            status = Status.UNKNOWN
        if status is not None:
            if status is not Status.OK:
                self.counters.adds_refused += 1
            on_done(status)

    def _accept(self, request: AddRequest, on_done: Callable[[Status], None]) -> Status | None:
        """None when the log has it; otherwise the answer."""
        log = self._log
        if not self._serving or log is None:
            return Status.UNKNOWN
        if not request.verify():
            return Status.BAD_REQUEST
        ledger = self._table.get(request.ledger_id)
        if ledger.fenced:
            if not request.recovery:
                return Status.FENCED
            if ledger.wanted.deleted:
                return Status.NO_LEDGER
        entry_id = request.entry_id
        body = request.body if type(request.body) is bytes else bytes(request.body)
        if entry_id <= ledger.highest:
            known = self._repeated(ledger, request, body, on_done)
            if known is not _NEW:
                return known
        if self.space.refuses(request.recovery):
            return Status.READ_ONLY
        size = len(body)
        if (
            self._pending_bytes + size > self._limits.max_pending_bytes
            or self.indexer.waiting_bytes > self._limits.max_unindexed_bytes
        ):
            return Status.OVERLOADED
        record = LogRecord(
            RecordKind.ADD, ledger.ledger_id, entry_id, request.last_add_confirmed,
            request.digest, body,
        )
        record.on_done = on_done
        ledger.recent[entry_id] = record
        ledger.known = True
        if entry_id > ledger.highest:
            ledger.highest = entry_id
        self._append(log, ledger, record)
        return None

    def _repeated(
        self, ledger: Ledger, request: AddRequest, body: bytes, on_done: Callable[[Status], None]
    ) -> Status | None:
        """The answer to an entry that is here already; `_NEW` when it is not, or damaged."""
        recent = ledger.recent.get(request.entry_id)
        if recent is not None:
            known = recent.body
        else:
            found = self.index.locate(ledger.ledger_id, request.entry_id, 1, 0)
            if not found:
                return _NEW
            try:
                _, known = next(self.files.read(found))
            except CorruptRecord as error:
                _log.warning("storing again what was damaged: %s", error)
                return _NEW
        if known != body:
            _log.error(
                "ledger %d entry %d exists with another body", ledger.ledger_id, request.entry_id
            )
            return Status.BODY_CONFLICT
        # A resend carries a newer LAC than the copy stored, and that is no conflict.
        if request.last_add_confirmed > ledger.last_add_confirmed:
            ledger.last_add_confirmed = request.last_add_confirmed
        if recent is not None and recent.stage == PENDING:
            recent.wait(on_done)
            return None
        return Status.OK

    def _append(self, log: Log, ledger: Ledger, record: LogRecord) -> None:
        if record.kind == RecordKind.ADD:
            ledger.in_flight += 1
        else:
            self._table.pin(ledger.ledger_id)
        self._pending[record] = None
        self._pending_bytes += len(record.body)
        log.append(record)

    # reads

    async def read(self, request: ReadRequest) -> ReadReply:
        """A contiguous range; see `ReadReply`."""
        if not self._serving:
            return ReadReply(Status.UNKNOWN)
        try:
            ledger = self._table.get(request.ledger_id)
            if request.fence and not await self._fence(ledger):
                return ReadReply(Status.UNKNOWN)
            while True:
                pending = ledger.recent.get(request.first_entry_id)
                if pending is None or pending.stage != PENDING:
                    return self._collect(ledger, request)
                # Its commit is under way: neither "yes" nor "no" is certain yet.
                if await self._settled(pending) is Status.UNKNOWN:
                    return ReadReply(Status.UNKNOWN)
        except CorruptRecord as error:
            self.counters.corrupt_reads += 1
            _log.error("ledger %d: %s", request.ledger_id, error)
            return ReadReply(Status.UNKNOWN)

    async def read_lac(self, request: ReadLacRequest) -> ReadLacReply:
        """The highest LAC and entry that are durable here."""
        if not self._serving:
            return ReadLacReply(Status.UNKNOWN)
        try:
            ledger = self._table.get(request.ledger_id)
            if request.fence and not await self._fence(ledger):
                return ReadLacReply(Status.UNKNOWN)
        except CorruptRecord as error:
            _log.error("ledger %d: %s", request.ledger_id, error)
            return ReadLacReply(Status.UNKNOWN)
        if self._table.in_limbo(ledger):
            # What was lost may have been higher: this answer must not count for coverage.
            status = Status.UNKNOWN
        elif ledger.deleted or not ledger.known:
            status = Status.NO_LEDGER
        else:
            status = Status.OK
        return ReadLacReply(status, ledger.last_add_confirmed, ledger.last_entry)

    def _collect(self, ledger: Ledger, request: ReadRequest) -> ReadReply:
        entries: list[StoredEntry] = []
        status: Status | None = None
        if not ledger.deleted:
            try:
                self._gather(ledger, request, entries)
            except CorruptRecord as error:
                self.counters.corrupt_reads += 1
                _log.error("ledger %d: %s", ledger.ledger_id, error)
                status = Status.UNKNOWN
        if entries:
            self.counters.entries_read += len(entries)
            return ReadReply(Status.OK, tuple(entries))
        if status is None:
            status = self._negative(ledger)
        return ReadReply(status)

    def _gather(
        self, ledger: Ledger, request: ReadRequest, entries: list[StoredEntry]
    ) -> None:
        """Append what is there; a damaged record raises CorruptRecord after those before it."""
        recent = ledger.recent
        most = min(request.max_entries, self._limits.max_read_entries)
        room = min(request.max_bytes, self._limits.max_read_bytes)
        entry_id = request.first_entry_id
        while len(entries) < most and (room > 0 or not entries):
            record = recent.get(entry_id)
            if record is None:
                count = len(entries)
                room = self._gather_stored(ledger, entry_id, most - count, room, entries)
                if len(entries) == count:
                    return
                entry_id = EntryId(entries[-1].entry_id + 1)
                continue
            size = len(record.body)
            if record.stage == PENDING or (entries and size > room):
                return
            entries.append(
                StoredEntry(entry_id, record.last_add_confirmed, record.body, record.digest)
            )
            self.counters.cache_hits += 1
            room -= size
            entry_id = EntryId(entry_id + 1)

    def _gather_stored(
        self, ledger: Ledger, first: EntryId, most: int, room: int, entries: list[StoredEntry]
    ) -> int:
        if entries and room <= 0:
            return 0
        locations = self.index.locate(ledger.ledger_id, first, most, room)
        if entries and locations and locations[0].length > room:
            return 0
        expected = first
        for header, body in self.files.read(locations):
            if header.ledger_id != ledger.ledger_id or header.entry_id != expected:
                raise CorruptRecord(f"the index points entry {expected} at another record")
            entries.append(
                StoredEntry(expected, header.last_add_confirmed, body, header.digest)
            )
            room -= len(body)
            expected = EntryId(expected + 1)
        return room

    def _negative(self, ledger: Ledger) -> Status:
        if self._table.in_limbo(ledger):
            return Status.UNKNOWN
        if ledger.deleted or not ledger.known:
            return Status.NO_LEDGER
        return Status.NO_ENTRY

    # ledger and node states

    async def _fence(self, ledger: Ledger) -> bool:
        """Whether the fence is durable, and with it the fate of every add before it is known."""
        ledger.fenced = True
        if ledger.state.fenced:
            return True
        self.counters.fences += 1
        return await self._change(ledger, replace(ledger.wanted, fenced=True))

    async def _change(self, ledger: Ledger, state: LedgerState) -> bool:
        state = replace(
            state, version=ledger.wanted.version + 1, changed_ms=self._clock.wall_ms()
        )
        ledger.wanted = state
        ledger.known = True
        record = LogRecord.about(RecordKind.LEDGER_STATE, state.encode(), ledger.ledger_id)
        assert self._log is not None
        self._append(self._log, ledger, record)
        if await self._settled(record) is not Status.OK:
            return False
        ledger.state = ledger.state.merged(state)
        ledger.deleted = ledger.state.deleted
        return True

    async def delete_ledger(self, ledger_id: LedgerId) -> bool:
        """Drop its entries and keep a tombstone; only for ledgers provably without metadata."""
        ledger = self._table.get(ledger_id)
        ledger.fenced = True
        if ledger.deleted:
            return True
        if not await self._change(ledger, replace(ledger.wanted, deleted=True)):
            return False
        ledger.recent.clear()
        self.counters.ledgers_deleted += 1
        return True

    async def prune_tombstones(self, older_than_ms: int) -> int:
        """Forget ledgers deleted before this wall time; returns how many."""
        pruned: list[LedgerId] = []
        async for ledger_id, stored in in_turns(self.index.states()):
            state = LedgerState.decode(stored)
            if state.deleted and state.changed_ms < older_than_ms:
                pruned.append(ledger_id)
        if pruned:
            self.index.write(IndexBatch(pruned=pruned))
            for ledger_id in pruned:
                self._table.drop(ledger_id)
        return len(pruned)

    @property
    def node_state(self) -> NodeState:
        """Limbo and its bounds."""
        return self._table.node_state

    async def bound_limbo(self, highest: LedgerId) -> bool:
        """Ledgers above `highest` were created after the loss: they are served normally."""
        return await self._change_node(self.node_state.bounded(highest))

    async def enter_limbo(self, reason: str) -> bool:
        """By the operator's command."""
        return await self._change_node(self.node_state.entered_limbo(), f"limbo: {reason}")

    async def accept_loss(self, reason: str, ledger_id: LedgerId | None = None) -> bool:
        """The audited way out of limbo, for one ledger or all: negatives are certain again."""
        text = f"accept loss of {'all' if ledger_id is None else ledger_id}: {reason}"
        _log.warning("%s", text)
        if ledger_id is None:
            return await self._change_node(self.node_state.accepted(), text)
        if not await self.write_records([LogRecord.about(RecordKind.AUDIT, text.encode())]):
            return False
        return await self.clear_limbo(ledger_id)

    async def clear_limbo(self, ledger_id: LedgerId) -> bool:
        """Everything this ledger ought to have here has been checked against its peers."""
        ledger = self._table.get(ledger_id)
        cleared = replace(ledger.wanted, limbo_cleared=self.node_state.limbo_epoch)
        return await self._change(ledger, cleared)

    async def _change_node(self, state: NodeState, audit: str = "") -> bool:
        records = [LogRecord.about(RecordKind.NODE_STATE, state.encode())]
        if audit:
            records.append(LogRecord.about(RecordKind.AUDIT, audit.encode()))
        if not await self.write_records(records):
            return False
        self._table.set_node_state(state)
        return True

    async def carry_states(self, ledger_ids: list[LedgerId]) -> bool:
        """Write the newest states again, so that the files with the older ones may go."""
        records = [LogRecord.about(RecordKind.NODE_STATE, self.node_state.encode())]
        for ledger_id in ledger_ids:
            ledger = self._table.loaded(ledger_id)
            state = ledger.wanted.encode() if ledger else self.index.state(ledger_id)
            if state is not None:
                records.append(LogRecord.about(RecordKind.LEDGER_STATE, state, ledger_id))
                self._table.pin(ledger_id)
        return await self.write_records(records)

    async def write_records(self, records: list[LogRecord]) -> bool:
        """Append records that are no entries; whether all are durable."""
        assert self._log is not None
        if not self._serving:
            return False
        for record in records:
            self._pending[record] = None
            self._pending_bytes += _counted_bytes(record)
            self._log.append(record)
        statuses = [await self._settled(record) for record in records]
        return all(status is Status.OK for status in statuses)

    async def _settled(self, record: LogRecord) -> Status:
        if record.stage == DROPPED:
            return Status.READ_ONLY
        if record.stage != PENDING:
            return Status.OK
        future: asyncio.Future[Status] = asyncio.get_running_loop().create_future()

        def settle(status: Status) -> None:
            if not future.done():
                future.set_result(status)

        record.wait(settle)
        return await future

    # LogOwner

    def committed(self, records: list[LogRecord], position: LogPosition) -> None:
        """See `LogOwner`: acknowledge first, index later."""
        counters, pending, table = self.counters, self._pending, self._table
        for record in records:
            record.stage = LOGGED
            if record in pending:
                del pending[record]
                self._pending_bytes -= _counted_bytes(record)
            if record.kind == RecordKind.ADD:
                ledger = table.get(record.ledger_id)
                ledger.in_flight -= 1
                if record.entry_id > ledger.last_entry:
                    ledger.last_entry = record.entry_id
                if record.last_add_confirmed > ledger.last_add_confirmed:
                    ledger.last_add_confirmed = record.last_add_confirmed
                counters.adds += 1
                counters.added_bytes += len(record.body)
            self._tell(record, Status.OK)
        self.indexer.put(records, position)

    def dropped(self, records: list[LogRecord]) -> None:
        """See `LogOwner`: the disk is full, and none of these is or ever will be here."""
        for record in records:
            record.stage = DROPPED
            self._pending.pop(record, None)
            self._pending_bytes -= _counted_bytes(record)
            if record.kind == RecordKind.LEDGER_STATE:
                self._table.unpin(record.ledger_id)
                continue
            ledger = self._table.loaded(record.ledger_id)
            if ledger is not None and record.kind == RecordKind.ADD:
                ledger.in_flight -= 1
                if ledger.recent.get(record.entry_id) is record:
                    del ledger.recent[record.entry_id]
        self.space.disk_was_full()
        for record in records:
            self._tell(record, Status.READ_ONLY)

    def log_failed(self, error: BaseException) -> None:
        """See `LogOwner`: nothing that was under way is known; the process must end."""
        _log.critical("the log failed, this process must end: %s", error)
        self._serving = False
        pending, self._pending = self._pending, {}
        for record in pending:
            self._tell(record, Status.UNKNOWN)
        self._on_fatal(error)

    def _tell(self, record: LogRecord, status: Status) -> None:
        try:
            record.settle(status)
        except Exception:
            _log.exception("whoever waited for a record failed")

    # what others may know

    @property
    def serving(self) -> bool:
        """Between the end of the replay and stop or failure."""
        return self._serving

    @property
    def pending_bytes(self) -> int:
        """Accepted and not yet durable."""
        return self._pending_bytes

    @property
    def log(self) -> Log:
        """The log, once started."""
        assert self._log is not None
        return self._log

    @property
    def disk(self) -> Disk:
        """Where everything lies."""
        return self._disk

    async def _watch_space(self) -> None:
        while True:
            await self._clock.sleep(self._limits.space_check_interval_s)
            self.indexer.retry()
            try:
                self.space.check()
            except OSError as error:
                _log.error("the disk does not tell its free space: %s", error)

    async def ledger_ids(self) -> list[LedgerId]:
        """Ledgers with entries or a state here, not deleted; ascending."""
        found: set[LedgerId] = set()
        async for ledger_id in in_turns(self.index.ledgers()):
            found.add(ledger_id)
        found |= {ledger.ledger_id for ledger in self._table if ledger.known}
        deleted: set[LedgerId] = set()
        async for ledger_id, stored in in_turns(self.index.states()):
            (deleted if LedgerState.decode(stored).deleted else found).add(ledger_id)
        deleted |= {ledger.ledger_id for ledger in self._table if ledger.deleted}
        return sorted(found - deleted)


def _counted_bytes(record: LogRecord) -> int:
    """Of `pending_bytes`. The log renews a list of files when it writes it, so that is nothing."""
    return 0 if record.kind == RecordKind.FILES else len(record.body)
