"""The index in RocksDB: raw bytes, no journal, one column family with key prefixes.

    e | u64 ledger | u64 entry      -> u64 file id | u64 offset | u32 length
    s | u64 ledger                  -> ledger state
    u | u64 file id | u64 ledger    -> u64 bytes
    n, f, p                         -> node state, list of files, replay position

RocksDB is opened in raw mode only: its other mode unpickles what it finds.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rocksdict import Options, Rdict, ReadOptions, WriteBatch, WriteOptions

from bookie.index import IndexBatch
from bookie.record import FileId, Location, LogPosition
from magnetar.errors import CorruptRecord, StorageError
from magnetar.ids import NO_ENTRY_ID, EntryId, LedgerId

_ENTRY_KEY = struct.Struct(">cQQ")
_LEDGER_KEY = struct.Struct(">cQ")
_LOCATION = struct.Struct(">QQI")
_POSITION = struct.Struct(">QQ")
_SIZE = struct.Struct(">Q")
_HIGHEST: Final = 2**64 - 1
_WRITE_BUFFER_BYTES: Final = 16 << 20


class RocksIndex:
    """`Index` over a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Open; a damaged index is set aside, and the log rebuilds it. Raises StorageError for
        one that is in use: it must not be taken from under whoever uses it."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = _open(folder)
        except Exception as error:  # rocksdict raises bare Exceptions
            if "LOCK" in str(error):
                raise StorageError(f"{folder} is in use by another process") from error
            aside = folder.with_name(folder.name + ".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            if folder.exists():
                folder.rename(aside)
            self._db = _open(folder)
        self._options = WriteOptions()
        self._options.disable_wal = True  # type: ignore[method-assign, assignment]

    def write(self, batch: IndexBatch) -> None:
        changes = WriteBatch(raw_mode=True)
        put = changes.put
        for ledger_id, entry_id, location in batch.locations:
            put(_ENTRY_KEY.pack(b"e", ledger_id, entry_id), _LOCATION.pack(*location))
        for ledger_id, state in batch.states.items():
            put(_LEDGER_KEY.pack(b"s", ledger_id), state)
        for ledger_id in batch.forgotten:
            changes.delete_range(
                _ENTRY_KEY.pack(b"e", ledger_id, 0), _ENTRY_KEY.pack(b"e", ledger_id + 1, 0)
            )
        for ledger_id in batch.pruned:
            changes.delete(_LEDGER_KEY.pack(b"s", ledger_id))
        for (file_id, ledger_id), size in batch.usage.items():
            key = _ENTRY_KEY.pack(b"u", file_id, ledger_id)
            if size:
                put(key, _SIZE.pack(size))
            else:
                changes.delete(key)
        if batch.node_state is not None:
            put(b"n", batch.node_state)
        if batch.files is not None:
            put(b"f", batch.files)
        if batch.position is not None:
            put(b"p", _POSITION.pack(*batch.position))
        try:
            self._db.write(changes, self._options)
        except Exception as error:
            raise StorageError(f"the index cannot be written: {error}") from error

    def flush(self) -> None:
        try:
            self._db.flush(True)
        except Exception as error:
            raise StorageError(f"the index cannot be flushed: {error}") from error

    def flush_soon(self) -> None:
        try:
            self._db.flush(False)
        except Exception as error:
            raise StorageError(f"the index cannot be flushed: {error}") from error

    def close(self) -> None:
        self.flush()
        self._db.close()

    def locate(
        self, ledger_id: LedgerId, first: EntryId, max_entries: int, max_bytes: int
    ) -> list[Location]:
        if max_entries == 1:
            value = self._get(_ENTRY_KEY.pack(b"e", ledger_id, first))
            return [] if value is None else [_location(value)]
        found: list[Location] = []
        size = 0
        for entry_id, location in self._entries(ledger_id, first):
            if entry_id != first + len(found) or (found and size + location.length > max_bytes):
                break
            found.append(location)
            size += location.length
            if len(found) == max_entries:
                break
        return found

    def last_entry(self, ledger_id: LedgerId) -> EntryId:
        cursor = self._db.iter(ReadOptions())
        cursor.seek_for_prev(_ENTRY_KEY.pack(b"e", ledger_id, _HIGHEST))
        if not cursor.valid():
            return NO_ENTRY_ID
        key = cursor.key()
        if len(key) != _ENTRY_KEY.size or key[:9] != _LEDGER_KEY.pack(b"e", ledger_id):
            return NO_ENTRY_ID
        return EntryId(_ENTRY_KEY.unpack(key)[2])

    def state(self, ledger_id: LedgerId) -> bytes | None:
        return self._get(_LEDGER_KEY.pack(b"s", ledger_id))

    def states(self) -> Iterator[tuple[LedgerId, bytes]]:
        for key, value in self._scan(b"s", b"s"):
            yield LedgerId(_LEDGER_KEY.unpack(key)[1]), value

    def ledgers(self) -> Iterator[LedgerId]:
        cursor = self._db.iter(ReadOptions())
        ledger_id = 0
        while True:
            cursor.seek(_ENTRY_KEY.pack(b"e", ledger_id, 0))
            if not cursor.valid() or cursor.key()[:1] != b"e":
                return
            ledger_id = _ENTRY_KEY.unpack(cursor.key())[1]
            yield LedgerId(ledger_id)
            ledger_id += 1

    def usage(self) -> Iterator[tuple[FileId, LedgerId, int]]:
        for key, value in self._scan(b"u", b"u"):
            _, file_id, ledger_id = _ENTRY_KEY.unpack(key)
            yield FileId(file_id), LedgerId(ledger_id), _SIZE.unpack(value)[0]

    def node_state(self) -> bytes | None:
        return self._get(b"n")

    def files(self) -> bytes | None:
        return self._get(b"f")

    def position(self) -> LogPosition | None:
        value = self._get(b"p")
        return None if value is None else LogPosition._make(_POSITION.unpack(value))

    def _get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise CorruptRecord(f"the index cannot be read: {error}") from error
        return value

    def _entries(
        self, ledger_id: LedgerId, first: EntryId
    ) -> Iterator[tuple[EntryId, Location]]:
        prefix = _LEDGER_KEY.pack(b"e", ledger_id)
        for key, value in self._scan(prefix, _ENTRY_KEY.pack(b"e", ledger_id, first)):
            yield EntryId(_ENTRY_KEY.unpack(key)[2]), _location(value)

    def _scan(self, prefix: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._db.iter(ReadOptions())
        cursor.seek(start)
        while cursor.valid():
            key = cursor.key()
            if not key.startswith(prefix):
                return
            yield key, cursor.value()
            cursor.next()
        try:
            cursor.status()
        except Exception as error:
            raise CorruptRecord(f"the index cannot be read: {error}") from error


def _open(folder: Path) -> Rdict:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_keep_log_file_num(2)
    return Rdict(str(folder), options)


def _location(value: bytes) -> Location:
    return Location._make(_LOCATION.unpack(value))
