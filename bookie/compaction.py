"""Gives back the space of deleted ledgers: moves what lives into sorted runs.

    1 write live entries of the victims, sorted by ledger, into a new run   crash: run unlisted,
    2 record: the run belongs to the log (FILES)                            unlinked at start
    3 point the index at the run, flush                                     crash: both are there
    4 record: newest states of the victims' ledgers, and FILES without
      the victims                                                           crash: unlinked at
    5 unlink the victims                                                    the next start

What lives is decided record by record against the index, not by the sums that chose the victim.

A round goes on until the files are small enough: files in which nothing lives go first, without
reading them and without any room; then the emptiest ones, as much at a time as fits into one
run, and each batch gives its room back before the next.
"""

from __future__ import annotations

import asyncio
import logging
import random
import struct
from dataclasses import dataclass, replace
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
_DEAD_AT_ONCE: Final = 16
_SMALL_PART: Final = 16
_MANY_SMALL: Final = 32
_WORTH_RATIO: Final = 0.9
"""Rewriting a file of which more lives would free next to nothing."""

_log = logging.getLogger(__name__)


_LIVE: Final = struct.Struct(">QQQQI")
"""An entry to move, as bytes that sort by ledger and entry: there may be a million of them."""


def _live(ledger_id: LedgerId, entry_id: EntryId, location: Location) -> bytes:
    return _LIVE.pack(ledger_id, entry_id, *location)


def _opened(live: bytes) -> tuple[LedgerId, EntryId, Location]:
    ledger_id, entry_id, file_id, offset, length = _LIVE.unpack(live)
    return LedgerId(ledger_id), EntryId(entry_id), Location(FileId(file_id), offset, length)


@dataclass(frozen=True, slots=True)
class CompactionResult:
    """What one round did. `short_of_bytes`: so much more free space would let it do more."""

    victims: tuple[FileId, ...] = ()
    moved_entries: int = 0
    freed_bytes: int = 0
    short_of_bytes: int = 0


class Compactor:
    """One round at a time."""

    def __init__(
        self,
        storage: BookieStorage,
        random_: random.Random,
        *,
        live_ratio: float = 0.5,
        disk_ratio: float = 1.3,
        max_victims: int = 64,
    ) -> None:
        """Files of which less than `live_ratio` lives are rewritten; the emptiest also while all
        files together are longer than `disk_ratio` times what lives, plus one file. A round takes
        at most `max_victims` that something lives in."""
        self._storage = storage
        self._random = random_
        self._live_ratio = live_ratio
        self._disk_ratio = disk_ratio
        self._max_victims = max_victims
        self._unmovable: set[FileId] = set()

    def _candidates(self) -> list[FileId]:
        """Files that may be rewritten, the emptiest first; never the one being written or not yet
        indexed."""
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
            found.append((self._live_share(file_id), file_id))
        return [file_id for _, file_id in sorted(found)]

    def _live_share(self, file_id: FileId) -> float:
        files = self._storage.files
        return files.live_bytes(file_id) / max(files[file_id].size_bytes, 1)

    @property
    def excess_bytes(self) -> int:
        """By how much the files are longer than they should be."""
        files = self._storage.files
        allowed = self._disk_ratio * files.usage.total_bytes + self._storage.limits.file_bytes
        return files.total_bytes() - int(allowed)

    def _is_victim(self, file_id: FileId) -> bool:
        share = self._live_share(file_id)
        return share < self._live_ratio or (share < _WORTH_RATIO and self.excess_bytes > 0)

    def _in_limbo(self) -> bool:
        return self._storage.node_state.limbo_ceiling != NO_LEDGERS

    def _known_damage(self) -> frozenset[FileId]:
        return frozenset(place.file_id for place in self._storage.node_state.known_damage)

    async def compact(self) -> CompactionResult:
        """One round. Raises StorageError when a step failed; nothing is lost by that."""
        done = CompactionResult()
        tried: set[FileId] = set()
        while len(tried) < self._max_victims:
            batch, short_of = self._next_batch(tried)
            if not batch:
                return replace(done, short_of_bytes=short_of)
            tried |= {file_id for file_id in batch if self._storage.files.live_bytes(file_id)}
            result = await self._compact(batch)
            if not result.victims:
                if not tried.issuperset(batch):
                    return done  # the log takes no records now: nothing can go
                continue
            done = CompactionResult(
                (*done.victims, *result.victims), done.moved_entries + result.moved_entries,
                done.freed_bytes + result.freed_bytes,
            )
        return done

    def _next_batch(self, tried: set[FileId]) -> tuple[list[FileId], int]:
        """Files to rewrite together, and how many free bytes are missing for one more."""
        files = self._storage.files
        candidates = [one for one in self._candidates() if one not in tried]
        dead = [one for one in candidates if not files.live_bytes(one)]
        if dead:
            return dead[:_DEAD_AT_ONCE], 0
        room = self._room()
        batch: list[FileId] = []
        size_bytes = short_of = 0
        for file_id in candidates:
            if not self._is_victim(file_id):
                break
            live = files.live_bytes(file_id)
            if live > room - size_bytes:
                short_of = short_of or live - (room - size_bytes)
                continue
            if batch and size_bytes + live > self._storage.limits.file_bytes:
                break
            batch.append(file_id)
            size_bytes += live
        if not batch:
            batch = self._small_runs(candidates, room)
        if short_of and not batch:
            _log.warning(
                "%d bytes more of free space are needed to compact what is left", short_of
            )
        return batch, short_of

    def _small_runs(self, candidates: list[FileId], room: int) -> list[FileId]:
        """Runs to be joined, once there are many that hardly fill a file: each keeps a descriptor
        open."""
        files, limit = self._storage.files, self._storage.limits.file_bytes // _SMALL_PART
        small = [one for one in candidates if is_run(one) and files[one].size_bytes < limit]
        if len(small) < _MANY_SMALL or sum(map(files.live_bytes, small)) > room:
            return []
        return small

    def _room(self) -> int:
        """What the log needs for fences and recovery is not for compaction."""
        disk = self._storage.disk
        return disk.free_bytes() - self._storage.limits.reserve_at(disk.total_bytes())

    async def _compact(self, batch: list[FileId]) -> CompactionResult:
        storage, files = self._storage, self._storage.files
        live: list[bytes] = []
        ledgers: set[LedgerId] = set()
        victims: list[FileId] = []
        for file_id in batch:
            found = await self._live_of(file_id, ledgers)
            if found is None:
                self._unmovable.add(file_id)
                continue
            victims.append(file_id)
            live += found
        if not victims:
            return CompactionResult()
        live.sort()
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

    async def _live_of(self, file_id: FileId, ledgers: set[LedgerId]) -> list[bytes] | None:
        """Entries the index finds in this file; None when one of them is damaged. Adds to
        `ledgers` those whose states may stand in it."""
        storage = self._storage
        live: list[bytes] = []
        stated = storage.files.stated.get(file_id)
        if stated is not None and not storage.files.live_bytes(file_id):
            # Everything in it was written and indexed since the start, so nothing can hide.
            ledgers |= stated
            return live
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
                    live.append(_live(header.ledger_id, header.entry_id, location))
            await asyncio.sleep(0)
        return live

    def _is_live(self, ledger_id: LedgerId, entry_id: EntryId, location: Location) -> bool:
        return self._storage.index.locate(ledger_id, entry_id, 1, 0) == [location]

    async def _move(self, live: list[bytes]) -> bool:
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
        self, run_id: FileId, run: AppendFile, live: list[bytes]
    ) -> list[Location]:
        nonce = self._random.getrandbits(64)
        await run.append_and_sync([encode_file_header(FileHeader(run_id, nonce))])
        moved: list[Location] = []
        sequence, at = 0, 0
        while at < len(live):
            batch: list[LogRecord] = []
            size = 0
            while at < len(live) and size < _COMMIT_BYTES:
                _, _, location = _opened(live[at])
                for header, body in self._storage.files.read([location]):
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

    def _point(self, run_id: FileId, live: list[bytes], moved: list[Location]) -> None:
        """Only what still lies where it was found: a ledger may have been deleted meanwhile."""
        batch = IndexBatch()
        usage = self._storage.files.usage
        for entry, location in zip(live, moved, strict=True):
            ledger_id, entry_id, before = _opened(entry)
            if self._is_live(ledger_id, entry_id, before):
                batch.locations.append((ledger_id, entry_id, location))
                size = usage.get(run_id, ledger_id) + location.length + RECORD_HEADER_BYTES
                usage.set(run_id, ledger_id, size)
                batch.usage[run_id, ledger_id] = size
        self._storage.index.write(batch)

    def _forget_usage(self, victims: list[FileId]) -> None:
        batch = IndexBatch()
        for file_id in victims:
            for ledger_id in self._storage.files.usage.in_file(file_id):
                batch.usage[file_id, ledger_id] = 0
        self._storage.index.write(batch)
