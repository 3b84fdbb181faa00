"""Whose turn it is among consumers that share a subscription."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)


class Ring(Generic[C]):
    """Consumers that may be able to take something, in the order of their turns.

    One that cannot is dropped when its turn comes, so a turn costs nothing for the idle ones;
    whoever makes it able again offers it. It then is the last, as one that joins. Neither that
    nor a leave moves the others, so each gets its turn before anyone gets two.
    """

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: OrderedDict[C, None] = OrderedDict()

    def __contains__(self, consumer: C) -> bool:
        return consumer in self._turns

    def offer(self, consumer: C) -> None:
        """It joined, or may be able again: the last in turn, if it has none."""
        if consumer not in self._turns:
            self._turns[consumer] = None

    def leave(self, consumer: C) -> None:
        """It is gone."""
        self._turns.pop(consumer, None)

    def first(self, able: Callable[[C], bool]) -> C | None:
        """The one whose turn it is; those before it that are not able are dropped."""
        turns = self._turns
        while turns:
            consumer = next(iter(turns))
            if able(consumer):
                return consumer
            del turns[consumer]
        return None

    def served(self, consumer: C) -> None:
        """It had its turn."""
        if consumer in self._turns:
            self._turns.move_to_end(consumer)
