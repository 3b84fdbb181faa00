"""`magnetar produce`: lines in, durable messages out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnetar.cli.options import DEFAULT_URL, TIMEOUT_S, ServiceUrl, Topic, pairs
from magnetar.cli.printing import counted
from magnetar.cli.times import POINT, WHEN, is_duration, milliseconds, time_ms
from magnetar.errors import InvalidArgument

if TYPE_CHECKING:
    from magnetar.sync import Producer

LINES_A_CALL = 512


class AccessMode(StrEnum):
    """ProducerAccessMode, as it is typed."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"
    WAIT_FOR_EXCLUSIVE = "wait-for-exclusive"
    EXCLUSIVE_WITH_FENCING = "exclusive-with-fencing"


class Compression(StrEnum):
    """CompressionType, as it is typed."""

    NONE = "none"
    LZ4 = "lz4"
    ZSTD = "zstd"


def _lines(file: str) -> Iterator[bytes]:
    """Each line without its newline; `-` is stdin, read as it comes."""
    try:
        source = sys.stdin.buffer if file == "-" else Path(file).open("rb")  # noqa: SIM115
    except OSError as error:
        raise InvalidArgument(f"cannot read {file}: {error.strerror}") from error
    with source:
        for line in source:
            yield line.removesuffix(b"\n")


def _contents(messages: list[str], files: list[str]) -> Iterator[bytes]:
    for message in messages:
        yield message.encode()
    for file in files:
        yield from _lines(file)


def _chunks(contents: Iterator[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for content in contents:
        chunk.append(content)
        if len(chunk) == LINES_A_CALL:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _delivery(text: str) -> dict[str, Any]:
    """As `send_many` takes it: so long after each message is sent, or at one time for all."""
    if not text:
        return {}
    if is_duration(text):
        return {"deliver_after": milliseconds(text) / 1000}
    return {"deliver_at": time_ms(text, WHEN)}


def produce(
    topic: Topic,
    message: Annotated[
        list[str] | None,
        typer.Option("-m", "--message", metavar="TEXT", help="One message; may be repeated."),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option("-f", "--file", metavar="FILE", help="A line a message; - is stdin."),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Producer name: what was stored under it is not stored again.")
    ] = "",
    tag: Annotated[str, typer.Option(help="What consumers with --tags choose by.")] = "",
    property: Annotated[
        list[str] | None,
        typer.Option("-p", "--property", metavar="KEY=VALUE", help="Of every message."),
    ] = None,
    key: Annotated[
        str, typer.Option(help="Of every message: decides its partition, and keeps it in order.")
    ] = "",
    ordering_key: Annotated[
        str, typer.Option(help="What key-shared consumers go by, where it is not --key.")
    ] = "",
    event_time: Annotated[
        str, typer.Option(metavar="TIME", help=f"When it happened: {POINT}.")
    ] = "",
    deliver: Annotated[
        str, typer.Option(metavar="TIME", help=f"Not before {WHEN}.")
    ] = "",
    ttl_ms: Annotated[
        int, typer.Option(min=0, help="Who has not consumed it by then never gets it; 0 is none.")
    ] = 0,
    access_mode: Annotated[
        AccessMode, typer.Option(help="Who else may publish; what is not shared may wait or fail.")
    ] = AccessMode.SHARED,
    compression: Annotated[
        Compression, typer.Option(help="Of batches, from here to the consumer.")
    ] = Compression.NONE,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Publish messages. The last line on stderr says how many are durable.

    Exit status 0 means that every message is.
    """
    if not message and not file:
        raise InvalidArgument("nothing to publish: give -m TEXT or -f FILE (- for stdin)")
    from magnetar.enums import CompressionType, ProducerAccessMode
    from magnetar.sync import Client

    options = {
        "properties": pairs(property), "tag": tag or None,
        "time_to_live": ttl_ms / 1000 or None, "partition_key": key or None,
        "ordering_key": ordering_key or None,
        "event_timestamp": time_ms(event_time) if event_time else None, **_delivery(deliver),
    }
    # A named run numbers its lines from 0, so that a repeated one is recognised line by line.
    first = -1 if name else None
    with (
        Client(url, operation_timeout_seconds=TIMEOUT_S) as client,
        client.create_producer(
            topic, producer_name=name, initial_sequence_id=first,
            access_mode=ProducerAccessMode(access_mode.replace("-", "_")),
            compression_type=CompressionType[compression.name],
        ) as producer,
    ):
        _send(producer, _contents(message or [], file or []), options)


def _send(producer: Producer, contents: Iterator[bytes], options: dict[str, Any]) -> None:
    try:
        for chunk in _chunks(contents):
            producer.send_many(chunk, **options)
        producer.flush()
    finally:
        count = producer.acknowledged_messages
        are = "is" if count == 1 else "are"
        typer.echo(f"{counted(count, 'message')} {are} durable", err=True)
