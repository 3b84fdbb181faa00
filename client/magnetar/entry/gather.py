"""Builds one entry of messages from several, whole and with their checksums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from magnetar.entry.encode import Columns, encode_batch
from magnetar.entry.layout import Codec, Flag
from magnetar.entry.provenance import Provenance, SchedulePlace, encode_provenance
from magnetar.entry.view import EntryView
from magnetar.errors import InvalidArgument

Value = TypeVar("Value")
Source = tuple[EntryView, int]
"""A message: its entry, and its index there."""


def gather(
    messages: Sequence[Source],
    places: Sequence[SchedulePlace | None],
    *,
    deliver_at_ms: Sequence[int] | None = None,
) -> bytes:
    """The client part with these messages, in this order, as a broker makes it.

    Payloads and their checksums are the producers' own; who they were stands in the provenance
    column, beside each message's place in the schedule. What the messages asked for as delivery
    time is replaced by `deliver_at_ms`. The entry is compressed as its messages were, when they
    agree on it.
    """
    if not messages:
        raise InvalidArgument("an entry holds at least one message")
    flags = 0
    codecs: set[Codec] = set()
    for view, _ in messages:
        flags |= view.header.flags
        codecs.add(view.header.codec)

    def column(flag: Flag, read: Callable[[EntryView, int], Value]) -> list[Value] | None:
        return [read(view, index) for view, index in messages] if flags & flag else None

    origins: list[str] = []
    for (view, index), place in zip(messages, places, strict=True):
        name, sequence_id, time_ms, known = view.origin(index)
        origins.append(encode_provenance(Provenance(name, sequence_id, time_ms, place or known)))
    checksums = [view.checksum(index) for view, index in messages]
    given = [crc for crc in checksums if crc is not None]
    view = messages[0][0]
    return encode_batch(
        "", 0, [view.payload(index) for view, index in messages],
        publish_time_ms=view.header.publish_time_ms,
        codec=codecs.pop() if len(codecs) == 1 else Codec.NONE,
        columns=Columns(
            event_times_ms=column(Flag.EVENT_TIMES, EntryView.event_time_ms),
            deliver_at_ms=deliver_at_ms,
            expires_after_ms=column(Flag.EXPIRES, EntryView.expires_after_ms),
            partition_keys=column(Flag.PARTITION_KEYS, EntryView.partition_key),
            ordering_keys=column(Flag.ORDERING_KEYS, EntryView.ordering_key),
            tags=column(Flag.TAGS, EntryView.tag),
            provenance=origins,
            properties=column(Flag.PROPERTIES, EntryView.properties),
            checksums=given if len(given) == len(checksums) else None,
        ),
        derived=True,
    )
