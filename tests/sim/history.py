"""What clients saw, in the order of virtual time, for the checkers to judge."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """An entry of a log."""

    ledger_id: int
    entry_id: int


@dataclass(slots=True)
class Appended:
    """One message of one producer. `place` is known once it was acknowledged, unless it is
    delayed: then it will get one."""

    producer: str
    sequence_id: int
    sent_s: float
    acked_s: float = -1.0
    place: Place | None = None
    failed: bool = False
    delayed: bool = False


@dataclass(slots=True)
class History:
    """All that was published, read and acknowledged on one topic."""

    messages: dict[tuple[str, int], Appended] = field(default_factory=dict)
    acked_places: set[Place] = field(default_factory=set)
    acks: list[Appended] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    consumed_durably: dict[tuple[str, int], float] = field(default_factory=dict)
    consume_asked: set[tuple[str, int]] = field(default_factory=set)
    seen_messages: set[tuple[str, int]] = field(default_factory=set)
    read_places: dict[Place, str] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)

    def sent(
        self, producer: str, sequence_id: int, now_s: float, delayed: bool = False
    ) -> None:
        key = (producer, sequence_id)
        if key not in self.messages:
            self.messages[key] = Appended(producer, sequence_id, now_s, delayed=delayed)
            self.in_flight[producer] = self.in_flight.get(producer, 0) + 1

    def acked(self, producer: str, sequence_id: int, place: Place | None, now_s: float) -> None:
        """A receipt; the position may be unknown for one recognised as a resend."""
        message = self.messages.get((producer, sequence_id))
        if message is None:
            self.violations.append(f"receipt for {producer}/{sequence_id}, which was never sent")
            return
        if message.acked_s >= 0:
            if place is not None and message.place not in (None, place):
                self.violations.append(
                    f"I3 {producer}/{sequence_id} acknowledged at {message.place} and {place}"
                )
            return
        self.in_flight[producer] -= 1
        message.acked_s = now_s
        message.place = place
        if place is not None:
            self.acked_places.add(place)
        self.acks.append(message)

    def unsettled(self, producer: str) -> int:
        """Messages sent and not yet answered."""
        return self.in_flight.get(producer, 0)

    def unknown(self, producer: str, sequence_id: int) -> None:
        """The producer gave up on it: it may or may not be stored."""
        self.in_flight[producer] -= 1

    def failed(self, producer: str, sequence_id: int) -> None:
        """A definite failure: it must never be read."""
        self.in_flight[producer] -= 1
        self.messages[producer, sequence_id].failed = True
