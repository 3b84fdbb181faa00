"""Records of a schedule's ledgers: stored once, read for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.schedule.records import (
    BatchScheduled,
    Cancelled,
    Head,
    Moved,
    ScheduleRecord,
    Target,
    decode_schedule_record,
    encode_schedule_record,
)
from magnetar.entry import Columns, ScheduleMark, SchedulePlace, encode_batch
from magnetar.errors import CorruptRecord

GOLDEN = Path(__file__).parent / "golden"
HEAD = Head(3, 1_700_000_000_000, 41, 1_700_000_000_123)
TARGET = Target(ScheduleMark(1_800_000_000_000, 7), SchedulePlace(11, 5, 2))
BATCH = encode_batch(
    "p", 4, [b"a", b"bc"], publish_time_ms=1, columns=Columns(deliver_at_ms=[9, 8])
)
RECORDS: dict[str, ScheduleRecord] = {
    "batch": BatchScheduled(HEAD, BATCH),
    "cancelled": Cancelled(HEAD, (TARGET, TARGET._replace(mark=ScheduleMark(2**63 - 1, 2**40)))),
    "moved": Moved(HEAD, TARGET, BATCH),
}


@pytest.mark.parametrize("name", RECORDS)
def test_golden_records_are_read_and_written_as_ever(name: str) -> None:
    stored = bytes.fromhex((GOLDEN / f"{name}.v1.hex").read_text())

    assert encode_schedule_record(RECORDS[name]) == stored
    assert decode_schedule_record(stored) == RECORDS[name]


@pytest.mark.parametrize("name", RECORDS)
def test_damaged_records_are_refused(name: str) -> None:
    stored = encode_schedule_record(RECORDS[name])
    damaged = [stored[:-1], stored[:20], b"", stored + b"\0"]
    damaged += [stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1:] for at in (0, 4, 5, 30)]
    for data in damaged:
        with pytest.raises(CorruptRecord):
            decode_schedule_record(data)

