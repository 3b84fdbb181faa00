"""`magnetar request`: asks whoever serves a topic, and prints the answer."""

from __future__ import annotations

from typing import Annotated

import typer

from magnetar.cli.options import DEFAULT_URL, TIMEOUT_S, Properties, ServiceUrl, Topic, pairs
from magnetar.cli.received import JsonLines, print_messages


def request(
    topic: Topic,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The request's content.")] = "",
    timeout_ms: Annotated[
        int, typer.Option(min=1, help="For the reply; then the request itself expires.")
    ] = 10_000,
    property: Properties = None,
    key: Annotated[str, typer.Option(help="Decides the request's partition.")] = "",
    json: JsonLines = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Send a request, and print the reply. Exit status 1 when it failed, or none came in time."""
    from magnetar.sync import Client

    with Client(url, operation_timeout_seconds=TIMEOUT_S) as client:
        reply = client.request(
            topic, text.encode(), timeout_ms / 1000, properties=pairs(property),
            partition_key=key or None)
        print_messages([reply], json)
