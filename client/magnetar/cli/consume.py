"""`magnetar consume`: one message a line on stdout, and nothing else there."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from magnetar.cli.options import DEFAULT_URL, TIMEOUT_S, ServiceUrl

MESSAGES_A_CALL = 1000


def consume(
    subscription: Annotated[
        str, typer.Option("-s", "--subscription", help="Its position is kept under this name.")
    ],
    topics: Annotated[
        list[str] | None,
        typer.Argument(metavar="TOPIC...", help="persistent://tenant/namespace/topic, or a name."),
    ] = None,
    pattern: Annotated[
        str, typer.Option(help="All topics of a namespace that match: tenant/namespace/orders-.*")
    ] = "",
    count: Annotated[
        int, typer.Option("-n", "--count", min=0, help="Stop after so many; 0 is never.")
    ] = 0,
    wait_ms: Annotated[
        int, typer.Option(min=0, help="Stop when none came for so long; 0 waits for ever.")
    ] = 0,
    shared: Annotated[bool, typer.Option(help="Share the subscription with others.")] = False,
    latest: Annotated[bool, typer.Option(help="A new subscription begins at the end.")] = False,
    filter: Annotated[
        str, typer.Option(help="Only these, as: price > 100 AND region IN ('eu', 'us').")
    ] = "",
    tags: Annotated[str, typer.Option(help="Only these, as: TagA || TagB; * is all.")] = "*",
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Print messages and acknowledge them once printed; a new subscription begins at the start."""
    from magnetar import ConsumerType, InitialPosition
    from magnetar.errors import OperationTimeout
    from magnetar.sync import Client

    with (
        Client(url, operation_timeout_seconds=TIMEOUT_S) as client,
        client.subscribe(
            topics or None,
            subscription,
            pattern=pattern or None,
            consumer_type=ConsumerType.Shared if shared else ConsumerType.Exclusive,
            initial_position=InitialPosition.Latest if latest else InitialPosition.Earliest,
            filter=filter,
            tags=tags,
        ) as consumer,
    ):
        printed = 0
        while count == 0 or printed < count:
            most = min(MESSAGES_A_CALL, count - printed) if count else MESSAGES_A_CALL
            try:
                messages = consumer.receive_many(most, timeout_millis=wait_ms or None)
            except OperationTimeout:
                if wait_ms:
                    return
                raise
            sys.stdout.buffer.write(b"".join([message.data + b"\n" for message in messages]))
            sys.stdout.buffer.flush()
            consumer.acknowledge_many(messages)
            printed += len(messages)
