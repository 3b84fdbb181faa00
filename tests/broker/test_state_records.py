"""Records of the state ledger: stored once, read for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.cursor import FULL_CHUNK
from broker.state_records import (
    Acknowledged,
    Checkpoint,
    CursorReset,
    FilterSet,
    ForwardPlanned,
    LogLength,
    OptionsSet,
    PlannedPart,
    Redelivered,
    RedeliveryCount,
    ScheduleProgress,
    ScheduleSourcesAdvanced,
    SourceProgress,
    SourcesAdvanced,
    SourcesForgotten,
    StateRecord,
    StoredBatch,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionKind,
    TopicEpoch,
    decode,
    encode,
)
from magnetar.errors import CorruptRecord

GOLDEN = Path(__file__).parent / "golden"
RECORDS: dict[str, StateRecord] = {
    "subscription_created": SubscriptionCreated(
        "bücher", SubscriptionKind.SHARED, 300, 1_700_000_000_000
    ),
    "subscription_deleted": SubscriptionDeleted("s"),
    "acknowledged": Acknowledged("s", 5, ((0, 0b1010_0000), (7, 1 << 4095))),
    "cursor_reset": CursorReset("s", 0),
    "redelivered": Redelivered(
        "s", (RedeliveryCount(9, 0b101, 2), RedeliveryCount(1 << 40, 1, 300))
    ),
    "failed": Redelivered("s", (
        RedeliveryCount(9, 0b101, 2, 1_700_000_000_000, 60_000, "größe", True),
        RedeliveryCount(1 << 40, 1, 300),
        RedeliveryCount(7, 1, 0, 5, 300, "größe"),
    )),
    "sources_advanced": SourcesAdvanced((
        SourceProgress("p", False, 3, 41, 0, (StoredBatch(40, 41, 7, 0), StoredBatch(2, 2, 1, 9))),
        SourceProgress("~1-1", True, 1, -1, 1_700_000_000_000, ()),
    )),
    "sources_forgotten": SourcesForgotten(("~1-1", "~1-2")),
    "options_set": OptionsSet("s", 2, 300, "persistent://public/default/größe"),
    "filter_set": FilterSet("s", "A || B", "größe > 1"),
    "forward_planned": ForwardPlanned(
        "s", "persistent://public/default/orders-s-dead", 300,
        (PlannedPart(7, 2, 9, 0b101), PlannedPart(1 << 40, 0, 1 << 41, 1 << 20)),
    ),
    "checkpoint": Checkpoint(-1, -1, 0, 0),
    "schedule_progress": ScheduleProgress(7, 5, 1 << 40, 1_700_000_000_000, 12),
    "schedule_progress_none": ScheduleProgress(-1, -1, 1, -1, -1),
    "schedule_sources_advanced": ScheduleSourcesAdvanced((
        SourceProgress("p", False, 0, 41, 0, (StoredBatch(40, 41, 7, 0),)),
    )),
    "log_length": LogLength(7, 300, 1 << 33, 5, 1 << 40),
    "topic_epoch": TopicEpoch(300, "führung", True),
}


@pytest.mark.parametrize("name", RECORDS)
def test_golden_records_are_read_and_written_as_ever(name: str) -> None:
    stored = bytes.fromhex((GOLDEN / f"{name}.v1.hex").read_text())

    assert decode(stored) == RECORDS[name]
    assert encode(RECORDS[name]) == stored or name == "acknowledged"  # zlib may pack otherwise


def test_large_bitmaps_are_compressed() -> None:
    every_third = FULL_CHUNK // 7
    record = Acknowledged("s", 0, ((1, every_third), (2, FULL_CHUNK)))

    stored = encode(record)

    assert decode(stored) == record
    assert len(stored) < 120


@pytest.mark.parametrize("name", RECORDS)
def test_damaged_records_are_refused(name: str) -> None:
    stored = encode(RECORDS[name])
    for damaged in (b"", stored[:1], stored[:-1], stored + b"\0", b"\x02" + stored[1:],
                    stored[:1] + b"\x63" + stored[2:]):
        with pytest.raises(CorruptRecord):
            decode(damaged)
