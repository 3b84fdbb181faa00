"""What `consume` and `pull` are told of the subscription."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from magnetar import ConsumerType, DeadLetterPolicy


class SubscriptionType(StrEnum):
    """ConsumerType, as it is typed."""

    EXCLUSIVE = "exclusive"
    FAILOVER = "failover"
    SHARED = "shared"
    KEY_SHARED = "key-shared"
    BROADCAST = "broadcast"

    def consumer_type(self) -> ConsumerType:
        """As the SDK has it."""
        from magnetar import ConsumerType

        return ConsumerType(self.value.replace("-", "_"))


Subscription = Annotated[
    str, typer.Option("-s", "--subscription", help="Its position is kept under this name.")
]
Latest = Annotated[bool, typer.Option(help="A new subscription begins at the end.")]
Name = Annotated[
    str, typer.Option(help="This consumer's; a broadcast one keeps its position under it.")
]
HoldFailedKeys = Annotated[
    bool | None,
    typer.Option(
        help="Whether later messages of a key wait for one that failed; by itself, if key-shared."),
]
MaxDeliveries = Annotated[
    int, typer.Option(min=0, help="Dead-letter what failed so often; 0 is never.")
]
DeadLetterTopic = Annotated[
    str, typer.Option(help="Where to; TOPIC-SUBSCRIPTION-dead when not given.")
]


def dead_letter_policy(max_deliveries: int, topic: str) -> DeadLetterPolicy | None:
    """Raises BadParameter."""
    from magnetar import DeadLetterPolicy

    if topic and not max_deliveries:
        raise typer.BadParameter("--dead-letter-topic needs --max-deliveries")
    return DeadLetterPolicy(max_deliveries, topic or None) if max_deliveries else None
