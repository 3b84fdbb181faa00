"""Which consumer owns which keys: every key hashes to one of 65,536 slots, every slot has an owner.

All consumers own the same number of slots, give or take one. Whoever joins takes its share one
slot at a time from those who have most; the slots of one who leaves go one at a time to those who
have least. So nothing moves but what the newcomer gets or the leaver had: as few keys as can be.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from typing import Generic, TypeVar
from zlib import crc32

SLOTS = 1 << 16
GOLDEN = 0x9E3779B1
"""2**32 divided by the golden ratio: spreads what CRC32 leaves alike in neighbouring keys."""

C = TypeVar("C", bound=Hashable)


def slot_of(key: str) -> int:
    """The slot of a key, the same everywhere and for ever."""
    return (crc32(key.encode()) * GOLDEN & 0xFFFFFFFF) >> 16


class StickySlots(Generic[C]):
    """Costs 256 KiB while there is an owner, and a join or leave `SLOTS` / members steps."""

    __slots__ = ("_by_size", "_free", "_members", "_numbers", "_owned", "_owner", "version")

    def __init__(self) -> None:
        self.version = 0
        """Grows whenever owners change."""
        self._owner = array("H")
        self._members: list[C | None] = []
        self._free: list[int] = []
        self._numbers: dict[C, int] = {}
        self._owned: dict[int, array[int]] = {}
        self._by_size: dict[int, dict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, consumer: C) -> bool:
        return consumer in self._numbers

    def owner(self, slot: int) -> C | None:
        """Who owns the slot; None while nobody owns any."""
        return self._members[self._owner[slot]] if self._numbers else None

    def owned_by(self, consumer: C) -> frozenset[int]:
        """Its slots."""
        return frozenset(self._owned[self._numbers[consumer]])

    def join(self, consumer: C) -> None:
        """Give a consumer its share; one that has it keeps it."""
        if consumer in self._numbers:
            return
        self.version += 1
        number = self._free.pop() if self._free else len(self._members)
        if number == len(self._members):
            self._members.append(consumer)
        else:
            self._members[number] = consumer
        self._numbers[consumer] = number
        if len(self._numbers) == 1:
            self._owner = array("H", [number]) * SLOTS
            self._owned[number] = array("H", range(SLOTS))
        else:
            self._owned[number] = self._taken(SLOTS // len(self._numbers), number)
        self._by_size.setdefault(len(self._owned[number]), {})[number] = None

    def _taken(self, share: int, number: int) -> array[int]:
        taken = array("H")
        size = max(self._by_size)
        for _ in range(share):
            while size not in self._by_size:
                size -= 1
            slot = self._owned[self._resize(size, size - 1)].pop()
            self._owner[slot] = number
            taken.append(slot)
        return taken

    def _resize(self, size: int, new_size: int) -> int:
        """The member that had `size` slots for longest; it is filed under `new_size` now."""
        numbers = self._by_size[size]
        number = next(iter(numbers))
        del numbers[number]
        if not numbers:
            del self._by_size[size]
        self._by_size.setdefault(new_size, {})[number] = None
        return number

    def leave(self, consumer: C) -> None:
        """Give its slots to the others; one that has none is none."""
        number = self._numbers.pop(consumer, None)
        if number is None:
            return
        self.version += 1
        slots = self._owned.pop(number)
        numbers = self._by_size[len(slots)]
        del numbers[number]
        if not numbers:
            del self._by_size[len(slots)]
        self._members[number] = None
        self._free.append(number)
        if not self._numbers:
            self._owner = array("H")
            self._members.clear()
            self._free.clear()
            return
        size = min(self._by_size)
        for slot in slots:
            while size not in self._by_size:
                size += 1
            heir = self._resize(size, size + 1)
            self._owned[heir].append(slot)
            self._owner[slot] = heir
