"""An entry of a topic's log as the broker handles it."""

from __future__ import annotations

from ledger.position import Position
from magnetar.entry import Flag, batch_flags, parse_header, parse_prefix
from magnetar.errors import CorruptRecord, InvalidFrame
from magnetar.ids import EntryId, LedgerId


class StoredEntry:
    """Where an entry stands, which ordinals it has, and its bytes: one object, shared by all."""

    __slots__ = ("append_time_ms", "body", "count", "entry_id", "first_ordinal", "ledger_id")

    def __init__(
        self, ledger_id: int, entry_id: int, first_ordinal: int, count: int,
        append_time_ms: int, body: bytes,
    ) -> None:
        self.ledger_id = ledger_id
        self.entry_id = entry_id
        self.first_ordinal = first_ordinal
        self.count = count
        self.append_time_ms = append_time_ms
        self.body = body

    @property
    def position(self) -> Position:
        return Position(LedgerId(self.ledger_id), EntryId(self.entry_id))

    @property
    def end_ordinal(self) -> int:
        """The ordinal after the entry's last message."""
        return self.first_ordinal + self.count

    @property
    def expires(self) -> bool:
        """Some message of it has a time to live of its own."""
        return bool(batch_flags(self.body) & Flag.EXPIRES.value)


def parse_stored(position: Position, body: bytes) -> StoredEntry:
    """From the log; raises CorruptRecord, since nothing malformed was ever appended."""
    try:
        prefix, batch = parse_prefix(body)
        header = parse_header(batch)
    except InvalidFrame as error:
        raise CorruptRecord(f"entry {position} does not read: {error}") from error
    return StoredEntry(
        position.ledger_id, position.entry_id, prefix.first_ordinal, header.count,
        prefix.append_time_ms, body,
    )
