"""How often messages were delivered again: only those that were are remembered."""

from __future__ import annotations

from broker.state_records import RedeliveryCount


class RedeliveryCounts:
    """Counts by the first ordinal of an entry; gone once the entry is acknowledged."""

    __slots__ = ("_changes", "_counts", "_recorded")

    def __init__(self, recorded: bool = True) -> None:
        """`recorded` False: nobody asks for the changes, so they are not kept."""
        self._recorded = recorded
        self._counts: dict[int, list[tuple[int, int]]] = {}
        self._changes: list[RedeliveryCount] = []

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
        self._counts[counted.first_ordinal] = parts

    def split(self, first_ordinal: int, mask: int) -> list[tuple[int, int]]:
        """`mask` (not 0) in parts of equal counts: (mask, count)."""
        counts = self._counts.get(first_ordinal)
        if counts is None:
            return [(mask, 0)]
        parts = []
        for counted, count in counts:
            if mask & counted:
                parts.append((mask & counted, count))
                mask &= ~counted
        if mask:
            parts.insert(0, (mask, 0))
        return parts

    def forget(self, first_ordinal: int) -> None:
        """The entry is acknowledged."""
        self._counts.pop(first_ordinal, None)

    def forget_below(self, floor: int) -> None:
        """Everything below is acknowledged."""
        if self._counts:
            for ordinal in [
                ordinal for ordinal, parts in self._counts.items()
                if ordinal + max(mask.bit_length() for mask, _ in parts) <= floor
            ]:
                del self._counts[ordinal]

    def clear(self) -> None:
        self._counts.clear()
        self._changes.clear()

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
