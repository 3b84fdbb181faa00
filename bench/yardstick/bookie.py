"""A storage node: a write-once log with group commit, and RocksDB as its index."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from pathlib import Path

from rocksdict import Options, Rdict, WriteBatch, WriteOptions

from bench.yardstick.wire import FRAME, check

Entries = list[tuple[int, bytes]]
GROUP_FRAMES = 256
VECTOR_PARTS = 1_000


class Log:
    """One thread that writes and syncs; while it syncs, the next group collects."""

    def __init__(self, folder: Path) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(32 << 20)
        self._index = Rdict(str(folder / "index"), options)
        self._write_options = WriteOptions()
        # The stubs call this setter a method.
        self._write_options.disable_wal = True  # type: ignore[method-assign, assignment]
        self._file = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._offset = 0
        self._queue: queue.SimpleQueue[tuple[Peer, Entries]] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._commit_forever, daemon=True).start()

    def append(self, peer: Peer, entries: Entries) -> None:
        self._queue.put((peer, entries))

    def _commit_forever(self) -> None:
        while True:
            group = [self._queue.get()]
            while len(group) < GROUP_FRAMES and not self._queue.empty():
                group.append(self._queue.get())
            self._commit(group)

    def _commit(self, group: list[tuple[Peer, Entries]]) -> None:
        vector: list[bytes] = []
        located: list[tuple[int, int, int]] = []
        for _, entries in group:
            for entry_id, entry in entries:
                vector += (FRAME.pack(len(entry), entry_id), entry)
                located.append((entry_id, self._offset, len(entry)))
                self._offset += FRAME.size + len(entry)
        for start in range(0, len(vector), VECTOR_PARTS):
            os.writev(self._file, vector[start : start + VECTOR_PARTS])
        os.fdatasync(self._file)
        done = {peer: entries[-1][0] for peer, entries in group}
        self._loop.call_soon_threadsafe(self._acknowledge, done)
        batch = WriteBatch(raw_mode=True)
        for entry_id, offset, length in located:
            batch.put(entry_id.to_bytes(16, "big"), FRAME.pack(length, offset))
        self._index.write(batch, self._write_options)

    @staticmethod
    def _acknowledge(done: dict[Peer, int]) -> None:
        for peer, entry_id in done.items():
            peer.transport.write(entry_id.to_bytes(8, "big"))


class Peer(asyncio.Protocol):
    """A broker's connection: takes entries apart and hands them to the log."""

    transport: asyncio.Transport

    def __init__(self, log: Log) -> None:
        self._log, self._buffer, self._wanted = log, bytearray(), 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: with uvloop the transport is of its own kind.
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._wanted:
            return
        at, self._wanted = 0, 0
        entries: Entries = []
        with memoryview(buffer) as view:
            while len(buffer) - at >= FRAME.size:
                length, entry_id = FRAME.unpack_from(buffer, at)
                end = at + FRAME.size + length
                if len(buffer) < end:
                    self._wanted = end - at
                    break
                entries.append((entry_id, bytes(view[at + FRAME.size : end])))
                at = end
        del buffer[:at]
        for _, entry in entries:
            check(entry)
        if entries:
            self._log.append(self, entries)


async def serve(port: int, folder: Path) -> asyncio.Server:
    """Listen on loopback, storing under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = Log(folder)
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Peer(log), "127.0.0.1", port)
