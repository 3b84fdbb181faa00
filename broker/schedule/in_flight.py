"""Schedule records whose write is in flight, and what they hold back."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from magnetar.entry import ScheduleMark

Item = TypeVar("Item")


class InFlight(Generic[Item]):
    """First in, first out, with the least mark of all in constant time.

    Firing does not reach that mark: whether a record in flight will have been stored is not known
    until it is, and what stands behind a mark in the log counts as fired.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[int, Item]] = deque()
        self._least: deque[tuple[int, ScheduleMark]] = deque()
        """Marks that may yet become the least, growing, each with its item's number."""
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def barrier(self) -> ScheduleMark | None:
        """The least mark that something in flight touches; None: nothing is held back."""
        return self._least[0][1] if self._least else None

    def push(self, item: Item, mark: ScheduleMark) -> None:
        """`mark` is the least that the record touches."""
        self._items.append((self._pushed, item))
        while self._least and self._least[-1][1] >= mark:
            self._least.pop()
        self._least.append((self._pushed, mark))
        self._pushed += 1

    def pop(self) -> Item:
        """The oldest is stored."""
        number, item = self._items.popleft()
        if self._least and self._least[0][0] == number:
            self._least.popleft()
        return item
