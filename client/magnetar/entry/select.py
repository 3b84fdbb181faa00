"""Builds an entry of some of another's messages, whole and with their checksums."""

from __future__ import annotations

from collections.abc import Sequence
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
    flags = int(header.flags)

    def numbers(flag: Flag) -> list[int] | None:
        return picked(view.numbers(flag)) if flags & int(flag) else None

    def texts(flag: Flag) -> list[str | None] | None:
        return picked(view.texts(flag)) if flags & int(flag) else None

    def picked(column: Sequence[Value]) -> list[Value]:
        return [column[index] for index in indexes]

    first = header.first_sequence_id
    sequence_ids = numbers(Flag.SEQUENCE_IDS) or [first + index for index in indexes]
    consecutive = sequence_ids[-1] - sequence_ids[0] == len(indexes) - 1
    properties = None
    if flags & int(Flag.PROPERTIES):
        properties = [view.properties(index) for index in indexes]
    return encode_batch(
        header.producer_name,
        sequence_ids[0],
        [view.payload(index) for index in indexes],
        publish_time_ms=header.publish_time_ms,
        codec=header.codec,
        columns=Columns(
            sequence_ids=None if consecutive else sequence_ids,
            event_times_ms=numbers(Flag.EVENT_TIMES),
            deliver_at_ms=numbers(Flag.DELIVER_AT),
            expires_after_ms=numbers(Flag.EXPIRES),
            partition_keys=texts(Flag.PARTITION_KEYS),
            ordering_keys=texts(Flag.ORDERING_KEYS),
            tags=texts(Flag.TAGS),
            provenance=texts(Flag.PROVENANCE),
            properties=properties,
            checksums=numbers(Flag.CHECKSUMS),
        ),
        derived=derived or bool(header.flags & Flag.DERIVED),
    )
