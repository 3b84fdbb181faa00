"""`magnetar read`: a topic's messages from any place on, without a subscription."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from magnetar.cli.options import DEFAULT_URL, TIMEOUT_S, Count, Filter, ServiceUrl, Tags, Topic
from magnetar.cli.places import WHERE, where
from magnetar.cli.received import JsonLines, messages_wanted, print_messages
from magnetar.errors import EndOfTopic, InvalidArgument, OperationTimeout

if TYPE_CHECKING:
    from magnetar.admin.topic_values import Where
    from magnetar.message import Message
    from magnetar.message_id import MessageId
    from magnetar.sync import Client, Reader

PATIENCE_MS = int(TIMEOUT_S * 1000)
"""For messages that should be there."""

Ends = dict[int, "MessageId"]
"""By partition: the message to stop at."""


def read(
    topic: Topic,
    at: Annotated[
        str, typer.Option(metavar="WHERE", help=f"Where to begin: {WHERE}.")
    ] = "earliest",
    count: Count = 0,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what comes after that.")
    ] = False,
    wait_ms: Annotated[
        int, typer.Option(min=0, help="Stop when none came for so long; 0 is never.")
    ] = 0,
    filter: Filter = "",
    tags: Tags = "*",
    json: JsonLines = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Print messages up to the last one there is now. Nothing is consumed.

    All partitions of a topic are read; an id is of one partition, which is then the topic.

    \b
    magnetar read orders
    magnetar read orders --at 30m --follow --json
    magnetar read orders-partition-3 --at 17:0:3:0 -n 10
    """
    from magnetar.sync import Client

    place = where(at)
    if (filter or tags.strip() != "*") and not follow and not wait_ms:
        raise InvalidArgument(
            "whether more will match --filter or --tags cannot be known:"
            " say how long to wait for it with --wait-ms, or --follow")
    with Client(url, operation_timeout_seconds=TIMEOUT_S) as client:
        ends = _ends(client, topic, place)  # first: opening a reader would make the topic
        with _reader(client, topic, place, filter, tags) as reader:
            _print(reader, None if follow else ends, count, wait_ms, json)


def _reader(client: Client, topic: str, place: Where, filter: str, tags: str) -> Reader:
    from magnetar import InitialPosition

    if not isinstance(place, int):
        return client.create_reader(
            topic, place, start_message_id_inclusive=True, filter=filter, tags=tags)
    reader = client.create_reader(topic, InitialPosition.Latest, filter=filter, tags=tags)
    reader.seek(place)
    return reader


def _ends(client: Client, topic: str, place: Where) -> Ends:
    """The last message of each partition that has any from `place` on; raises TopicNotFound."""
    from magnetar import InitialPosition, MessageId

    messages = client.admin.messages

    def lies_before(last: MessageId) -> bool:
        if isinstance(place, int):
            return messages.get(topic, last).append_timestamp < place
        if isinstance(place, MessageId):
            return _position(last) < _position(place)
        return place is InitialPosition.Latest

    return {
        last.partition: last for last in messages.last_ids(topic) if not lies_before(last)}


def _position(message_id: MessageId) -> tuple[int, int, int]:
    return message_id.ledger_id, message_id.entry_id, message_id.batch_index


def _print(reader: Reader, ends: Ends | None, count: int, wait_ms: int, json: bool) -> None:
    """Up to the ends; without any for ever."""
    patience_ms = wait_ms or (None if ends is None else PATIENCE_MS)
    printed = 0
    while (ends is None or ends) and (most := messages_wanted(count, printed)):
        try:
            messages = reader.read_many(most, timeout_millis=patience_ms)
        except EndOfTopic:
            return
        except OperationTimeout as error:
            if wait_ms:
                return
            left = ", ".join(map(str, (ends or {}).values()))
            raise OperationTimeout(
                f"{error}, though the topic had some up to {left}: try again, unless they were"
                " deleted meanwhile") from error
        if ends is not None:
            messages = up_to(ends, messages)
        print_messages(messages, json)
        printed += len(messages)


def up_to(ends: Ends, messages: Iterable[Message]) -> list[Message]:
    """Those that are not behind the ends. Partitions that are through leave `ends`."""
    kept = []
    for message in messages:
        found = message.message_id
        end = ends.get(found.partition)
        if end is not None and found <= end:
            kept.append(message)
        if end is not None and found >= end:
            del ends[found.partition]
    return kept
