"""`magnetar admin messages`, and how a message looks."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from magnetar.cli.admin.arguments import administration
from magnetar.cli.options import DEFAULT_URL, TIMEOUT_S, Json, ServiceUrl, Topic
from magnetar.cli.places import message_id
from magnetar.cli.printing import as_json, names, record, size, when
from magnetar.errors import MessageNotFound

if TYPE_CHECKING:
    from magnetar.admin.topic_values import StoredMessage
    from magnetar.sync import Client

app = typer.Typer(
    help="Single messages, looked at without consuming them.", no_args_is_help=True,
    rich_markup_mode=None,
)


def show(message: StoredMessage) -> None:
    """Print what the message carries, then its content, indented."""
    record({
        "id": message.message_id, "scheduled id": message.scheduled_id or "",
        "topic": message.topic_name,
        "stored": when(message.append_timestamp), "published": when(message.publish_timestamp),
        "event": when(message.event_timestamp), "producer": message.producer_name,
        "sequence id": message.sequence_id, "key": message.partition_key or "",
        "ordering key": message.ordering_key or "", "tag": message.tag or "",
        "delivered before": message.redelivery_count or "", "properties": message.properties,
        "size": size(message.data_bytes),
    })
    try:
        text = message.data.decode()
    except UnicodeDecodeError:
        text = message.data.hex(" ", 4)
    if message.data_bytes > len(message.data):
        text += "..."
    for line in text.splitlines():
        typer.echo(f"    {line}")


@app.command()
def get(
    topic: Topic,
    id: Annotated[
        str, typer.Argument(metavar="ID", help="LEDGER:ENTRY:PARTITION:INDEX, as ids print.")
    ],
    raw: Annotated[bool, typer.Option(help="Print the content only, as it is.")] = False,
    json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Show a message by its id.

    Shows the beginning of a long content; --raw and --json print all of it.

    \b
    magnetar admin messages get orders 17:0:-1:0
    magnetar admin messages get orders 17:0:-1:0 --raw > content
    """
    from magnetar.sync import Client

    wanted = message_id(id)
    with Client(url, operation_timeout_seconds=TIMEOUT_S) as client:
        found = client.admin.messages.get(topic, wanted)
        if raw or json:
            found = _whole(client, found)
    if raw:
        sys.stdout.buffer.write(found.data)
    elif json:
        as_json(found)
    else:
        show(found)


def _whole(client: Client, found: StoredMessage) -> StoredMessage:
    """With all of its content: what administration cuts is read as any message is."""
    if len(found.data) == found.data_bytes:
        return found
    with client.create_reader(
        found.topic_name, found.message_id, start_message_id_inclusive=True,
        receiver_queue_size=1,
    ) as reader:
        message = reader.read_next(int(TIMEOUT_S * 1000))
    if message.message_id != found.message_id:
        raise MessageNotFound(
            f"{found.message_id} of {found.topic_name} was deleted while it was read")
    return replace(found, data=message.data)


@app.command("last-id")
def last_id(topic: Topic, json: Json = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """Show the id of a topic's newest message. A partitioned topic has one a partition."""
    with administration(url) as admin:
        found = admin.messages.last_ids(topic)
    names([str(one) for one in found], json, "no messages")
