"""The embedded store's files: one RocksDB, one synced write a batch.

Keys: `n` + path for a node, `s` + session id (u64) for a remote session, `c` for the session
counter, `f` for the format. Values are raw bytes behind a format byte; nothing is ever pickled.
"""

from __future__ import annotations

import asyncio
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from rocksdict import Options, Rdict, WriteBatch, WriteOptions

from magnetar.errors import CorruptRecord, DiskFailure, NotSupported
from metadata.embedded import Batch, StoredState
from metadata.tree import Node

FORMAT: Final = 1
_NODE: Final = struct.Struct(">BIQ")
_SESSION: Final = struct.Struct(">Q")
_MILLIS: Final = struct.Struct(">BI")
_COUNTER: Final = struct.Struct(">BQ")


class RocksBackend:
    """Opens at once; raises DiskFailure, also when another process holds the directory."""

    def __init__(self, directory: Path) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(16 << 20)
        options.set_max_background_jobs(2)
        options.set_keep_log_file_num(2)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._db: Any = Rdict(str(directory), options)
        except Exception as error:  # rocksdict raises bare Exceptions
            if "LOCK" in str(error):
                raise DiskFailure(f"{directory} is in use by another process") from error
            raise DiskFailure(f"cannot open the metadata in {directory}: {error}") from error
        self._durably = WriteOptions()
        self._durably.sync = True
        # One thread: batches stay in order, and the loop is free while the disk syncs.
        self._thread = ThreadPoolExecutor(1, "metadata-disk")

    def load(self) -> StoredState:
        """Raises NotSupported for files of a newer release, CorruptRecord for malformed ones."""
        state = StoredState({}, {}, 1)
        found = self._db.get(b"f")
        if found is not None and found[0] > FORMAT:
            raise NotSupported(f"the metadata files have format {found[0]}: upgrade this process")
        for key, value in self._db.items():
            try:
                _load_one(state, key, value)
            except (struct.error, UnicodeDecodeError, IndexError) as error:
                raise CorruptRecord(f"malformed metadata under key {key!r}") from error
        return state

    async def write(self, batch: Batch) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._write, batch)

    def _write(self, batch: Batch) -> None:
        writes = WriteBatch(raw_mode=True)
        for path, node in batch.nodes.items():
            key = b"n" + path.encode()
            if node is None:
                writes.delete(key)
            else:
                value, version, session_id = node
                writes.put(key, _NODE.pack(FORMAT, version, session_id) + value)
        for session_id, timeout_s in batch.sessions.items():
            key = b"s" + _SESSION.pack(session_id)
            if timeout_s is None:
                writes.delete(key)
            else:
                writes.put(key, _MILLIS.pack(FORMAT, round(timeout_s * 1000)))
        writes.put(b"c", _COUNTER.pack(FORMAT, batch.next_session_id))
        writes.put(b"f", bytes([FORMAT]))
        try:
            self._db.write(writes, write_opt=self._durably)
        except Exception as error:
            raise DiskFailure(f"the metadata could not be written: {error}") from error

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._db.close)
        self._thread.shutdown()


def _load_one(state: StoredState, key: bytes, value: bytes) -> None:
    kind, rest = key[:1], key[1:]
    if kind == b"n":
        _, version, session_id = _NODE.unpack_from(value)
        state.nodes[rest.decode()] = Node(value[_NODE.size :], version, session_id)
    elif kind == b"s":
        state.sessions[_SESSION.unpack(rest)[0]] = _MILLIS.unpack(value)[1] / 1000
    elif kind == b"c":
        state.next_session_id = _COUNTER.unpack(value)[1]
    elif kind != b"f":
        raise struct.error("unknown kind of key")
