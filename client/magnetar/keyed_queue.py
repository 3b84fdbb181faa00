"""A receive queue that finds the messages of a key."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from magnetar.entry import EntryView
from magnetar.errors import InvalidFrame
from magnetar.message import Message, ReceivedEntry
from magnetar.receive_queue import Position, ReceiveQueue


def key_of(view: EntryView, index: int) -> str | None:
    """The message's key; a damaged one is none, and is reported when the user asks for it."""
    try:
        return view.key(index)
    except InvalidFrame:
        return None


class KeyedQueue(ReceiveQueue):
    """As ReceiveQueue, with what waits listed by key; messages without one are not."""

    def __init__(
        self, topic_name: str, partition: int, *, fixed_window: int | None = None
    ) -> None:
        super().__init__(topic_name, partition, fixed_window=fixed_window)
        self._of_key: dict[str, deque[tuple[ReceivedEntry, int]]] = {}

    def withdraw_behind(self, message: Message) -> dict[Position, int]:
        """Do not hand out what waits of the message's key and comes after it; answers with it."""
        key = key_of(message.entry.view, message.index)
        place = (*message.entry.position, message.index)
        waiting = self._of_key.pop(key, None) if key is not None else None
        if key is None or waiting is None:
            return {}
        behind: dict[ReceivedEntry, int] = {}
        kept: deque[tuple[ReceivedEntry, int]] = deque()
        for entry, index in waiting:
            if (*entry.position, index) > place:
                behind[entry] = behind.get(entry, 0) | 1 << index
            else:
                kept.append((entry, index))
        if kept:
            self._of_key[key] = kept
        found: dict[Position, int] = {}
        for entry, bits in behind.items():
            withdrawn = self.withdraw(entry, bits)
            found[entry.position] = found.get(entry.position, 0) | withdrawn
        return found

    def pop(self) -> Message | None:
        """See ReceiveQueue."""
        message = super().pop()
        if message is not None:
            self._forget(message)
        return message

    def pop_many(
        self, most: int, most_bytes: int | None = None, *, at_least_one: bool = True
    ) -> list[Message]:
        """See ReceiveQueue."""
        messages = super().pop_many(most, most_bytes, at_least_one=at_least_one)
        for message in messages:
            self._forget(message)
        return messages

    def _append(self, entry: ReceivedEntry) -> None:
        super()._append(entry)
        self._list(entry)

    def _list(self, entry: ReceivedEntry) -> None:
        for index in entry.meant[entry.next_index:]:
            if (key := key_of(entry.view, index)) is not None:
                self._of_key.setdefault(key, deque()).append((entry, index))

    def _forget(self, message: Message) -> None:
        """It is the first of its key, for both lists are in the order of arrival."""
        key = key_of(message.entry.view, message.index)
        if key is not None:
            waiting = self._of_key[key]
            waiting.popleft()
            if not waiting:
                del self._of_key[key]

    def _drop(self, unwanted: Callable[[ReceivedEntry], bool]) -> None:
        super()._drop(unwanted)
        self._of_key.clear()
        for entry in self._entries:
            self._list(entry)
