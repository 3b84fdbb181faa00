"""Entries cut for a filter: their messages go by the ids they have in the log."""

from __future__ import annotations

import pytest

from magnetar.acknowledgements import Acknowledgement
from magnetar.entry import (
    Columns,
    EntryView,
    Prefix,
    encode_batch,
    encode_prefix,
    indexes_of,
    select,
)
from magnetar.errors import InvalidFrame
from magnetar.picked_view import PickedView
from magnetar.receive_queue import ReceiveQueue
from magnetar.wire.frames import Delivered

BATCH = encode_batch(
    "p", 10, [b"%d" % n for n in range(6)], publish_time_ms=1,
    columns=Columns(properties=[{"n": str(n)} for n in range(6)], tags=list("abcdef"),
                    event_times_ms=list(range(6)), ordering_keys=[f"k{n}" for n in range(6)]),
)
PREFIX = encode_prefix(Prefix(1, 1, 0))


def cut(bits: int) -> bytes:
    return select(EntryView(BATCH), indexes_of(bits))


def test_everything_is_found_under_the_index_it_had() -> None:
    whole, view = EntryView(BATCH), PickedView(cut(0b101100), b"\x2c")

    assert view.indexes == [2, 3, 5]
    for index in view.indexes:
        for read in ("payload", "properties", "tag", "event_time_ms", "key", "sequence_id",
                     "checksum", "partition_key", "deliver_at_ms"):
            assert getattr(view, read)(index) == getattr(whole, read)(index), read


@pytest.mark.parametrize("picked", [b"\x01", b"\xff", b"\x2c\x01"])
def test_a_bitmap_of_another_size_is_damage(picked: bytes) -> None:
    with pytest.raises(InvalidFrame, match="batch indexes"):
        PickedView(cut(0b101100), picked)


def test_acknowledging_all_of_a_cut_is_not_acknowledging_the_whole() -> None:
    queue = ReceiveQueue("t", -1)
    queue.add(Delivered(3, 4, PREFIX + cut(0b000110), picked=b"\x06"))
    queue.add(Delivered(3, 5, PREFIX + BATCH))
    group = Acknowledgement()
    for message in queue.pop_many(10):
        group.entries.setdefault(message.entry, []).append(message.index)

    assert group.bitmaps() == {(3, 4): 0b110, (3, 5): None}


def test_a_link_lost_brings_back_only_what_is_not_in_hand() -> None:
    queue = ReceiveQueue("t", -1)
    delivered = Delivered(3, 4, PREFIX + cut(0b101100), picked=b"\x2c")
    queue.add(delivered)
    first = queue.pop()
    assert first is not None and (first.data, first.message_id.batch_index) == (b"2", 2)

    queue.new_link()
    queue.add(delivered)

    assert [message.data for message in queue.pop_many(10)] == [b"3", b"5"]
    assert indexes_of(0) == [] and indexes_of(1 << 70 | 1) == [0, 70]
