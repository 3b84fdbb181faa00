"""Reading messages for people: by id, and the next ones of a subscription, consuming nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from broker.administration.limits import (
    PAYLOAD_BYTES,
    PEEK_BYTES,
    PEEK_ENTRIES,
    PEEK_READ_BYTES,
)
from broker.conversation import MessagePosition
from broker.cursor import full_mask
from broker.stored_entry import StoredEntry
from broker.subscription import Subscription
from broker.topic import Topic
from magnetar.admin.topic_values import PeekedMessages, StoredMessage
from magnetar.entry import EntryView, indexes_of, parse_prefix
from magnetar.errors import InvalidArgument, MessageNotFound
from magnetar.message_id import MessageId
from magnetar.scheduled_id import ScheduledId
from magnetar.topic import TopicName


def message_of(
    entry: StoredEntry, view: EntryView, index: int, topic: TopicName, redelivery_count: int = 0
) -> StoredMessage:
    """One message of an entry; raises InvalidFrame when it does not read."""
    payload, origin = view.payload(index), view.origin(index)
    place = origin.scheduled
    return StoredMessage(
        message_id=MessageId(topic.partition, entry.ledger_id, entry.entry_id, index),
        data=payload[:PAYLOAD_BYTES], data_bytes=len(payload), topic_name=topic.full,
        properties=view.properties(index), partition_key=view.partition_key(index),
        ordering_key=view.ordering_key(index), tag=view.tag(index),
        producer_name=origin.producer_name, sequence_id=origin.sequence_id,
        publish_timestamp=origin.publish_time_ms, event_timestamp=view.event_time_ms(index),
        append_timestamp=entry.append_time_ms, redelivery_count=redelivery_count,
        scheduled_id=None if place is None else ScheduledId(topic.partition, *place),
    )


def _view_of(entry: StoredEntry) -> EntryView:
    _, batch = parse_prefix(entry.body)
    return EntryView(batch)


def refuse_foreign(topic: Topic, position: MessagePosition) -> None:
    """Raises InvalidArgument for a ledger that is certainly no ledger of this topic's log."""
    ledger_id, log = position.ledger_id, topic.log
    deleted = log.was_trimmed(ledger_id) and log.log.record.trimmed_ledgers > 0
    if ledger_id < 0 or not (log.has_ledger(ledger_id) or deleted):
        raise InvalidArgument(f"{ledger_id}:{position.entry_id} is no message of {topic.name}")


async def message_at(topic: Topic, position: MessagePosition) -> StoredMessage:
    """By position; the first of its entry without a batch index. Raises MessageNotFound when it
    is deleted or never was, InvalidArgument for a ledger that is not this topic's."""
    log, name = topic.log, TopicName.parse(topic.name)
    shown = f"{position.ledger_id}:{position.entry_id}"
    refuse_foreign(topic, position)
    if log.was_trimmed(position.ledger_id):
        raise MessageNotFound(f"{name.full} has no message {shown} any more, or never had")
    try:
        entry = await log.entry_at(position.ledger_id, position.entry_id)
        index = max(position.batch_index, 0)
        if index >= entry.count:
            raise InvalidArgument(f"entry {shown} has {entry.count} messages")
    except InvalidArgument as error:
        raise MessageNotFound(f"{name.full} has no message {position}: {error}") from None
    return message_of(entry, _view_of(entry), index, name)


async def peek(subscription: Subscription, topic: Topic, most: int) -> PeekedMessages:
    """The next messages that are neither acknowledged nor passed over by the filter; says where
    it stopped when it did before their end."""
    found: list[StoredMessage] = []
    read: Sequence[StoredEntry] = ()
    size_bytes = entries = 0
    after = await topic.log.before_ordinal(subscription.cursor.floor)
    while len(found) < most and entries < PEEK_ENTRIES:
        read = await topic.log.read(after, min(most, PEEK_ENTRIES - entries), PEEK_READ_BYTES)
        if not read:
            break
        for entry in read:
            entries += 1
            for message in _wanted_of(entry, subscription, topic):
                size_bytes += _size_of(message)
                if found and size_bytes > PEEK_BYTES:
                    return PeekedMessages(found, [found[-1].message_id])
                found.append(message)
                if len(found) == most:
                    return PeekedMessages(found)
        after = read[-1].position
    if not read or after >= topic.log.last_position:
        return PeekedMessages(found)
    return PeekedMessages(found, [_last_of(read[-1], topic)])


def _last_of(entry: StoredEntry, topic: Topic) -> MessageId:
    partition = TopicName.parse(topic.name).partition
    return MessageId(partition, entry.ledger_id, entry.entry_id, entry.count - 1)


def _size_of(message: StoredMessage) -> int:
    """Its part of an answer, about: what a producer can make long."""
    properties = sum(len(name) + len(text) for name, text in message.properties.items())
    keys = len(message.partition_key or "") + len(message.ordering_key or "")
    return len(message.data) + properties + keys + len(message.tag or "")


def _wanted_of(
    entry: StoredEntry, subscription: Subscription, topic: Topic
) -> Iterator[StoredMessage]:
    mask = full_mask(entry.count)
    mask &= ~subscription.cursor.mask(entry.first_ordinal, entry.count)
    if not mask:
        return
    view, name = _view_of(entry), TopicName.parse(topic.name)
    wanted = subscription.filter.compiled()
    for part, history in subscription.counts.split(entry.first_ordinal, mask):
        for index in indexes_of(part):
            if wanted is None or wanted.wants(view, index):
                yield message_of(entry, view, index, name, history.count)
