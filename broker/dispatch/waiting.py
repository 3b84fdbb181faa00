"""What is to be delivered, and cannot or may not be yet: set aside, failed, delayed, given up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from heapq import heappop, heappush

from broker.cursor import full_mask
from broker.dispatch.flights import Key

SPARE = 64
"""A heap is rebuilt when it holds so many more than twice what it can need."""


class Wait(IntEnum):
    """What messages wait for."""

    TURN = 0
    """To be delivered again, as soon as somebody takes them."""
    TIME = 1
    """To be delivered again, later."""
    PATH = 2
    """To be delivered for the first time: others passed them."""
    BURIAL = 3
    """They were given up, and go to the dead-letter topic."""


class WaitingPart:
    """Messages of one entry with one history. `ordered`: of keys that have an order. `given`: to
    whoever puts them into the dead-letter topic."""

    __slots__ = ("due_s", "given", "mask", "ordered", "reason", "redelivered", "wait")

    def __init__(
        self, mask: int, redelivered: int, reason: str, wait: Wait, due_s: float, *, ordered: bool
    ) -> None:
        self.mask = mask
        self.redelivered = redelivered
        self.reason = reason
        self.wait = wait
        self.due_s = due_s
        self.ordered = ordered
        self.given = False


class WaitingEntry:
    """An entry of which something waits. `keys`: see Flight."""

    __slots__ = ("count", "first_ordinal", "key", "keys", "parts")

    def __init__(
        self, key: Key, first_ordinal: int, count: int, keys: Sequence[str | None] | None
    ) -> None:
        self.key = key
        self.first_ordinal = first_ordinal
        self.count = count
        self.keys = keys
        self.parts: list[WaitingPart] = []

    @property
    def has_turn(self) -> bool:
        """Something of it has no order and waits for its turn."""
        return any(part.wait is Wait.TURN and not part.ordered for part in self.parts)

    @property
    def turn_ordinal(self) -> int:
        """Of the first message that has no order and waits for its turn; there is one."""
        lowest = min(
            part.mask & -part.mask for part in self.parts
            if part.wait is Wait.TURN and not part.ordered
        )
        return self.first_ordinal + lowest.bit_length() - 1


class Waiting:
    """Of one subscription. Everything is counted exactly; heaps forget what is gone lazily."""

    def __init__(self) -> None:
        self.entries: dict[Key, WaitingEntry] = {}
        self._turns: list[Key] = []
        self._times: list[tuple[float, int, WaitingEntry, WaitingPart]] = []
        self._order: list[Key] = []
        self._number = 0
        self.messages = [0] * len(Wait)
        """By what they wait for."""

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: object) -> bool:
        return key in self.entries

    def __iter__(self) -> Iterator[WaitingEntry]:
        return iter(self.entries.values())

    def get(self, key: Key) -> WaitingEntry | None:
        return self.entries.get(key)

    @property
    def delivered(self) -> int:
        """Messages that were delivered before and are not acknowledged."""
        counts = self.messages
        return counts[Wait.TURN] + counts[Wait.TIME] + counts[Wait.BURIAL]

    def entry(
        self, key: Key, first_ordinal: int, count: int, keys: Sequence[str | None] | None
    ) -> WaitingEntry:
        """The entry, to which something is about to be added."""
        found = self.entries.get(key)
        if found is None:
            found = self.entries[key] = WaitingEntry(key, first_ordinal, count, keys)
            heappush(self._order, key)
            if len(self._order) > 2 * len(self.entries) + SPARE:
                self._order = sorted(self.entries)
        return found

    def add(
        self, entry: WaitingEntry, mask: int, redelivered: int, reason: str, wait: Wait,
        due_s: float = 0.0, *, ordered: bool = False,
    ) -> None:
        """These messages wait. Nothing else may hold them."""
        self.messages[wait] += mask.bit_count()
        part = WaitingPart(mask, redelivered, reason, wait, due_s, ordered=ordered)
        if wait is Wait.TIME:
            self._number += 1
            entry.parts.append(part)
            heappush(self._times, (due_s, self._number, entry, part))
            if len(self._times) > 2 * self.messages[Wait.TIME] + SPARE:
                self._times = sorted(time for time in self._times if time[3].mask)
        else:
            self._join(entry, part)

    def _join(self, entry: WaitingEntry, part: WaitingPart) -> None:
        """Put it with what has the same history, so that an entry has few parts."""
        for one in entry.parts:
            if (
                one.wait is part.wait and one.redelivered == part.redelivered
                and one.reason == part.reason and one.ordered is part.ordered and not one.given
            ):
                one.mask |= part.mask
                return
        entry.parts.append(part)
        if part.wait is Wait.TURN and not part.ordered:
            heappush(self._turns, entry.key)
            if len(self._turns) > 2 * len(self.entries) + SPARE:
                self._turns = sorted(one.key for one in self if one.has_turn)

    # --- turns

    def first_in_turn(self) -> WaitingEntry | None:
        """The first entry, in the order of the log, of which something has no order and waits
        for its turn."""
        while self._turns:
            entry = self.entries.get(self._turns[0])
            if entry is not None and entry.has_turn:
                return entry
            heappop(self._turns)
        return None

    def take_turn(self, entry: WaitingEntry) -> list[WaitingPart]:
        """What of the entry has no order and waits for its turn: it waits no more."""
        taken: list[WaitingPart] = []
        kept: list[WaitingPart] = []
        for part in entry.parts:
            (taken if part.wait is Wait.TURN and not part.ordered else kept).append(part)
        self.messages[Wait.TURN] -= sum(part.mask.bit_count() for part in taken)
        entry.parts = kept
        self._drop_if_empty(entry)
        return sorted(taken, key=lambda part: part.mask & -part.mask)

    def part_of(self, entry: WaitingEntry, bit: int) -> WaitingPart | None:
        """What an ordered message belongs to while it waits for its turn or its path."""
        for part in entry.parts:
            if part.mask & bit and part.ordered and part.wait in (Wait.TURN, Wait.PATH):
                return part
        return None

    def take(self, entry: WaitingEntry, part: WaitingPart, mask: int) -> None:
        """These messages of a part wait no more."""
        self.messages[part.wait] -= mask.bit_count()
        part.mask &= ~mask
        if not part.mask:
            entry.parts.remove(part)
            self._drop_if_empty(entry)

    # --- times

    def next_due_s(self) -> float | None:
        """When something's time comes."""
        while self._times and not self._times[0][3].mask:
            heappop(self._times)
        return self._times[0][0] if self._times else None

    def due(self, now_s: float) -> list[tuple[WaitingEntry, int, bool]]:
        """What was delayed until now, and waits for its turn from now on: (entry, which of its
        messages, whether they are of keys that have an order)."""
        found = []
        while (due_s := self.next_due_s()) is not None and due_s <= now_s:
            _, _, entry, part = heappop(self._times)
            messages = part.mask.bit_count()
            self.messages[Wait.TIME] -= messages
            self.messages[Wait.TURN] += messages
            entry.parts.remove(part)
            found.append((entry, part.mask, part.ordered))
            self._join(entry, WaitingPart(
                part.mask, part.redelivered, part.reason, Wait.TURN, 0.0, ordered=part.ordered
            ))
        return found

    # --- ends

    def settle(self, key: Key, mask: int) -> list[tuple[WaitingEntry, WaitingPart, int]]:
        """These messages are acknowledged; answers which of them waited, and in what part."""
        entry = self.entries.get(key)
        return [] if entry is None else self._cut(entry, mask)

    def settle_range(
        self, first: int, end: int
    ) -> list[tuple[WaitingEntry, WaitingPart, int]]:
        """As `settle`, for the ordinals first..end-1. Looks at all entries."""
        settled = []
        for entry in list(self.entries.values()):
            low, high = first - entry.first_ordinal, end - entry.first_ordinal
            if low < entry.count and high > 0:
                mask = full_mask(min(high, entry.count)) & ~full_mask(max(low, 0))
                settled += self._cut(entry, mask)
        return settled

    def settle_below(self, floor: int) -> list[tuple[WaitingEntry, WaitingPart, int]]:
        """As `settle`, for everything below the ordinal."""
        settled = []
        while self._order:
            entry = self.entries.get(self._order[0])
            if entry is not None:
                below = min(floor - entry.first_ordinal, entry.count)
                if below <= 0:
                    break
                settled += self._cut(entry, full_mask(below))
                if entry.key in self.entries:
                    break
            heappop(self._order)
        return settled

    def _cut(
        self, entry: WaitingEntry, mask: int
    ) -> list[tuple[WaitingEntry, WaitingPart, int]]:
        settled = []
        for part in entry.parts:
            hit = part.mask & mask
            if hit:
                part.mask ^= hit
                self.messages[part.wait] -= hit.bit_count()
                settled.append((entry, part, hit))
        if settled:
            entry.parts = [part for part in entry.parts if part.mask]
            self._drop_if_empty(entry)
        return settled

    def _drop_if_empty(self, entry: WaitingEntry) -> None:
        if not entry.parts:
            self.entries.pop(entry.key, None)

    def clear(self) -> None:
        """Nothing waits any more."""
        self.entries.clear()
        self._turns.clear()
        self._times.clear()
        self._order.clear()
        self.messages = [0] * len(Wait)
