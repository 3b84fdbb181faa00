"""Builds the batch that goes to another topic: whole messages with their producers' checksums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from broker.stored_entry import StoredEntry
from magnetar.entry import (
    Columns,
    EntryView,
    Provenance,
    encode_batch,
    encode_provenance,
    parse_prefix,
)

OVERHEAD_BYTES = 64
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Copy:
    """A message on its way to another topic. When it is to be delivered, and how long it may
    wait, was a matter of the topic it comes from."""

    payload: bytes
    checksum: int | None
    partition_key: str | None
    ordering_key: str | None
    tag: str | None
    event_time_ms: int
    properties: dict[str, str]
    origin: Provenance
    """Its first producer, who is told to whoever receives the copy."""

    @property
    def key(self) -> str | None:
        """What orders the message."""
        return self.partition_key if self.ordering_key is None else self.ordering_key

    @property
    def size_bytes(self) -> int:
        """About what it adds to a batch."""
        texts = sum(len(key) + len(value) + 8 for key, value in self.properties.items())
        return len(self.payload) + texts + OVERHEAD_BYTES


class Labels(Protocol):
    """What the copies of an entry's messages say of themselves."""

    @property
    def withdrawn(self) -> bool:
        """They need not go any more."""

    def properties(self, view: EntryView, entry: StoredEntry, index: int) -> dict[str, str]:
        """All the properties of a copy."""


def copy_of(view: EntryView, entry: StoredEntry, index: int, labels: Labels) -> Copy:
    """One message of an entry; raises InvalidFrame, NotSupported for bytes that do not read."""
    name, sequence_id, time_ms, _ = view.origin(index)
    return Copy(
        view.payload(index), view.checksum(index), view.partition_key(index),
        view.ordering_key(index), view.tag(index), view.event_time_ms(index),
        labels.properties(view, entry, index), Provenance(name, sequence_id, time_ms),
    )


def opened(entry: StoredEntry) -> EntryView:
    """The messages of a stored entry, its checksum verified; raises InvalidFrame."""
    _, batch = parse_prefix(entry.body)
    return EntryView(batch)


def encode_copies(
    producer_name: str, first_sequence_id: int, copies: Sequence[Copy], now_ms: int
) -> bytes:
    """One batch of them. The checksums are the producers' own wherever all have one."""
    checksums = [copy.checksum for copy in copies]
    known = [checksum for checksum in checksums if checksum is not None]
    return encode_batch(
        producer_name, first_sequence_id, [copy.payload for copy in copies],
        publish_time_ms=now_ms,
        columns=Columns(
            event_times_ms=_unless_all(0, [copy.event_time_ms for copy in copies]),
            partition_keys=_unless_all(None, [copy.partition_key for copy in copies]),
            ordering_keys=_unless_all(None, [copy.ordering_key for copy in copies]),
            tags=_unless_all(None, [copy.tag for copy in copies]),
            properties=_unless_all({}, [copy.properties for copy in copies]),
            provenance=[encode_provenance(copy.origin) for copy in copies],
            checksums=known if len(known) == len(copies) else None,
        ),
        derived=True,
    )


def _unless_all(default: Value, column: list[Value]) -> list[Value] | None:
    return None if all(value == default for value in column) else column
