"""Messages in an order that keeps each key's, while several are being handled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from magnetar.message import Message

KeyOf = Callable[[Message], str | None]


class KeyLanes:
    """Of a key one message at a time is ready or being handled; the others wait behind it."""

    __slots__ = ("_key_of", "_lanes", "_ready", "count")

    def __init__(self, key_of: KeyOf) -> None:
        self._key_of = key_of
        self._ready: deque[Message] = deque()
        self._lanes: dict[str, deque[Message]] = {}
        self.count = 0
        """Messages that are ready or wait."""

    def add(self, message: Message) -> None:
        """Behind all others."""
        self.count += 1
        key = self._key_of(message)
        if key is None:
            self._ready.append(message)
        elif (lane := self._lanes.get(key)) is not None:
            lane.append(message)
        else:
            self._lanes[key] = deque()
            self._ready.append(message)

    def next(self) -> Message | None:
        """One that can be handled now; `handled` or `failed` must follow."""
        if not self._ready:
            return None
        self.count -= 1
        return self._ready.popleft()

    def handled(self, message: Message) -> None:
        """The next of its key is ready."""
        key = self._key_of(message)
        if key is None or (lane := self._lanes.get(key)) is None:
            return
        if lane:
            self._ready.append(lane.popleft())
        else:
            del self._lanes[key]

    def failed(self, message: Message) -> list[Message]:
        """Those that wait behind it, which are not handled here any more."""
        key = self._key_of(message)
        lane = self._lanes.pop(key, None) if key is not None else None
        waiting = list(lane or ())
        self.count -= len(waiting)
        return waiting

    def drain(self) -> list[Message]:
        """Everything not begun, which is not handled here any more."""
        left = [*self._ready, *(message for lane in self._lanes.values() for message in lane)]
        self._ready.clear()
        self._lanes.clear()
        self.count = 0
        return left
