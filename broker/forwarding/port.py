"""What the broker's core asks of whoever publishes to other topics for it."""

from __future__ import annotations

from typing import Protocol

from magnetar.errors import NotSupported


class Outlet(Protocol):
    """A producer under a name of its own at one topic; nobody else sends under that name."""

    @property
    def last_sequence_id(self) -> int:
        """The highest one known to be durable under the name; -1: none."""

    @property
    def max_batch_bytes(self) -> int:
        """The largest batch the topic took when the outlet was opened."""

    async def publish(self, batch: bytes) -> None:
        """Returns once the batch, encoded under the outlet's name, is durable.

        A batch is stored wholly or not at all. ProducerFenced, ConnectionFailed, OperationTimeout
        and NotOwner leave open which: open the outlet again, and `last_sequence_id` tells. All
        other errors mean that it was refused.
        """

    def release(self) -> None:
        """Not needed now; kept open for a while in case it is again. The last call."""

    def discard(self) -> None:
        """As `release`, after an error: it is closed."""


class Forwarder(Protocol):
    """Publishes to any topic of the cluster. Bounded in outlets; waits where the bound is met."""

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0: it is not partitioned."""

    async def keep(self, topic: str, subscription: str) -> None:
        """See to it that the topic has such a subscription, from the topic's beginning on, so that
        nothing in it is freed before somebody acknowledges it there."""

    async def open(self, topic: str, producer_name: str, *, fresh: bool) -> Outlet:
        """An outlet. A fresh one has taken the name over: whoever had it before can send no more,
        and nothing of his is on its way. One that need not be fresh may be what the caller
        released before. Of a partitioned topic it is partition 0, whatever their number. Raises
        what opening a producer raises."""


class NoForwarder:
    """For a broker that is given none."""

    async def partitions(self, topic: str) -> int:
        """Raises NotSupported."""
        raise NotSupported(f"this broker cannot ask for {topic}: it was started without a way")

    async def keep(self, topic: str, subscription: str) -> None:
        """Raises NotSupported."""
        raise NotSupported(f"this broker cannot keep {topic}: it was started without a way")

    async def open(self, topic: str, producer_name: str, *, fresh: bool) -> Outlet:
        """Raises NotSupported."""
        raise NotSupported(f"this broker cannot publish to {topic}: it was started without a way")
