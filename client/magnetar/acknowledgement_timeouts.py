"""Which received messages were not settled in time, without any I/O.

A wheel of slots: a message handed out goes into the slot of now, and each slot is looked at once,
when it is due. What was settled meanwhile is told by a bit of its entry, so that nothing has to
be taken out of a slot.
"""

from __future__ import annotations

from collections import deque

from magnetar.message import ReceivedEntry
from magnetar.receive_queue import Position

SLOTS = 16
"""How many a timeout is divided into: it is at most so much of it late."""


class Timed:
    """A delivered entry and which of its messages the user has not settled. Without them it
    lets go of the entry, whose bytes must not be kept until the slot is due."""

    __slots__ = ("entry", "unsettled")

    def __init__(self, entry: ReceivedEntry) -> None:
        self.entry: ReceivedEntry | None = entry
        self.unsettled = 0


class AcknowledgementTimeouts:
    """Times are seconds on one clock that never goes back."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._slot_s = timeout_s / SLOTS
        self._slots: deque[tuple[float, dict[Timed, int]]] = deque()
        self._of_position: dict[Position, list[Timed]] = {}

    def __len__(self) -> int:
        """Entries with unsettled messages."""
        return len(self._of_position)

    def handed_out(self, entry: ReceivedEntry, bits: int, now_s: float) -> None:
        """The user has these messages now."""
        if not self._slots or self._slots[-1][0] < now_s + self._timeout_s:
            self._slots.append((now_s + self._timeout_s + self._slot_s, {}))
        slot = self._slots[-1][1]
        known = self._of_position.setdefault(entry.position, [])
        for timed in known:
            if timed.entry is entry:
                break
        else:
            timed = Timed(entry)
            known.append(timed)
        timed.unsettled |= bits
        slot[timed] = slot.get(timed, 0) | bits

    def settled(self, position: Position, bits: int | None) -> None:
        """Acknowledged or given back; None: the whole entry."""
        for timed in list(self._of_position.get(position, ())):
            self._settle(position, timed, timed.unsettled if bits is None else bits)

    def settled_up_to(self, position: Position, index: int) -> None:
        """As `settled`, for everything up to and with a message (-1: the whole entry)."""
        for known in [known for known in self._of_position if known <= position]:
            whole = known < position or index < 0
            self.settled(known, None if whole else (2 << index) - 1)

    def _settle(self, position: Position, timed: Timed, bits: int) -> None:
        timed.unsettled &= ~bits
        if not timed.unsettled and timed.entry is not None:
            timed.entry = None
            known = self._of_position[position]
            known.remove(timed)
            if not known:
                del self._of_position[position]

    @property
    def next_due_s(self) -> float | None:
        """When to ask again; None: not before something is handed out."""
        return self._slots[0][0] if self._slots else None

    def overdue(self, now_s: float) -> list[tuple[ReceivedEntry, int]]:
        """What was not settled in time, each once."""
        found: list[tuple[ReceivedEntry, int]] = []
        while self._slots and self._slots[0][0] <= now_s:
            for timed, bits in self._slots.popleft()[1].items():
                entry, late = timed.entry, bits & timed.unsettled
                if entry is not None and late:
                    self._settle(entry.position, timed, late)
                    found.append((entry, late))
        return found

    def clear(self) -> None:
        """A seek happened: what was received before is nobody's business any more."""
        self._slots.clear()
        self._of_position.clear()
