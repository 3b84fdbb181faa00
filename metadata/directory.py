"""A cached, live view of one folder of announcements.

One task reads; watches only tell it that it should. So callbacks that come twice, late or in a
burst cost at most one more reading, and never a wrong view. What cannot be read leaves the view
as it was: silence of the metadata is no news about bookies or brokers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from magnetar.errors import AlreadyClosed, MagnetarError
from metadata.callbacks import Callbacks
from metadata.registration import Registrations
from metadata.store import Cancel

T = TypeVar("T")
RETRY_DELAY_S: Final = 0.2

_log = logging.getLogger(__name__)


class Directory(Generic[T]):
    """The members of a folder, decoded; start, look, stop."""

    def __init__(
        self, registrations: Registrations, folder: str, decode: Callable[[bytes], T]
    ) -> None:
        self._registrations = registrations
        self._folder = folder
        self._decode = decode
        self._members: dict[str, T] = {}
        self._all: tuple[T, ...] = ()
        self._callbacks: Callbacks[[]] = Callbacks()
        self._stale = asyncio.Event()
        self._cancel_folder: Cancel | None = None
        self._cancel_members: dict[str, Cancel] = {}
        self._task: asyncio.Task[None] | None = None

    def all(self) -> tuple[T, ...]:
        """The members, sorted by name."""
        return self._all

    def get(self, encoded_name: str) -> T | None:
        return self._members.get(encoded_name)

    def on_change(self, callback: Callable[[], None]) -> Cancel:
        return self._callbacks.add(callback)

    async def start(self) -> None:
        """Read once, then follow. Starting again does nothing."""
        if self._task is not None:
            return
        self._cancel_folder = self._registrations.watch(self._folder, self._stale.set)
        try:
            await self._read()
        except BaseException:
            self._cancel_watches()
            raise
        self._task = asyncio.create_task(self._follow(), name=f"directory {self._folder}")

    async def stop(self) -> None:
        """Stop following; the last view stays. No callback comes after this began."""
        self._callbacks.clear()
        self._cancel_watches()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _cancel_watches(self) -> None:
        if self._cancel_folder is not None:
            self._cancel_folder()
            self._cancel_folder = None
        for cancel in self._cancel_members.values():
            cancel()
        self._cancel_members.clear()

    async def _follow(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                await self._read()
            except AlreadyClosed:
                return
            except MagnetarError as error:
                _log.info("cannot read %s now, its last view stays: %s", self._folder, error)
                self._stale.set()
                await asyncio.sleep(RETRY_DELAY_S)

    async def _read(self) -> None:
        names = await self._registrations.names(self._folder)
        self._watch_members(names)
        members: dict[str, T] = {}
        for name in names:
            value = await self._registrations.value(f"{self._folder}/{name}")
            if value is not None:
                self._decode_into(members, name, value)
        if members == self._members:
            return
        self._members = members
        self._all = tuple(members.values())
        self._callbacks.fire()

    def _decode_into(self, members: dict[str, T], name: str, value: bytes) -> None:
        """One record that cannot be read must not hide the others."""
        try:
            members[name] = self._decode(value)
        except MagnetarError:
            _log.exception("the record %s/%s is left out", self._folder, name)

    def _watch_members(self, names: list[str]) -> None:
        """Watch before reading, so that no change falls between."""
        for name in [*self._cancel_members]:
            if name not in names:
                self._cancel_members.pop(name)()
        for name in names:
            if name not in self._cancel_members:
                self._cancel_members[name] = self._registrations.watch(
                    f"{self._folder}/{name}", self._stale.set
                )
