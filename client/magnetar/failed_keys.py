"""Which keys wait for a message that failed, until the broker knows of it too.

The broker holds such a key from when it hears of the failure. What it had sent before may still
arrive; that is given back, so that it comes again behind the message that failed. The answer to
the request that tells of the failure comes behind everything sent before it was known.
"""

from __future__ import annotations

Place = tuple[int, int, int]
"""Ledger, entry, index in the batch."""


class FailedKeys:
    """Places by key, with no I/O."""

    __slots__ = ("_asked", "_failed", "_untold")

    def __init__(self) -> None:
        self._failed: dict[str, set[Place]] = {}
        self._untold: list[tuple[str, Place]] = []
        self._asked: dict[int, list[tuple[str, Place]]] = {}

    def __bool__(self) -> bool:
        return bool(self._failed)

    def add(self, key: str, place: Place) -> None:
        """A message of the key failed."""
        self._failed.setdefault(key, set()).add(place)
        self._untold.append((key, place))

    def told(self, request_id: int) -> None:
        """The broker is being told of all so far."""
        if self._untold:
            self._asked[request_id], self._untold = self._untold, []

    def answered(self, request_id: int) -> None:
        """The broker knows what it was told with this request."""
        for key, place in self._asked.pop(request_id, ()):
            self._forget(key, place)

    def refuses(self, key: str | None, place: Place) -> bool:
        """Whether the message comes too early. The one that failed never does."""
        failed = self._failed.get(key) if key is not None else None
        if key is None or failed is None:
            return False
        if place in failed:
            self._forget(key, place)
            return False
        return place > min(failed)

    def clear(self) -> None:
        """The next link sends everything in order."""
        self._failed.clear()
        self._untold.clear()
        self._asked.clear()

    def _forget(self, key: str, place: Place) -> None:
        failed = self._failed.get(key)
        if failed is not None:
            failed.discard(place)
            if not failed:
                del self._failed[key]
