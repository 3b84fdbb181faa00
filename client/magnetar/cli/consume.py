"""`magnetar consume`: one message a line on stdout, and nothing else there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from magnetar.cli.options import DEFAULT_URL, TIMEOUT_S, TOPIC_HELP, Count, Filter, ServiceUrl, Tags
from magnetar.cli.received import JsonLines, messages_wanted, print_messages
from magnetar.cli.subscribing import (
    DeadLetterTopic,
    HoldFailedKeys,
    Latest,
    MaxDeliveries,
    Name,
    Subscription,
    SubscriptionType,
    dead_letter_policy,
)

if TYPE_CHECKING:
    from magnetar import ConsumerType
    from magnetar.sync import Consumer


def consume(
    subscription: Subscription,
    topics: Annotated[
        list[str] | None,
        typer.Argument(metavar="TOPIC...", help=TOPIC_HELP),
    ] = None,
    pattern: Annotated[
        str, typer.Option(help="All topics of a namespace that match: tenant/namespace/orders-.*")
    ] = "",
    count: Count = 0,
    wait_ms: Annotated[
        int, typer.Option(min=0, help="Stop when none came for so long; 0 waits for ever.")
    ] = 0,
    type: Annotated[
        SubscriptionType | None,
        typer.Option(help="Who else may consume from the subscription; exclusive: nobody."),
    ] = None,
    shared: Annotated[bool, typer.Option(help="As --type shared.")] = False,
    name: Name = "",
    hold_failed_keys: HoldFailedKeys = None,
    max_deliveries: MaxDeliveries = 0,
    dead_letter_topic: DeadLetterTopic = "",
    latest: Latest = False,
    filter: Filter = "",
    tags: Tags = "*",
    json: JsonLines = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Print messages, and acknowledge them once printed.

    A new subscription begins at the start.
    """
    from magnetar import InitialPosition
    from magnetar.sync import Client

    with (
        Client(url, operation_timeout_seconds=TIMEOUT_S) as client,
        client.subscribe(
            topics or None,
            subscription,
            pattern=pattern or None,
            consumer_type=_consumer_type(type, shared),
            consumer_name=name,
            hold_failed_keys=hold_failed_keys,
            dead_letter_policy=dead_letter_policy(max_deliveries, dead_letter_topic),
            initial_position=InitialPosition.Latest if latest else InitialPosition.Earliest,
            filter=filter,
            tags=tags,
        ) as consumer,
    ):
        _print(consumer, count, wait_ms, json)


def _print(consumer: Consumer, count: int, wait_ms: int, json: bool) -> None:
    from magnetar.errors import EndOfTopic, OperationTimeout

    printed = 0
    while most := messages_wanted(count, printed):
        try:
            messages = consumer.receive_many(most, timeout_millis=wait_ms or None)
        except EndOfTopic:
            return
        except OperationTimeout:
            if wait_ms:
                return
            raise
        print_messages(messages, json)
        consumer.acknowledge_many(messages)
        printed += len(messages)


def _consumer_type(given: SubscriptionType | None, shared: bool) -> ConsumerType:
    if given is None:
        given = SubscriptionType.SHARED if shared else SubscriptionType.EXCLUSIVE
    if shared and given is not SubscriptionType.SHARED:
        raise typer.BadParameter(f"--shared is not --type {given.value}; give one of them")
    return given.consumer_type()
