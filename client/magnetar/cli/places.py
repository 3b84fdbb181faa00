"""How places in a topic are typed."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from magnetar.cli.times import is_duration, milliseconds, time_ms
from magnetar.errors import InvalidArgument

if TYPE_CHECKING:
    from magnetar.admin.topic_values import Where
    from magnetar.message_id import MessageId

WHERE = (
    "earliest, latest, a message id (LEDGER:ENTRY:PARTITION:INDEX), a time"
    " (2026-01-31T09:30, or milliseconds since 1970), or so long ago (90s, 30m, 2h, 7d)"
)
_ID_PARTS = (2, 4)


def message_id(text: str) -> MessageId:
    """As a message id prints, LEDGER:ENTRY:PARTITION:INDEX; raises InvalidArgument."""
    from magnetar.message_id import MessageId

    parts = text.split(":")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in _ID_PARTS:
        raise InvalidArgument(
            f"write a message id as LEDGER:ENTRY:PARTITION:INDEX (or LEDGER:ENTRY of a topic"
            f" without partitions), not {text!r}"
        )
    partition, index = numbers[2:] or (-1, -1)
    return MessageId(partition, numbers[0], numbers[1], index)


def where(text: str) -> Where:
    """A place in a topic, see WHERE; raises InvalidArgument."""
    from magnetar.enums import InitialPosition

    if text in ("earliest", "latest"):
        return InitialPosition(text)
    if is_duration(text):
        return time.time_ns() // 1_000_000 - milliseconds(text)
    if re.fullmatch(r"-?\d+(:-?\d+)+", text):
        return message_id(text)
    try:
        return time_ms(text)
    except InvalidArgument:
        raise InvalidArgument(f"write {WHERE}; not {text!r}") from None
