"""`magnetar consume`: one message a line on stdout, and nothing else there."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from magnetar.cli.options import DEFAULT_URL, TIMEOUT_S, ServiceUrl

if TYPE_CHECKING:
    from magnetar import ConsumerType, DeadLetterPolicy
    from magnetar.sync import Consumer

MESSAGES_A_CALL = 1000


class SubscriptionType(StrEnum):
    """As the command line has it."""

    EXCLUSIVE = "exclusive"
    FAILOVER = "failover"
    SHARED = "shared"
    KEY_SHARED = "key-shared"
    BROADCAST = "broadcast"


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
    type: Annotated[
        SubscriptionType | None,
        typer.Option(help="Who else may consume from the subscription; exclusive: nobody."),
    ] = None,
    shared: Annotated[bool, typer.Option(help="As --type shared.")] = False,
    name: Annotated[
        str, typer.Option(help="This consumer's; a broadcast one keeps its position under it.")
    ] = "",
    max_deliveries: Annotated[
        int, typer.Option(min=0, help="Dead-letter what failed so often; 0 is never.")
    ] = 0,
    dead_letter_topic: Annotated[
        str, typer.Option(help="Where to; TOPIC-SUBSCRIPTION-dead when not given.")
    ] = "",
    latest: Annotated[bool, typer.Option(help="A new subscription begins at the end.")] = False,
    filter: Annotated[
        str, typer.Option(help="Only these, as: price > 100 AND region IN ('eu', 'us').")
    ] = "",
    tags: Annotated[str, typer.Option(help="Only these, as: TagA || TagB; * is all.")] = "*",
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
            dead_letter_policy=_dead_letter_policy(max_deliveries, dead_letter_topic),
            initial_position=InitialPosition.Latest if latest else InitialPosition.Earliest,
            filter=filter,
            tags=tags,
        ) as consumer,
    ):
        _print(consumer, count, wait_ms)


def _print(consumer: Consumer, count: int, wait_ms: int) -> None:
    from magnetar.errors import EndOfTopic, OperationTimeout

    printed = 0
    while count == 0 or printed < count:
        most = min(MESSAGES_A_CALL, count - printed) if count else MESSAGES_A_CALL
        try:
            messages = consumer.receive_many(most, timeout_millis=wait_ms or None)
        except EndOfTopic:
            return
        except OperationTimeout:
            if wait_ms:
                return
            raise
        sys.stdout.buffer.write(b"".join([message.data + b"\n" for message in messages]))
        sys.stdout.buffer.flush()
        consumer.acknowledge_many(messages)
        printed += len(messages)


def _consumer_type(given: SubscriptionType | None, shared: bool) -> ConsumerType:
    from magnetar import ConsumerType

    if given is None:
        return ConsumerType.Shared if shared else ConsumerType.Exclusive
    if shared and given is not SubscriptionType.SHARED:
        raise typer.BadParameter(f"--shared is not --type {given.value}; give one of them")
    return ConsumerType(given.value.replace("-", "_"))


def _dead_letter_policy(max_deliveries: int, topic: str) -> DeadLetterPolicy | None:
    from magnetar import DeadLetterPolicy

    if topic and not max_deliveries:
        raise typer.BadParameter("--dead-letter-topic needs --max-deliveries")
    return DeadLetterPolicy(max_deliveries, topic or None) if max_deliveries else None
