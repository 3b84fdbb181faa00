"""When a message counts as undeliverable, and where it goes then."""

from __future__ import annotations

from dataclasses import dataclass

from magnetar.errors import InvalidArgument
from magnetar.topic import TopicName


@dataclass(frozen=True, slots=True)
class DeadLetterPolicy:
    """After `max_deliveries` failed deliveries the broker moves the message to
    `dead_letter_topic`; by itself `TOPIC-SUBSCRIPTION-dead`. Raises InvalidArgument."""

    max_deliveries: int
    dead_letter_topic: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_deliveries < 1 << 31:
            raise InvalidArgument("max_deliveries is 1 or more")
        if self.dead_letter_topic is not None:
            TopicName.parse(self.dead_letter_topic)
