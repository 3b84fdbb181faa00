"""What came out, held against what went in: lost, duplicated, out of order.

A message is known by the row number in its payload, and counts as that row only when its whole
payload and its key are those of the row; anything else is `foreign` and leaves its row lost.
A message is out of order when it comes after a later row of the same producer or the same key.
A repetition is counted as a duplicate, and never as out of order as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from demo.flights import Flight, row_number


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of one reading; `lost_rows` names the first few."""

    expected: int
    seen: int
    lost: int
    duplicated: int
    out_of_order: int
    foreign: int
    lost_rows: tuple[int, ...] = ()

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.out_of_order or self.foreign)


NAMED_ROWS = 10


@dataclass(slots=True)
class Reading:
    """Messages in the order they came, compared with `flights` as they come."""

    flights: Sequence[Flight]
    rows_seen: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    foreign: int = 0
    _seen: bytearray = field(default_factory=bytearray)
    _last_of_key: dict[str, int] = field(default_factory=dict)
    _last_of_producer: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._seen = bytearray(len(self.flights))

    @property
    def complete(self) -> bool:
        """Whether every row was seen at least once."""
        return self.rows_seen == len(self.flights)

    def add(self, producer: str, key: str | None, payload: bytes) -> None:
        """Take the next message."""
        number = self._row_of(key, payload)
        if number is None:
            self.foreign += 1
        elif self._seen[number]:
            self.duplicated += 1
        else:
            self._seen[number] = 1
            self.rows_seen += 1
            self._check_order(producer, self.flights[number].tail_number, number)

    def forget(self, number: int) -> None:
        """Take a row as never seen: how a run shows that the comparison notices."""
        if self._seen[number]:
            self._seen[number] = 0
            self.rows_seen -= 1

    def _row_of(self, key: str | None, payload: bytes) -> int | None:
        try:
            number = row_number(payload)
        except ValueError:
            return None
        if not 0 <= number < len(self.flights):
            return None
        flight = self.flights[number]
        return number if flight.tail_number == key and flight.payload == payload else None

    def _check_order(self, producer: str, key: str, number: int) -> None:
        last = max(self._last_of_key.get(key, -1), self._last_of_producer.get(producer, -1))
        if number < last:
            self.out_of_order += 1
            return
        self._last_of_key[key] = number
        self._last_of_producer[producer] = number

    def verdict(self) -> Verdict:
        """The counts as they stand."""
        lost = [number for number, seen in enumerate(self._seen) if not seen]
        return Verdict(
            expected=len(self.flights),
            seen=self.rows_seen,
            lost=len(lost),
            duplicated=self.duplicated,
            out_of_order=self.out_of_order,
            foreign=self.foreign,
            lost_rows=tuple(lost[:NAMED_ROWS]),
        )
