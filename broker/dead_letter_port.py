"""What a subscription asks of whoever takes the messages it gives up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from broker.stored_entry import StoredEntry
from magnetar.errors import MagnetarError


class DeadLetters(Protocol):
    """Puts messages into the dead-letter topic of their subscription, and acknowledges them."""

    def give(
        self, subscription: str, entry: StoredEntry, mask: int, attempts: int, reason: str,
        done: Callable[[MagnetarError | None], None],
    ) -> None:
        """Take the messages `mask` of an entry, after `attempts` deliveries of each.

        They stay unacknowledged until the dead-letter topic has them durably; then they are
        acknowledged as durably, and `done` is called, once. What cannot be sent is tried for as
        long as the topic is served here: nothing is dropped, and `done` waits.
        """
