"""Gives back the space of deleted ledgers: moves what lives into sorted runs.

    1 write live entries of the victims, sorted by ledger, into a new run   crash: run unlisted,
    2 record: the run belongs to the log (FILES)                            unlinked at start
    3 point the index at the run, flush                                     crash: both are there
    4 record: newest states of the victims' ledgers, and FILES without
      the victims                                                           crash: unlinked at
    5 unlink the victims                                                    the next start

What lives is decided record by record against the index, not by the sums that chose the victim.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import Final

from bookie.index import IndexBatch
from bookie.ledger_state import NO_LEDGERS
from bookie.log import LogRecord, files_record, place_records
from bookie.log_files import file_name, is_run
from bookie.record import (
    COMMIT_HEADER_BYTES,
    FILE_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    CommitHeader,
    FileHeader,
    FileId,
    Location,
    LogPosition,
    RecordKind,
    encode_commit_header,
    encode_file_header,
)
from bookie.scan import Damage, scan_file
from bookie.storage import BookieStorage
from bookie.turns import in_turns
from magnetar.errors import StorageError
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.disk import AppendFile
from magnetar.runtime.network import Buffer

_COMMIT_BYTES: Final = 1 << 20  # short, for the log's commits wait behind them

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Live:
    """An entry to move; sorts by ledger and entry."""

    ledger_id: LedgerId
    entry_id: EntryId
    location: Location


@dataclass(frozen=True, slots=True)
class CompactionResult:
    """What one round did."""

    victims: tuple[FileId, ...] = ()
    moved_entries: int = 0
    freed_bytes: int = 0


class Compactor:
    """One round at a time."""

    def __init__(
        self,
        storage: BookieStorage,
        random_: random.Random,
        *,
        live_ratio: float = 0.5,
        max_victims: int = 8,
    ) -> None:
        """Files of which less than `live_ratio` lives are rewritten."""
        self._storage = storage
        self._random = random_
        self._live_ratio = live_ratio
        self._max_victims = max_victims
        self._unmovable: set[FileId] = set()

    def victims(self) -> list[FileId]:
        """The files with the least in them; never the one being written or not yet indexed."""
        storage, files = self._storage, self._storage.files
        reached = storage.indexer.position
        damaged = self._known_damage() if self._in_limbo() else frozenset()
        found: list[tuple[float, FileId]] = []
        for file_id in sorted(files.listed):
            if file_id in self._unmovable or file_id in damaged:
                continue
            if not is_run(file_id) and (
                file_id >= storage.log.active_file_id
                or reached is None
                or file_id >= reached.file_id
            ):
                continue
            ratio = files.live_bytes(file_id) / max(files[file_id].size_bytes, 1)
            if ratio < self._live_ratio:
                found.append((ratio, file_id))
        return [file_id for _, file_id in sorted(found)[: self._max_victims]]

    def _in_limbo(self) -> bool:
        return self._storage.node_state.limbo_ceiling != NO_LEDGERS

    def _known_damage(self) -> frozenset[FileId]:
        return frozenset(place.file_id for place in self._storage.node_state.known_damage)

    async def compact(self) -> CompactionResult:
        """One round. Raises StorageError when a step failed; nothing is lost by that."""
        storage, files = self._storage, self._storage.files
        live: list[_Live] = []
        ledgers: set[LedgerId] = set()
        victims: list[FileId] = []
        for file_id in self.victims():
            found = await self._live_of(file_id, ledgers)
            if found is None:
                self._unmovable.add(file_id)
                continue
            victims.append(file_id)
            live += found
        if not victims:
            return CompactionResult()
        live.sort(key=lambda entry: (entry.ledger_id, entry.entry_id))
        if not self._has_room(live):
            _log.warning("too little room to move %d entries; nothing is compacted", len(live))
            return CompactionResult()
        if live and not await self._move(live):
            return CompactionResult()
        freed = sum(files[file_id].size_bytes for file_id in victims)
        if not await storage.carry_states(sorted(ledgers)):
            return CompactionResult()
        files.listed -= set(victims)
        if not await storage.write_records([files_record(files)]):
            files.listed |= set(victims)
            return CompactionResult()
        self._forget_usage(victims)
        for file_id in victims:
            await files.unlink(file_id)
        _log.info("compacted %s", ", ".join(map(file_name, victims)))
        return CompactionResult(tuple(victims), len(live), freed)

    def _has_room(self, live: list[_Live]) -> bool:
        """What the log needs for fences and recovery is not for compaction."""
        needed = sum(RECORD_HEADER_BYTES + entry.location.length for entry in live)
        disk = self._storage.disk
        reserve = self._storage.limits.reserve_at(disk.total_bytes())
        return not live or disk.free_bytes() >= needed + reserve

    async def _live_of(self, file_id: FileId, ledgers: set[LedgerId]) -> list[_Live] | None:
        """Entries the index finds in this file; None when one of them is damaged."""
        storage = self._storage
        live: list[_Live] = []
        for found in scan_file(storage.files[file_id], file_id):
            if isinstance(found, Damage) or found.damaged_at is not None:
                if file_id not in self._known_damage():
                    # Something living may lie there; only an accepted loss lets it go.
                    _log.error("%s is damaged and stays", file_name(file_id))
                    return None
                if isinstance(found, Damage):
                    continue
            async for record in in_turns(found.records):
                header = record.header
                if header.kind in (RecordKind.ADD, RecordKind.LEDGER_STATE):
                    ledgers.add(header.ledger_id)
                if header.kind != RecordKind.ADD:
                    continue
                location = Location(file_id, record.offset, header.length)
                if self._is_live(header.ledger_id, header.entry_id, location):
                    if not record.body_holds:
                        _log.error("%s holds a damaged entry and stays", file_name(file_id))
                        return None
                    live.append(_Live(header.ledger_id, header.entry_id, location))
            await asyncio.sleep(0)
        return live

    def _is_live(self, ledger_id: LedgerId, entry_id: EntryId, location: Location) -> bool:
        return self._storage.index.locate(ledger_id, entry_id, 1, 0) == [location]

    async def _move(self, live: list[_Live]) -> bool:
        storage, files = self._storage, self._storage.files
        run_id, run = await files.create(run=True)
        try:
            moved = await self._write_run(run_id, run, live)
        except StorageError:
            # No list names it: left behind, it would take what little room there is.
            await files.unlink(run_id)
            raise
        files.listed.add(run_id)
        if not await storage.write_records([files_record(files)]):
            files.listed.discard(run_id)
            return False
        for start in range(0, len(live), 256):
            self._point(run_id, live[start : start + 256], moved[start : start + 256])
            await asyncio.sleep(0)
        storage.index.flush()
        return True

    async def _write_run(
        self, run_id: FileId, run: AppendFile, live: list[_Live]
    ) -> list[Location]:
        nonce = self._random.getrandbits(64)
        await run.append_and_sync([encode_file_header(FileHeader(run_id, nonce))])
        moved: list[Location] = []
        sequence, at = 0, 0
        while at < len(live):
            batch: list[LogRecord] = []
            size = 0
            while at < len(live) and size < _COMMIT_BYTES:
                for header, body in self._storage.files.read([live[at].location]):
                    batch.append(
                        LogRecord(
                            RecordKind.ADD, header.ledger_id, header.entry_id,
                            header.last_add_confirmed, header.digest, body,
                        )
                    )
                    size += len(body)
                at += 1
            start = run.size_bytes
            parts: list[Buffer] = [b""]
            end = place_records(batch, run_id, start + COMMIT_HEADER_BYTES, parts)
            parts[0] = encode_commit_header(
                CommitHeader(
                    nonce, sequence, start, end - start - COMMIT_HEADER_BYTES, len(batch),
                    LogPosition(run_id, max(start, FILE_HEADER_BYTES)),
                )
            )
            await run.append_and_sync(parts)
            sequence += 1
            moved += [Location(run_id, record.offset, len(record.body)) for record in batch]
        return moved

    def _point(self, run_id: FileId, live: list[_Live], moved: list[Location]) -> None:
        """Only what still lies where it was found: a ledger may have been deleted meanwhile."""
        batch = IndexBatch()
        usage = self._storage.files.usage.setdefault(run_id, {})
        for entry, location in zip(live, moved, strict=True):
            if self._is_live(entry.ledger_id, entry.entry_id, entry.location):
                batch.locations.append((entry.ledger_id, entry.entry_id, location))
                size = usage.get(entry.ledger_id, 0) + location.length + RECORD_HEADER_BYTES
                usage[entry.ledger_id] = batch.usage[run_id, entry.ledger_id] = size
        self._storage.index.write(batch)

    def _forget_usage(self, victims: list[FileId]) -> None:
        batch = IndexBatch()
        for file_id in victims:
            for ledger_id in self._storage.files.usage.get(file_id, {}):
                batch.usage[file_id, ledger_id] = 0
        self._storage.index.write(batch)
