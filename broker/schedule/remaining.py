"""What stands in the way of a topic's end when messages wait in its schedule."""

from __future__ import annotations

from magnetar.errors import ResourceInUse


def in_the_way(topic: str, messages: int, otherwise: str) -> ResourceInUse:
    """The refusal, with what to do."""
    return ResourceInUse(
        f"{topic} has {messages} messages that wait for their time; `magnetar admin schedule list"
        f" {topic}` shows them: cancel them, or {otherwise}"
    )
