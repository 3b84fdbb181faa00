"""A topic's log: a chain of ledgers that its record names, with one owner at a time.

Opening takes the record by CAS, recovers what the last owner left open, writes the list by CAS,
and only then serves (M1). The first append opens a ledger. Nothing above the last confirmed
entry is ever read; ledgers leave the list by CAS before they are deleted (M6); the first sign
of another owner fences the log and its state for good (M2).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

from ledger.chain import EndedLedger, LedgerChain, OnAppended
from ledger.doomed_ledgers import delete_doomed, with_doomed
from ledger.driver import LedgerStore, LedgerWriterHandle, ReadHandle
from ledger.invariant import invariant
from ledger.log_entry import LogEntry as LogEntry
from ledger.log_positions import UNKNOWN_ENTRIES, LogPositions
from ledger.position import BEFORE_FIRST, Position
from ledger.quorum import Quorums
from ledger.schedule_log import ScheduleLog
from ledger.state_log import StateLog
from ledger.topic_record import MayTake, OwnedTopic, from_anybody
from ledger.wire import StoredEntry
from magnetar.errors import (
    EntryNotFound,
    LedgerError,
    LedgerFenced,
    LedgerNotFound,
)
from magnetar.ids import BrokerId, EntryId, LedgerId
from magnetar.runtime.clock import Clock
from metadata.topics import LedgerInfo, Owner, TopicRecord, TopicRepository

MAX_OPEN_READERS: Final = 64


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """Quorums of new ledgers, and when one is full."""

    quorums: Quorums = field(default_factory=Quorums)
    max_ledger_bytes: int = 1 << 30
    max_ledger_entries: int = 1_000_000
    max_ledger_age_ms: int = 4 * 3_600_000
    """Looked at when something is appended."""


class ManagedLog(LogPositions):
    """See the module. Made by `open`."""

    persistent: ClassVar[bool] = True

    def __init__(
        self,
        owned: OwnedTopic,
        ledgers: LedgerStore,
        clock: Clock,
        policy: LogPolicy,
        state_records: Sequence[bytes],
        schedule_readers: Sequence[ReadHandle],
        on_fenced: Callable[[LedgerError], None],
    ) -> None:
        self._owned = owned
        self._ledgers = ledgers
        self._clock = clock
        self._policy = policy
        self._on_fenced = on_fenced
        self._fenced = False
        self._readers: OrderedDict[LedgerId, ReadHandle] = OrderedDict()
        self._chain = LedgerChain(
            owned.record.name, ledgers, lambda: self._policy.quorums, self, self._is_full,
            self._fence,
        )
        self.last_confirmed = _last_of(owned.record)
        """Highest stored entry; BEFORE_FIRST while there is none."""
        self.last_append_ms = 0
        """When whoever appends says it appended last, by the wall clock; 0: it did not say."""
        self._learned_bytes: dict[LedgerId, int] = {}
        self._first_ordinals: dict[LedgerId, int] = {}
        self.state = StateLog(owned, ledgers, lambda: self._policy.quorums, state_records,
                              self._fence)
        self.schedule = ScheduleLog(owned, ledgers, lambda: self._policy.quorums,
                                    schedule_readers, self._fence)

    @classmethod
    async def open(
        cls,
        topic: str,
        broker_id: BrokerId,
        incarnation: str,
        *,
        topics: TopicRepository,
        ledgers: LedgerStore,
        clock: Clock,
        policy: LogPolicy,
        on_fenced: Callable[[LedgerError], None],
        may_take: MayTake = from_anybody,
    ) -> ManagedLog:
        """Take the topic over; `topic` is the full name of one that has a record.

        `on_fenced` is called once, when another owner is seen: the log serves no more then.
        Raises NotFound, LedgerFenced (`may_take` says no, or another took it meanwhile),
        RecoveryAborted (too few bookies: try again later), ConnectionLoss, SessionExpired.
        """
        owned = await OwnedTopic.claim(
            topics, topic, broker_id, incarnation, clock, ledgers.limits, may_take
        )
        recovered, state_records, schedule_readers = await asyncio.gather(
            _recover(owned.record, ledgers),
            StateLog.recover(owned.record.state_ledgers, ledgers),
            ScheduleLog.recover(owned.record.schedule_ledgers, ledgers),
        )
        if recovered:
            now_ms = clock.wall_ms()
            await owned.update(lambda record: _with_ended(record, recovered, now_ms, now_ms))
        return cls(owned, ledgers, clock, policy, state_records, schedule_readers, on_fenced)

    # -- what is known -------------------------------------------------------------------------

    @property
    def owner(self) -> Owner:
        """Us, with our epoch."""
        return self._owned.owner

    @property
    def record(self) -> TopicRecord:
        """The topic's record as we last wrote it."""
        return self._owned.record

    @property
    def doomed_ledgers(self) -> tuple[LedgerId, ...]:
        """Those that left a list and are not known to be deleted."""
        gone = self._owned.deleted
        return tuple(one for one in self.record.doomed_ledgers if one not in gone)

    @property
    def policy(self) -> LogPolicy:
        """Quorums and limits of the ledgers to come; may be set at any time."""
        return self._policy

    @policy.setter
    def policy(self, policy: LogPolicy) -> None:
        self._policy = policy

    @property
    def pending_bytes(self) -> int:
        """Bytes appended and not yet stored."""
        return self._chain.pending_bytes

    @property
    def blocked_reason(self) -> str | None:
        """Why appends wait, for an operator; None when nothing is in the way."""
        return (
            self._chain.blocked_reason or self.state.blocked_reason
            or self.schedule.blocked_reason
        )

    def bytes_of(self, info: LedgerInfo) -> int:
        """Bytes of a ledger's entries; 0 while unknown, as of one recovered from another owner
        before `learn_bytes`."""
        writer = self._chain.writer
        if writer is not None and writer.ledger_id == info.ledger_id:
            return writer.length_bytes
        return info.size_bytes or self._learned_bytes.get(info.ledger_id, 0)

    def note_first_ordinal(self, ledger_id: LedgerId, ordinal: int) -> None:
        """To be written into the record with the ledger's end."""
        self._first_ordinals[ledger_id] = ordinal

    def learn_bytes(self, ledger_id: LedgerId, size_bytes: int) -> None:
        """How long a closed ledger is whose record does not say; `tidy` writes it down."""
        for info in self.record.ledgers:
            if info.ledger_id == ledger_id and info.entries > 0 and not info.size_bytes:
                self._learned_bytes[ledger_id] = size_bytes

    def _with_learned(self, record: TopicRecord) -> TopicRecord:
        return replace(record, ledgers=tuple(map(self._learned, record.ledgers)))

    def _learned(self, info: LedgerInfo) -> LedgerInfo:
        """With what is known and not yet written; what is open is written when it ends."""
        if info.entries == UNKNOWN_ENTRIES:
            return info
        size_bytes = info.size_bytes or self._learned_bytes.get(info.ledger_id, 0)
        ordinal = info.first_ordinal or self._first_ordinals.get(info.ledger_id, 0)
        if (size_bytes, ordinal) == (info.size_bytes, info.first_ordinal):
            return info
        return replace(info, size_bytes=size_bytes, first_ordinal=ordinal)

    # -- writing -------------------------------------------------------------------------------

    def append(self, body: bytes, on_done: OnAppended) -> None:
        """Append in order. `on_done` gets the position, or LedgerFenced: whether the entry is
        stored is unknown; or LedgerClosed: it certainly is not. Without enough bookies it
        waits, and `blocked_reason` says why."""

        def done(result: Position | LedgerError) -> None:
            if isinstance(result, Position):
                invariant(result > self.last_confirmed, "I5", f"{result} does not grow")
                self.last_confirmed = result
            on_done(result)

        self._chain.append(body, done)

    def _is_full(self, writer: LedgerWriterHandle, opened_s: float) -> bool:
        policy = self._policy
        return (
            writer.last_add_pushed + 1 >= policy.max_ledger_entries
            or writer.length_bytes + writer.pending_bytes >= policy.max_ledger_bytes
            or (self._clock.monotonic_s() - opened_s) * 1000 >= policy.max_ledger_age_ms
        )

    async def roll(self) -> None:
        """Close the open ledger, once what is in flight is stored; the next append opens another.
        Raises LedgerFenced."""
        await self._chain.roll()

    async def close(self) -> None:
        """Store what is in flight, close the ledgers, take no more appends (M10).

        The topic stays ours in its record until another takes it. Raises LedgerFenced.
        """
        await self.schedule.close()
        await self._chain.close()
        await self.state.close()
        await self._owned.drop_deleted()
        self._owned.fence("it was closed by its owner")

    def abandon(self, reason: str) -> None:
        """Stop at once without a word to the metadata: this broker serves the topic no more.
        Whether what waits is stored is unknown; the next owner closes the ledgers."""
        self._fence(LedgerFenced(f"{self.record.name} is given up: {reason}"))

    async def trim(self, keep_from: Position) -> int:
        """Delete the closed ledgers whose entries all lie before `keep_from`; answers how many.

        The list is written first: a leak is safe, the reverse would be loss (M6).
        """
        gone: list[LedgerId] = []

        def without_consumed(record: TopicRecord) -> TopicRecord:
            gone.clear()
            for info in record.ledgers:
                if not _lies_before(info, keep_from):
                    break
                gone.append(info.ledger_id)
            if not gone:
                return record
            return with_doomed(replace(
                self._with_learned(record), ledgers=record.ledgers[len(gone):],
                trimmed_ledgers=record.trimmed_ledgers + len(gone),
            ), gone)

        await self.update_record(without_consumed)
        for ledger_id in gone:
            self._readers.pop(ledger_id, None)
            self._learned_bytes.pop(ledger_id, None)
            self._first_ordinals.pop(ledger_id, None)
        await delete_doomed(self._owned, self._ledgers)
        return len(gone)

    async def tidy(self) -> None:
        """Write down what was learned of ledgers, and delete what earlier could not be deleted.
        Raises LedgerFenced."""
        if self._with_learned(self.record) != self.record:
            await self.update_record(self._with_learned)
        await delete_doomed(self._owned, self._ledgers)

    async def terminate(self) -> None:
        """Record that no message follows the last one, ever; what is in flight must be stored
        before. Raises LedgerFenced."""
        await self.update_record(lambda record: replace(record, terminated=True))

    async def mark_deleting(self) -> None:
        """Record that the topic is to go: from here on it is not there any more. Raises
        LedgerFenced."""
        await self.update_record(lambda record: replace(record, deleting=True))

    async def update_record(self, change: Callable[[TopicRecord], TopicRecord]) -> TopicRecord:
        """Change other fields of the record, such as properties; a pure function. Raises
        LedgerFenced."""
        try:
            return await self._owned.update(change)
        except LedgerFenced as error:
            self._fence(error)
            raise

    def _fence(self, error: LedgerError) -> None:
        """Another owner was seen: nothing of this log is written any more (M2)."""
        if self._fenced:
            return
        self._fenced = True
        self._owned.fence(str(error))
        self._chain.fence(error)
        self.state.fence(error)
        self.schedule.fence(error)
        self._on_fenced(error)

    # -- the record, as the chain keeps it -----------------------------------------------------

    async def record_chain(
        self, ended: Sequence[EndedLedger], opened: LedgerId | None
    ) -> None:
        """See `ChainKeeper`."""
        now_ms = self._clock.wall_ms()
        # What waits for the next ledger may be newer than this one's last entry, never older.
        last_append_ms = min(self.last_append_ms or now_ms, now_ms)
        sizes = {one.ledger_id: (one.entries, one.size_bytes) for one in ended}

        def changed(record: TopicRecord) -> TopicRecord:
            record = self._with_learned(_with_ended(record, sizes, now_ms, last_append_ms))
            return record if opened is None else _with_opened(record, opened)

        await self._owned.update(changed)
        if any(one.entries == 0 for one in ended):
            await delete_doomed(self._owned, self._ledgers)

    async def may_name(self, ledger_id: LedgerId) -> bool:
        """See `ChainKeeper`."""
        return await self._owned.may_name(ledger_id)

    async def record_snapshot(self, opened: LedgerId | None) -> None:
        """See `ChainKeeper`: a log is never replaced."""
        raise NotImplementedError("a topic's log has no snapshots")

    # -- reading -------------------------------------------------------------------------------

    async def read(self, start: Position, max_entries: int, max_bytes: int) -> list[LogEntry]:
        """Confirmed entries from `start` on, within the bounds but at least one if there is any;
        goes across ledgers; [] at the end. `start` may be trimmed or past its ledger's end.

        Raises EntryUnknown (try again later), EntryNotFound and LedgerNotFound (a loss: of what
        the list still names).
        """
        found: list[LogEntry] = []
        size_bytes = 0
        position = self.resolve(start)
        while position <= self.last_confirmed and len(found) < max_entries:
            if found and size_bytes >= max_bytes:
                break
            try:
                entries = await self._read_ledger(
                    position, max_entries - len(found), max_bytes - size_bytes
                )
            except (LedgerNotFound, EntryNotFound):
                if found or self._keeps(position.ledger_id):
                    raise
                # Trimmed under our eyes, which is no loss: what is left comes after it.
                if (following := self.resolve(position)) == position:
                    break
                position = following
                continue
            for entry in entries:
                found.append(LogEntry(Position(position.ledger_id, entry.entry_id), entry.body))
                size_bytes += len(entry.body)
            following = self.position_after(found[-1].position)
            if following.ledger_id == position.ledger_id:
                break
            position = following
        return found

    def _keeps(self, ledger_id: LedgerId) -> bool:
        return any(info.ledger_id == ledger_id for info in self.record.ledgers)

    async def _read_ledger(
        self, position: Position, max_entries: int, max_bytes: int
    ) -> list[StoredEntry]:
        ledger_id, first = position.ledger_id, position.entry_id
        writer = self._chain.writer
        if writer is not None and writer.ledger_id == ledger_id:
            return await writer.read(first, max_entries, max_bytes)
        reader = self._readers.get(ledger_id)
        if reader is None or reader.last_entry < first:
            reader = await self._ledgers.open(ledger_id)
            self._readers[ledger_id] = reader
            while len(self._readers) > MAX_OPEN_READERS:
                self._readers.popitem(last=False)
        self._readers.move_to_end(ledger_id)
        return await reader.read(first, max_entries, max_bytes)


async def _recover(
    record: TopicRecord, ledgers: LedgerStore
) -> dict[LedgerId, tuple[int, int]]:
    """(entries, bytes) of the ledgers the last owner left without an end, which are closed
    now. There is one at most, unless an owner died between closing and recording."""
    sizes: dict[LedgerId, tuple[int, int]] = {}
    for info in record.ledgers:
        if info.entries == UNKNOWN_ENTRIES:
            reader = await ledgers.recover(info.ledger_id)
            sizes[info.ledger_id] = (reader.last_entry + 1, reader.metadata.length_bytes)
    return sizes


def _with_ended(
    record: TopicRecord, sizes: dict[LedgerId, tuple[int, int]], now_ms: int, last_append_ms: int
) -> TopicRecord:
    """The record with the ends of ledgers that are closed now, and without empty ones."""
    infos, empty = [], []
    for info in record.ledgers:
        if info.ledger_id in sizes:
            entries, size_bytes = sizes[info.ledger_id]
            info = replace(
                info, entries=entries, size_bytes=size_bytes, closed_ms=now_ms,
                last_append_ms=last_append_ms,
            )
        if info.entries != 0:
            infos.append(info)
        else:
            empty.append(info.ledger_id)
    return with_doomed(replace(record, ledgers=tuple(infos)), empty)


def _with_opened(record: TopicRecord, opened: LedgerId) -> TopicRecord:
    if opened <= record.last_ledger_id:
        raise LedgerFenced(
            f"ledger {opened} is not above {record.last_ledger_id}, the last of {record.name}"
        )
    invariant(
        all(info.entries != UNKNOWN_ENTRIES for info in record.ledgers), "M3",
        "a ledger is opened only when the one before it is closed",
    )
    ledgers = (*record.ledgers, LedgerInfo(opened))
    return replace(record, ledgers=ledgers, last_ledger_id=opened)


def _last_of(record: TopicRecord) -> Position:
    for info in reversed(record.ledgers):
        if info.entries > 0:
            return Position(info.ledger_id, EntryId(info.entries - 1))
    return BEFORE_FIRST


def _lies_before(info: LedgerInfo, keep_from: Position) -> bool:
    if info.entries == UNKNOWN_ENTRIES or info.ledger_id > keep_from.ledger_id:
        return False
    return info.ledger_id < keep_from.ledger_id or info.entries <= keep_from.entry_id
