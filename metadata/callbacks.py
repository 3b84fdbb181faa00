"""Callbacks in order of registration; one that fails does not keep the others from being told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, ParamSpec

from metadata.store import Cancel

P = ParamSpec("P")

_log = logging.getLogger(__name__)


class Callbacks(Generic[P]):
    """A registry of callbacks of one signature."""

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[P, None]] = {}
        self._next_key = 0

    def __len__(self) -> int:
        return len(self._callbacks)

    def add(self, callback: Callable[P, None]) -> Cancel:
        """Registering twice calls twice; each registration has its own cancel."""
        key = self._next_key
        self._next_key += 1
        self._callbacks[key] = callback

        def cancel() -> None:
            self._callbacks.pop(key, None)

        return cancel

    def clear(self) -> None:
        self._callbacks.clear()

    def fire(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call all now; one cancelled by an earlier one is not called any more."""
        for key in [*self._callbacks]:
            callback = self._callbacks.get(key)
            if callback is None:
                continue
            try:
                callback(*args, **kwargs)
            except Exception:
                _log.exception("a metadata callback failed")


class Watches:
    """Watch callbacks by path, fired soon and coalesced. All on one event loop."""

    def __init__(self) -> None:
        self._by_path: dict[str, Callbacks[[]]] = {}
        self._due: dict[str, None] = {}

    def add(self, path: str, callback: Callable[[], None]) -> Cancel:
        callbacks = self._by_path.setdefault(path, Callbacks())
        cancel_one = callbacks.add(callback)

        def cancel() -> None:
            cancel_one()
            if not callbacks and self._by_path.get(path) is callbacks:
                del self._by_path[path]

        return cancel

    def paths(self) -> list[str]:
        """The watched paths, in order of their first watch."""
        return [*self._by_path]

    def is_watched(self, path: str) -> bool:
        return path in self._by_path

    def clear(self) -> None:
        self._by_path.clear()
        self._due.clear()

    def changed(self, path: str) -> None:
        """Fire the path's callbacks in a coming turn of the loop, once for all till then."""
        if path not in self._by_path:
            return
        if not self._due:
            asyncio.get_running_loop().call_soon(self._fire_due)
        self._due[path] = None

    def all_changed(self) -> None:
        """Fire everything: what happened during a silence is unknown."""
        for path in self.paths():
            self.changed(path)

    def _fire_due(self) -> None:
        due, self._due = self._due, {}
        for path in due:
            callbacks = self._by_path.get(path)
            if callbacks is not None:
                callbacks.fire()
