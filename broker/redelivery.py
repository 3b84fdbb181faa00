"""How often messages were delivered again: only those that were are remembered."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from broker.state_records import RedeliveryCount

SPARE_ORDINALS = 64
"""Forgotten ones are taken out of the heap when it holds so many more than half of them."""


class RedeliveryCounts:
    """Counts by the first ordinal of an entry; gone once the entry is acknowledged."""

    __slots__ = ("_changes", "_counts", "_order", "_recorded")

    def __init__(self, recorded: bool = True) -> None:
        """`recorded` False: nobody asks for the changes, so they are not kept."""
        self._recorded = recorded
        self._counts: dict[int, list[tuple[int, int]]] = {}
        self._changes: list[RedeliveryCount] = []
        self._order: list[int] = []
        """A heap of the ordinals counted, and of some forgotten ones."""

    def __contains__(self, first_ordinal: int) -> bool:
        return first_ordinal in self._counts

    def __len__(self) -> int:
        return len(self._counts)

    def set(self, first_ordinal: int, mask: int, count: int) -> None:
        """Messages `mask` of the entry go out for the `count`-th time again."""
        self.restore(RedeliveryCount(first_ordinal, mask, count))
        if self._recorded:
            self._changes.append(RedeliveryCount(first_ordinal, mask, count))

    def restore(self, counted: RedeliveryCount) -> None:
        """As a state record says; later ones win."""
        parts = [
            (left, count)
            for mask, count in self._counts.get(counted.first_ordinal, ())
            if (left := mask & ~counted.mask)
        ]
        parts.append((counted.mask, counted.count))
        if counted.first_ordinal not in self._counts:
            self._note(counted.first_ordinal)
        self._counts[counted.first_ordinal] = parts

    def split(self, first_ordinal: int, mask: int) -> list[tuple[int, int]]:
        """`mask` (not 0) in parts of equal counts, by their first messages: (mask, count)."""
        counts = self._counts.get(first_ordinal)
        if counts is None:
            return [(mask, 0)]
        parts = []
        for counted, count in counts:
            if mask & counted:
                parts.append((mask & counted, count))
                mask &= ~counted
        if mask:
            parts.append((mask, 0))
        return sorted(parts, key=_first_message)

    def forget(self, first_ordinal: int) -> None:
        """The entry is acknowledged."""
        self._counts.pop(first_ordinal, None)

    def forget_below(self, floor: int) -> None:
        """Everything below is acknowledged."""
        order = self._order
        while order and order[0] < floor:
            parts = self._counts.get(order[0])
            if parts is not None:
                if order[0] + max(mask.bit_length() for mask, _ in parts) > floor:
                    return
                del self._counts[order[0]]
            heappop(order)

    def _note(self, first_ordinal: int) -> None:
        heappush(self._order, first_ordinal)
        if len(self._order) > 2 * len(self._counts) + SPARE_ORDINALS:
            self._order = [first_ordinal, *self._counts]
            heapify(self._order)

    def clear(self) -> None:
        self._counts.clear()
        self._changes.clear()
        self._order.clear()

    def take_changes(self) -> tuple[RedeliveryCount, ...]:
        """What was set since the last call."""
        changes, self._changes = tuple(self._changes), []
        return changes

    def snapshot(self) -> tuple[RedeliveryCount, ...]:
        return tuple(
            RedeliveryCount(ordinal, mask, count)
            for ordinal, parts in self._counts.items()
            for mask, count in parts
        )


def _first_message(part: tuple[int, int]) -> int:
    return part[0] & -part[0]
