"""Places in a topic, as people name them, in the broker's own terms."""

from __future__ import annotations

from typing import NamedTuple

from broker.conversation import InitialPosition, MessagePosition
from magnetar import enums
from magnetar.admin.topic_values import Where
from magnetar.errors import InvalidArgument
from magnetar.message_id import MessageId
from magnetar.topic import TopicName


class Place(NamedTuple):
    """One of: a position, a time above 0, an end."""

    position: MessagePosition | None
    initial: InitialPosition
    time_ms: int


def place_of(where: Where, topic: TopicName) -> Place:
    """Raises InvalidArgument for the id of another partition's message."""
    if isinstance(where, MessageId):
        return Place(position_of(where, topic), InitialPosition.LATEST, 0)
    if isinstance(where, enums.InitialPosition):
        earliest = where is enums.InitialPosition.Earliest
        initial = InitialPosition.EARLIEST if earliest else InitialPosition.LATEST
        return Place(None, initial, 0)
    return Place(None, InitialPosition.LATEST, where)


def position_of(message_id: MessageId, topic: TopicName) -> MessagePosition:
    """Raises InvalidArgument for the id of another partition's message."""
    if message_id.partition != topic.partition:
        raise InvalidArgument(f"message {message_id} is not of {topic.full}")
    return MessagePosition(
        message_id.ledger_id, message_id.entry_id, max(message_id.batch_index, -1)
    )


def id_of(position: MessagePosition, topic: TopicName) -> MessageId:
    return MessageId(
        topic.partition, position.ledger_id, position.entry_id, position.batch_index
    )
