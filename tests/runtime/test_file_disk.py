"""The real disk: durability calls, errors and names."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from magnetar.errors import DiskFailure
from magnetar.runtime.disk import DiskFull
from magnetar.runtime.file_disk import FileDisk


async def test_appends_are_read_back_across_a_reopen(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    file = await disk.create("log-1")
    await file.append_and_sync([b"one", memoryview(b"two")])
    await file.append_and_sync([bytes([n % 256]) for n in range(3000)])
    file.close()
    again = await disk.open("log-1")
    assert again.size_bytes == 3006
    assert again.read_at(0, 6) == b"onetwo"
    assert again.read_at(3004, 100) == bytes([2998 % 256, 2999 % 256])
    disk.close()


async def test_names_are_sorted_and_by_folder(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    for name in ("log-2", "log-1", "other", "sub/log-3"):
        (await disk.create(name)).close()
    assert disk.names("log-") == ["log-1", "log-2"]
    assert disk.names("sub/") == ["sub/log-3"]
    disk.close()


async def test_names_outside_the_root_are_refused(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    with pytest.raises(ValueError):
        await disk.create("../escape")


async def test_a_removed_file_stays_readable_for_who_has_it_open(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    file = await disk.create("log-1")
    await file.append_and_sync([b"still here"])
    await disk.unlink("log-1")
    assert disk.names() == []
    assert file.read_at(0, 10) == b"still here"
    disk.close()


async def test_replace_is_atomic_and_read_sees_it(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    await disk.replace("cookie", b"a")
    await disk.replace("cookie", b"b")
    assert disk.read("cookie") == b"b"
    assert disk.names() == ["cookie"]
    with pytest.raises(FileNotFoundError):
        disk.read("nothing")
    disk.close()


async def test_no_room_leaves_nothing_of_the_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FileDisk(tmp_path)
    file = await disk.create("log-1")
    await file.append_and_sync([b"kept"])
    real = os.pwritev

    def half_then_full(descriptor: int, parts: list[bytes], offset: int) -> int:
        os.pwrite(descriptor, b"ha", offset)
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "pwritev", half_then_full)
    with pytest.raises(DiskFull):
        await file.append_and_sync([b"half"])
    assert (tmp_path / "log-1").read_bytes() == b"kept"
    monkeypatch.setattr(os, "pwritev", real)
    await file.append_and_sync([b"+more"])
    assert (tmp_path / "log-1").read_bytes() == b"kept+more"
    disk.close()


async def test_a_failed_sync_is_fatal_and_never_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FileDisk(tmp_path)
    file = await disk.create("log-1")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "the device is gone")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(DiskFailure):
            await file.append_and_sync([b"lost?"])
    with pytest.raises(DiskFailure):
        await file.append_and_sync([b"never"])
    disk.close()


async def test_a_short_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FileDisk(tmp_path)
    file = await disk.create("log-1")
    monkeypatch.setattr(
        os, "pwritev", lambda descriptor, parts, offset: os.pwrite(descriptor, parts[0], offset)
    )
    await file.append_and_sync([b"one", b"two", b"three"])
    assert file.read_at(0, 100) == b"onetwothree"
    assert file.size_bytes == 11
    disk.close()


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    with pytest.raises(DiskFailure, match="in use"):
        FileDisk(tmp_path)
    assert disk.names() == []
    disk.close()
    FileDisk(tmp_path).close()
