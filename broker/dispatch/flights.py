"""What is with consumers: entries some of whose messages are delivered and not acknowledged.

A part holds only messages that are not acknowledged, so what a consumer holds is counted exactly
and in constant time, whichever way its messages are settled.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence, ValuesView
from heapq import heapify, heappop, heappush

from broker.consumer_session import ConsumerSession
from broker.cursor import full_mask
from broker.stored_entry import StoredEntry

Key = tuple[int, int]
"""Of an entry: its ledger and its place there."""

LATE_SPARE = 64
"""The heap of late flights is rebuilt when it is so much larger than twice what is in flight."""


class Part:
    """Messages of one entry (`mask`) that are with one consumer."""

    __slots__ = ("consumer", "mask", "reason", "redelivered")

    def __init__(
        self, consumer: ConsumerSession, mask: int, redelivered: int, reason: str = ""
    ) -> None:
        self.consumer = consumer
        self.mask = mask
        self.redelivered = redelivered
        self.reason = reason
        """Why they failed the last time."""


class Flight:
    """An entry of which something is out. `keys`: of all its messages, where keys have order."""

    __slots__ = ("count", "first_ordinal", "keys", "parts")

    def __init__(
        self, first_ordinal: int, count: int, keys: Sequence[str | None] | None, parts: list[Part]
    ) -> None:
        self.first_ordinal = first_ordinal
        self.count = count
        self.keys = keys
        self.parts = parts


class Flights:
    """Of one subscription. `freed` is told of a parked consumer that holds less than before."""

    def __init__(self, freed: Callable[[ConsumerSession], None]) -> None:
        self._freed = freed
        self.entries: OrderedDict[Key, Flight] = OrderedDict()
        self._newest: Key = (-1, -1)
        self._late: list[Key] = []
        """Those that went out after a later entry had: they stand out of order."""
        self.messages = 0

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: Key) -> bool:
        return key in self.entries

    def get(self, key: Key) -> Flight | None:
        return self.entries.get(key)

    def values(self) -> ValuesView[Flight]:
        return self.entries.values()

    def add(
        self, entry: StoredEntry, mask: int, keys: Sequence[str | None] | None,
        consumer: ConsumerSession, redelivered: int, reason: str,
    ) -> None:
        """These messages go to this consumer."""
        messages = mask.bit_count()
        self.messages += messages
        consumer.unacknowledged += messages
        key = (entry.ledger_id, entry.entry_id)
        consumer.held[key] = None
        part = Part(consumer, mask, redelivered, reason)
        flight = self.entries.get(key)
        if flight is not None:
            flight.parts.append(part)
            return
        self.entries[key] = Flight(entry.first_ordinal, entry.count, keys, [part])
        if key >= self._newest:
            self._newest = key
            return
        heappush(self._late, key)
        if len(self._late) > 2 * len(self.entries) + LATE_SPARE:
            self._late = list({late for late in self._late if late in self.entries})
            heapify(self._late)

    def settle(self, key: Key, mask: int) -> int:
        """These messages are acknowledged; answers which of them were out."""
        flight = self.entries.get(key)
        return 0 if flight is None else self._cut(key, flight, mask)

    def settle_below(self, floor: int) -> list[tuple[Flight, int]]:
        """Everything below the ordinal is acknowledged; answers what of it was out."""
        settled: list[tuple[Flight, int]] = []
        # Of those that went out in order none is below the floor once one is not.
        while self.entries and self._settle_below(next(iter(self.entries)), floor, settled):
            pass
        while self._late:
            key = self._late[0]
            if key in self.entries and not self._settle_below(key, floor, settled):
                break
            heappop(self._late)
        return settled

    def _settle_below(self, key: Key, floor: int, settled: list[tuple[Flight, int]]) -> bool:
        flight = self.entries[key]
        below = min(floor - flight.first_ordinal, flight.count)
        if below > 0:
            hit = self._cut(key, flight, full_mask(below))
            if hit:
                settled.append((flight, hit))
        return key not in self.entries

    def take(
        self, key: Key, consumer: ConsumerSession, mask: int
    ) -> list[tuple[int, int, str]]:
        """Those of these messages that this consumer has are with it no more: (mask, how often
        they were delivered again, why they failed the last time)."""
        flight = self.entries.get(key)
        taken: list[tuple[int, int, str]] = []
        if flight is not None:
            self._cut(key, flight, mask, consumer, taken)
        return taken

    def _cut(
        self, key: Key, flight: Flight, mask: int, whose: ConsumerSession | None = None,
        taken: list[tuple[int, int, str]] | None = None,
    ) -> int:
        if whose is None and len(flight.parts) == 1:
            return self._cut_only(key, flight.parts[0], mask)
        cut, kept = 0, []
        for part in flight.parts:
            hit = part.mask & mask
            consumer = part.consumer
            if hit and (whose is None or consumer is whose):
                cut |= hit
                part.mask ^= hit
                messages = hit.bit_count()
                consumer.unacknowledged -= messages
                self.messages -= messages
                if taken is not None:
                    taken.append((hit, part.redelivered, part.reason))
                if not part.mask:
                    consumer.held.pop(key, None)
                if consumer.parked:
                    self._freed(consumer)
            if part.mask:
                kept.append(part)
        if len(kept) != len(flight.parts):
            flight.parts = kept
            for part in kept:
                part.consumer.held[key] = None  # another part of the same consumer was cut away
        if not kept:
            del self.entries[key]
        return cut

    def _cut_only(self, key: Key, part: Part, mask: int) -> int:
        """As `_cut`, where one part is all there is."""
        hit = part.mask & mask
        if hit:
            consumer, messages = part.consumer, hit.bit_count()
            part.mask ^= hit
            consumer.unacknowledged -= messages
            self.messages -= messages
            if not part.mask:
                del self.entries[key]
                consumer.held.pop(key, None)
            if consumer.parked:
                self._freed(consumer)
        return hit

    def forget_oldest(self) -> None:
        """Count the messages of the entry that went out first as nobody's."""
        key = next(iter(self.entries))
        self._cut(key, self.entries[key], -1)

    def clear(self) -> None:
        """Nothing is out any more."""
        for flight in self.entries.values():
            for part in flight.parts:
                part.consumer.unacknowledged = 0
                part.consumer.held.clear()
        self.entries.clear()
        self._late.clear()
        self._newest = (-1, -1)
        self.messages = 0

    def __iter__(self) -> Iterator[Key]:
        return iter(self.entries)
