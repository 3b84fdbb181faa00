"""Where a message came from that a broker put into an entry together with others.

One text a message, in the column of that name:

    KIND ":" sequence id ":" publish time in ms ":" place ":" producer name

KIND is a letter. `S`: it waited in the schedule, and place is what names it there, as
`LEDGER.ENTRY.INDEX`. `M`: it was moved from elsewhere, and place is empty. Kinds that this
version does not know are read as far as they go, so that an older reader is not stopped by them.
"""

from __future__ import annotations

from typing import NamedTuple

from magnetar.errors import InvalidFrame

SCHEDULED = "S"
MOVED = "M"


class SchedulePlace(NamedTuple):
    """Where the schedule got a message: what its scheduled id says, without the partition."""

    ledger_id: int
    entry_id: int
    batch_index: int


class Provenance(NamedTuple):
    """What an entry's header says of a message, when the entry is not its producer's own."""

    producer_name: str
    sequence_id: int
    publish_time_ms: int
    scheduled: SchedulePlace | None = None


def encode_provenance(origin: Provenance) -> str:
    """The text as stored."""
    name, sequence_id, time_ms, place = origin
    if place is None:
        return f"{MOVED}:{sequence_id}:{time_ms}::{name}"
    return f"{SCHEDULED}:{sequence_id}:{time_ms}:{place[0]}.{place[1]}.{place[2]}:{name}"


def parse_provenance(text: str) -> Provenance:
    """Raises InvalidFrame."""
    parts = text.split(":", 4)
    try:
        kind, sequence_id, time_ms, place, name = parts
        scheduled = None
        if kind == SCHEDULED:
            ledger_id, entry_id, index = place.split(".")
            scheduled = SchedulePlace(int(ledger_id), int(entry_id), int(index))
        return Provenance(name, int(sequence_id), int(time_ms), scheduled)
    except ValueError:
        raise InvalidFrame(f"a provenance that does not read: {text!r}") from None
