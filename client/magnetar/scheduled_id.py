"""Which message of a topic's schedule: what `send` answers for one to be delivered later."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from magnetar.errors import InvalidArgument

_FORMAT = struct.Struct(">Biqqi")
_VERSION = 1
_PREFIX = "scheduled:"


@dataclass(frozen=True, order=True, slots=True)
class ScheduledId:
    """Names the message from the receipt on, through delays and moves, and for good.

    It is no place in the topic's log: the message gets a MessageId when it is delivered, and has
    this one as `scheduled_id`. An `entry_id` of -1 is the id of a message that was recognised as
    already scheduled, at a place the broker no longer remembers. -1 as partition: the topic has
    none.
    """

    partition: int
    ledger_id: int
    entry_id: int
    batch_index: int

    def serialize(self) -> bytes:
        """Bytes to keep; they stay readable by every later version."""
        return _FORMAT.pack(
            _VERSION, self.partition, self.ledger_id, self.entry_id, self.batch_index
        )

    @classmethod
    def deserialize(cls, data: bytes) -> ScheduledId:
        """From `serialize()`; raises InvalidArgument."""
        if len(data) != _FORMAT.size or data[0] != _VERSION:
            raise InvalidArgument("not a serialized scheduled id")
        return cls(*_FORMAT.unpack(data)[1:])

    def __str__(self) -> str:
        return (
            f"{_PREFIX}{self.ledger_id}:{self.entry_id}:{self.partition}:{self.batch_index}"
        )

    @classmethod
    def parse(cls, text: str) -> ScheduledId:
        """From `str()`; raises InvalidArgument."""
        parts = text.removeprefix(_PREFIX).split(":")
        try:
            ledger_id, entry_id, partition, index = map(int, parts)
            found = cls(partition, ledger_id, entry_id, index)
            found.serialize()
        except (ValueError, struct.error):
            raise InvalidArgument(
                f"{text!r} is no scheduled id; one reads {_PREFIX}LEDGER:ENTRY:PARTITION:INDEX"
            ) from None
        return found
