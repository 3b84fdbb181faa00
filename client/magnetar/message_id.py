"""Where a message is: partition, ledger, entry, index in its batch."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

from magnetar.entry.layout import MAX_MESSAGES_A_BATCH
from magnetar.errors import InvalidArgument

_FORMAT = struct.Struct(">Biqqi")
_VERSION = 1


@dataclass(frozen=True, order=True, slots=True)
class MessageId:
    """Totally ordered within a partition. -1 as partition: the topic has none.

    An `entry_id` of -1 with a ledger id of 0 or more is the id of a message that was recognised
    as already stored, at a place the broker no longer remembers.
    """

    partition: int
    ledger_id: int
    entry_id: int
    batch_index: int

    earliest: ClassVar[MessageId]
    """Before the first message of any topic."""
    latest: ClassVar[MessageId]
    """Behind the last message of any topic."""

    def serialize(self) -> bytes:
        """Bytes to keep; they stay readable by every later version."""
        return _FORMAT.pack(
            _VERSION, self.partition, self.ledger_id, self.entry_id, self.batch_index
        )

    @classmethod
    def deserialize(cls, data: bytes) -> MessageId:
        """From `serialize()`; raises InvalidArgument."""
        if len(data) != _FORMAT.size or data[0] != _VERSION:
            raise InvalidArgument("not a serialized message id")
        return cls(*_FORMAT.unpack(data)[1:])

    def __str__(self) -> str:
        return f"{self.ledger_id}:{self.entry_id}:{self.partition}:{self.batch_index}"


_MAX_I32 = 2**31 - 1
_MAX_I64 = 2**63 - 1
MessageId.earliest = MessageId(-1, -1, -1, -1)
MessageId.latest = MessageId(_MAX_I32, _MAX_I64, _MAX_I64, _MAX_I32)


def stored_id(what: object) -> MessageId:
    """The id of messages at a place of the log: one, or with a batch index of -1 a whole entry.
    Raises InvalidArgument for anything else, such as an end of the topic."""
    if not isinstance(what, MessageId):
        raise InvalidArgument(f"a Message or MessageId, not {what!r}")
    if not (
        0 <= what.ledger_id <= _MAX_I64 and 0 <= what.entry_id <= _MAX_I64
        and -1 <= what.batch_index < MAX_MESSAGES_A_BATCH
    ):
        raise InvalidArgument(f"{what} is the id of no stored message")
    return what
