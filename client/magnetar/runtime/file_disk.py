"""Files of a real folder, as a `Disk`.

One thread does everything that may wait for the device: `pwritev`, `fdatasync`, folder sync.
Its result returns to the loop in one `call_soon_threadsafe`. `os.fdatasync` and `os.pwritev`
release the GIL, so the loop goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from magnetar.errors import CorruptRecord, DiskFailure
from magnetar.runtime.disk import DiskFull
from magnetar.runtime.network import Buffer

_MAX_VECTOR: Final = 1024  # IOV_MAX of Linux
_LOCK_NAME: Final = ".lock"
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

T = TypeVar("T")


class _DiskThread:
    """Runs calls one after the other, off the loop."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._name = name
        self._thread: threading.Thread | None = None

    async def run(self, call: Callable[[], T]) -> T:
        """The call's result or exception; a call begun is finished even if its waiter is gone."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def job() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = call()
            except BaseException as caught:
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle, result, error)

        self._jobs.put(job)
        return await future

    def stop(self) -> None:
        """End after the calls already queued."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class FileAppendFile:
    """A file that only grows, written at known offsets by the disk's thread."""

    def __init__(self, name: str, descriptor: int, thread: _DiskThread) -> None:
        self._name = name
        self._descriptor = descriptor
        self._thread = thread
        self._size_bytes = os.fstat(descriptor).st_size
        self._failed = False

    @property
    def name(self) -> str:
        """Relative to the disk's root."""
        return self._name

    @property
    def size_bytes(self) -> int:
        """Length after the last completed append."""
        return self._size_bytes

    async def append_and_sync(self, parts: Sequence[Buffer]) -> None:
        """Append all parts and make them durable; raises DiskFull or DiskFailure."""
        self._size_bytes = await self._thread.run(lambda: self._append(parts))

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`, short at the end; raises CorruptRecord."""
        try:
            data = os.pread(self._descriptor, length, offset)
            while len(data) < length:
                more = os.pread(self._descriptor, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data
        except OSError as error:
            raise CorruptRecord(f"{self._name} cannot be read at {offset}: {error}") from error

    async def truncate_and_sync(self, length: int) -> None:
        """Cut to `length` bytes, durably; raises DiskFailure."""

        def cut() -> None:
            os.ftruncate(self._descriptor, length)
            os.fsync(self._descriptor)

        await self._thread.run(lambda: self._fatally("truncate", cut))
        self._size_bytes = length

    def close(self) -> None:
        """Give the descriptor back; no call may be under way."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # on the disk's thread

    def _append(self, parts: Sequence[Buffer]) -> int:
        if self._failed:
            raise DiskFailure(f"{self._name} failed before; nothing more is written to it")
        start = self._size_bytes
        try:
            end = self._write(parts, start)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise self._failure("write", error) from error
            # Cut and sync, so that no half of this write comes back after a crash.
            self._fatally("truncate", lambda: os.ftruncate(self._descriptor, start))
            self._fatally("sync", lambda: os.fdatasync(self._descriptor))
            raise DiskFull(f"no room to write {self._name}") from error
        # A failed sync is never tried again: the kernel may have dropped the dirty pages.
        self._fatally("sync", lambda: os.fdatasync(self._descriptor))
        return end

    def _write(self, parts: Sequence[Buffer], offset: int) -> int:
        for first in range(0, len(parts), _MAX_VECTOR):
            vector = parts[first : first + _MAX_VECTOR]
            wanted = sum(map(len, vector))
            written = os.pwritev(self._descriptor, vector, offset)
            offset += written
            if written < wanted:
                rest = memoryview(b"".join(vector))[written:]
                while rest:
                    count = os.pwrite(self._descriptor, rest, offset)
                    offset += count
                    rest = rest[count:]
        return offset

    def _fatally(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            raise self._failure(what, error) from error

    def _failure(self, what: str, error: OSError) -> DiskFailure:
        self._failed = True
        return DiskFailure(f"{what} of {self._name} failed: {error}")


class FileDisk:
    """`Disk` over a folder. Names may hold one level of folders (`folder/file`)."""

    def __init__(self, root: Path) -> None:
        """Takes the folder for itself until `close` or the end of the process. Raises
        DiskFailure when another process has it."""
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(root / _LOCK_NAME)
        self._thread = _DiskThread(f"disk-{root.name}")

    @property
    def root(self) -> Path:
        """The folder itself, for what needs one of its own (the index)."""
        return self._root

    def names(self, prefix: str = "") -> list[str]:
        """Sorted names of the files whose name begins with `prefix`, within its folder."""
        folder, separator, _ = prefix.rpartition("/")
        path = self._root / folder
        if not path.is_dir():
            return []
        names = [folder + separator + item.name for item in os.scandir(path) if item.is_file()]
        return sorted(
            name for name in names if name.startswith(prefix) and name != _LOCK_NAME
        )

    async def create(self, name: str) -> FileAppendFile:
        """Create, durably with its folder entry; raises FileExistsError, DiskFull, DiskFailure."""
        path = self._path(name)

        def make() -> int:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            os.fsync(descriptor)
            _sync_folder(path.parent)
            return descriptor

        descriptor = await self._thread.run(lambda: _translated(f"create {name}", make))
        return FileAppendFile(name, descriptor, self._thread)

    async def open(self, name: str) -> FileAppendFile:
        """Open for reading and appending; raises FileNotFoundError."""
        descriptor = os.open(self._path(name), os.O_RDWR | os.O_CLOEXEC)
        return FileAppendFile(name, descriptor, self._thread)

    async def unlink(self, name: str) -> None:
        """Remove, and make the removal durable. Open files stay readable."""
        path = self._path(name)

        def remove() -> None:
            path.unlink(missing_ok=True)
            _sync_folder(path.parent)

        await self._thread.run(lambda: _translated(f"unlink {name}", remove))

    async def replace(self, name: str, content: bytes) -> None:
        """Write a small file atomically and durably."""
        path = self._path(name)

        def swap() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(path.name + ".new")
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _sync_folder(path.parent)

        await self._thread.run(lambda: _translated(f"replace {name}", swap))

    def read(self, name: str) -> bytes:
        """All of a small file; raises FileNotFoundError."""
        return self._path(name).read_bytes()

    def free_bytes(self) -> int:
        """What this process may still write."""
        state = os.statvfs(self._root)
        return state.f_bavail * state.f_frsize

    def total_bytes(self) -> int:
        """Size of the file system."""
        state = os.statvfs(self._root)
        return state.f_blocks * state.f_frsize

    def close(self) -> None:
        """Wait for what was begun, end the thread and give the folder free."""
        self._thread.stop()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _path(self, name: str) -> Path:
        path = self._root / name
        if not name or name.startswith("/") or ".." in Path(name).parts:
            raise ValueError(f"not a name relative to the disk: {name!r}")
        return path


def _locked(path: Path) -> int:
    """Two processes that append to the same files destroy each other's acknowledged entries."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DiskFailure(f"{path.parent} is in use by another process") from error
    return descriptor


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _translated(what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFull(f"no room to {what}") from error
        raise DiskFailure(f"cannot {what}: {error}") from error
