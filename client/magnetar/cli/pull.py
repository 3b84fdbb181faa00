"""`magnetar pull`: takes what is there, call by call, and is gone again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from magnetar.cli.options import DEFAULT_URL, TIMEOUT_S, Filter, ServiceUrl, Tags, Topic
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
    from magnetar.sync.pull import PullConsumer


def pull(
    topic: Topic,
    subscription: Subscription,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="So many at most.")] = 100,
    wait_ms: Annotated[
        int, typer.Option(min=0, max=60_000, help="For the first message, when there is none.")
    ] = 0,
    type: Annotated[
        SubscriptionType, typer.Option(help="Who else may consume from the subscription.")
    ] = SubscriptionType.SHARED,
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
    """Print what is there, and acknowledge it once printed.

    A new subscription begins at the start.
    """
    from magnetar import InitialPosition
    from magnetar.sync import Client

    with (
        Client(url, operation_timeout_seconds=TIMEOUT_S) as client,
        client.create_puller(
            topic,
            subscription,
            consumer_type=type.consumer_type(),
            consumer_name=name,
            hold_failed_keys=hold_failed_keys,
            dead_letter_policy=dead_letter_policy(max_deliveries, dead_letter_topic),
            initial_position=InitialPosition.Latest if latest else InitialPosition.Earliest,
            filter=filter,
            tags=tags,
        ) as puller,
    ):
        if not _print(puller, count, wait_ms, json):
            typer.echo("no messages", err=True)


def _print(puller: PullConsumer, count: int, wait_ms: int, json: bool) -> int:
    """How many were printed. A call may bring fewer than there are, such as one partition's."""
    from magnetar.errors import EndOfTopic

    printed = 0
    while most := messages_wanted(count, printed):
        try:
            messages = puller.pull(most, wait_millis=0 if printed else wait_ms)
        except EndOfTopic:
            break
        if not messages:
            break
        print_messages(messages, json)
        puller.acknowledge(messages)
        printed += len(messages)
    return printed
