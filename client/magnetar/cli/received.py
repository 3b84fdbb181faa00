"""How received messages are printed, one a line: their content, or a JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnetar.cli.printing import plain, readable

if TYPE_CHECKING:
    from magnetar.message import Message

MESSAGES_A_CALL = 1000

JsonLines = Annotated[
    bool, typer.Option("--json", help="A JSON object a line, with all that a message carries.")
]


def print_messages(messages: Iterable[Message], as_json: bool) -> None:
    """Returns when all of them are written."""
    lines = [
        json.dumps(_fields(message)).encode() if as_json else message.data for message in messages
    ]
    sys.stdout.buffer.write(b"".join([line + b"\n" for line in lines]))
    sys.stdout.buffer.flush()


def messages_wanted(count: int, printed: int) -> int:
    """How many to ask for; `count` 0 is no end. 0: no more."""
    return min(MESSAGES_A_CALL, count - printed) if count else MESSAGES_A_CALL


def _fields(message: Message) -> dict[str, Any]:
    """Named as in `magnetar admin messages get --json`."""
    return {
        "message_id": plain(message.message_id),
        **readable("data", message.data),
        "topic_name": message.topic_name,
        "properties": message.properties,
        "partition_key": message.partition_key,
        "ordering_key": message.ordering_key,
        "tag": message.tag,
        "producer_name": message.producer_name,
        "sequence_id": message.sequence_id,
        "publish_timestamp": message.publish_timestamp,
        "event_timestamp": message.event_timestamp,
        "redelivery_count": message.redelivery_count,
        "scheduled_id": plain(message.scheduled_id),
    }
