"""One batch of a producer, from its first message to its receipt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from magnetar.entry import Codec, Columns, EntryHeader, EntryView, encode_batch, select
from magnetar.errors import MagnetarError
from magnetar.message_id import MessageId
from magnetar.scheduled_id import ScheduledId

OVERHEAD_BYTES = 32
"""Counted for each message beside its payload, so that empty ones are bounded too."""


class Options(NamedTuple):
    """What a message has beside its payload; all None for most."""

    properties: Mapping[str, str] | None = None
    partition_key: str | None = None
    ordering_key: str | None = None
    event_time_ms: int | None = None
    deliver_at_ms: int | None = None
    tag: str | None = None
    time_to_live_ms: int | None = None
    size_bytes: int = 0
    """Of all the texts, encoded."""


class Batch:
    """Collects payloads, then holds the encoded bytes, then the outcome.

    `outcome` is the ledger and entry id once durable, an error once failed. `already_stored`
    messages at its beginning were found stored before, so they are not part of that entry.
    """

    __slots__ = (
        "already_stored", "count", "created_s", "delayed", "encoded", "first_sequence_id",
        "observers", "options", "outcome", "payloads", "sequence_ids", "size_bytes", "waiter",
    )

    def __init__(
        self, first_sequence_id: int, created_s: float, delayed: bool = False
    ) -> None:
        self.first_sequence_id = first_sequence_id
        self.created_s = created_s
        self.delayed = delayed
        """All of its messages are to be delivered later, or none: the topic keeps those elsewhere,
        until they are due."""
        self.payloads: list[bytes] = []
        self.options: list[tuple[int, Options]] = []
        self.sequence_ids: list[int] | None = None
        self.size_bytes = 0
        self.count = 0
        """Set when the batch is encoded."""
        self.encoded: bytes | None = None
        self.outcome: tuple[int, int] | MagnetarError | None = None
        self.already_stored = 0
        self.waiter: Any = None
        """The driver's future of the outcome, when somebody waits for it."""
        self.observers: list[Callable[[], object]] | None = None
        """Called once the outcome is known; they do not count as somebody who waits."""

    @property
    def last_sequence_id(self) -> int:
        if self.sequence_ids is not None:
            return self.sequence_ids[-1]
        return self.first_sequence_id + (self.count or len(self.payloads)) - 1

    @property
    def waiting_sequence_id(self) -> int:
        """The first sequence id that the next receipt covers."""
        if self.sequence_ids is not None:
            return self.sequence_ids[self.already_stored]
        return self.first_sequence_id + self.already_stored

    def add_sequence_id(self, sequence_id: int) -> None:
        """Number the message just about to be added; to be called before it is."""
        count = len(self.payloads)
        if self.sequence_ids is None:
            if sequence_id == self.first_sequence_id + count:
                return
            first = self.first_sequence_id
            self.sequence_ids = list(range(first, first + count))
        self.sequence_ids.append(sequence_id)

    def encode(self, producer_name: str, publish_time_ms: int, codec: Codec) -> bytes:
        """The bytes to send, the same ones at every resend."""
        if self.encoded is None:
            payloads, self.payloads = self.payloads, []
            self.count = len(payloads)
            self.encoded = encode_batch(
                producer_name, self.first_sequence_id, payloads,
                publish_time_ms=publish_time_ms, codec=codec, columns=self._columns(),
            )
            self.options = []
        return self.encoded

    def skip_stored(self, last_sequence_id: int) -> bool:
        """Cut off the messages up to `last_sequence_id`; False when none is left."""
        assert self.encoded is not None
        view = EntryView(self.encoded, verify=False)
        kept = [
            index for index in range(view.count) if view.sequence_id(index) > last_sequence_id
        ]
        self.already_stored += view.count - len(kept)
        if kept and len(kept) < view.count:
            self.encoded = select(view, kept, derived=False)
        return bool(kept)

    def message_id(self, partition: int, index: int) -> MessageId | ScheduledId:
        """Raises the batch's error; only for settled batches."""
        outcome = self.outcome
        if isinstance(outcome, tuple):
            kind = ScheduledId if self.delayed else MessageId
            if index >= self.already_stored:
                return kind(partition, *outcome, index - self.already_stored)
            return kind(partition, 0, -1, index)
        assert outcome is not None
        raise outcome

    def _columns(self) -> Columns:
        if not self.options:
            return Columns(sequence_ids=self.sequence_ids)

        indexes, given = zip(*self.options, strict=True)
        values_of = dict(zip(Options._fields, zip(*given, strict=True), strict=True))

        def column(field: str, default: Any) -> list[Any] | None:
            values = values_of[field]
            if values.count(None) == len(values):
                return None
            filled = [default] * self.count
            for index, value in zip(indexes, values, strict=True):
                if value is not None:
                    filled[index] = value
            return filled

        return Columns(
            sequence_ids=self.sequence_ids,
            event_times_ms=column("event_time_ms", 0),
            deliver_at_ms=column("deliver_at_ms", 0),
            partition_keys=column("partition_key", None),
            ordering_keys=column("ordering_key", None),
            expires_after_ms=column("time_to_live_ms", 0),
            tags=column("tag", None),
            properties=column("properties", None),
        )


def encoded_batch(encoded: bytes, header: EntryHeader, created_s: float) -> Batch:
    """A batch somebody else encoded; it is not checked."""
    batch = Batch(header.first_sequence_id, created_s)
    if header.last_sequence_id - header.first_sequence_id != header.count - 1:
        view = EntryView(encoded, verify=False)
        batch.sequence_ids = [view.sequence_id(index) for index in range(view.count)]
    batch.count = header.count
    batch.size_bytes = len(encoded)
    batch.encoded = encoded
    return batch
