"""Builds an entry of some of another's messages, whole and with their checksums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from magnetar.entry.encode import Columns, encode_batch
from magnetar.entry.layout import Flag
from magnetar.entry.view import EntryView
from magnetar.errors import InvalidArgument

Value = TypeVar("Value")


def indexes_of(bits: int) -> list[int]:
    """Where a bitmap has ones, growing; in linear time."""
    return [index for index, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"]


def select(view: EntryView, indexes: Sequence[int], *, derived: bool = True) -> bytes:
    """The client part with only the messages at `indexes` (growing, not empty).

    `derived=False` is for the producer itself, which may still cut what it sends.
    """
    if not indexes:
        raise InvalidArgument("an entry holds at least one message")
    header = view.header

    def column(flag: Flag, read: Callable[[int], Value]) -> list[Value] | None:
        return [read(index) for index in indexes] if header.flags & flag else None

    sequence_ids = [view.sequence_id(index) for index in indexes]
    consecutive = sequence_ids[-1] - sequence_ids[0] == len(indexes) - 1
    checksums = column(Flag.CHECKSUMS, view.checksum)
    return encode_batch(
        header.producer_name,
        sequence_ids[0],
        [view.payload(index) for index in indexes],
        publish_time_ms=header.publish_time_ms,
        codec=header.codec,
        columns=Columns(
            sequence_ids=None if consecutive else sequence_ids,
            event_times_ms=column(Flag.EVENT_TIMES, view.event_time_ms),
            deliver_at_ms=column(Flag.DELIVER_AT, view.deliver_at_ms),
            expires_after_ms=column(Flag.EXPIRES, view.expires_after_ms),
            partition_keys=column(Flag.PARTITION_KEYS, view.partition_key),
            ordering_keys=column(Flag.ORDERING_KEYS, view.ordering_key),
            tags=column(Flag.TAGS, view.tag),
            provenance=column(Flag.PROVENANCE, view.provenance),
            properties=column(Flag.PROPERTIES, view.properties),
            checksums=None if checksums is None else [crc for crc in checksums if crc is not None],
        ),
        derived=derived or bool(header.flags & Flag.DERIVED),
    )
