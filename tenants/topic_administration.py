"""The port through which administration reaches topics, wherever they are served.

Brokers implement it (`broker.administration`); the gRPC service, and any other way in, calls it.
A topic is named as people name it. On a partitioned topic a call does all its partitions, and
numbers are sums over them. A topic that does not exist raises TopicNotFound and is not made.

Any call may raise ConnectionFailed or OperationTimeout: no owner was found in time, or whether
it did the work is unknown. `magnetar.admin` has the values, which clients see as well, and
clients of the gRPC service, which fit this port too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from magnetar.admin.schedule_values import ScheduleOutcome, SchedulePage
from magnetar.admin.topic_values import (
    PeekedMessages,
    SpaceReport,
    StoredMessage,
    SubscriptionStats,
    TopicInfo,
    TopicPage,
    TopicStats,
    Where,
)
from magnetar.message_id import MessageId
from magnetar.scheduled_id import ScheduledId


class TopicOperations(Protocol):
    """Topics as a whole."""

    async def create(
        self, topic: str, partitions: int = 0, properties: Mapping[str, str] | None = None
    ) -> TopicInfo:
        """Raises ResourceExists, and ResourceNotFound without its namespace."""

    async def grow(self, topic: str, partitions: int) -> TopicInfo:
        """Raises InvalidArgument for fewer partitions than there are, and without any."""

    async def list(
        self, namespace: str, pattern: str = "", *, page_size: int = 0, page: str = ""
    ) -> TopicPage:
        """By name, those too that some broker has in memory only; `pattern` is a glob over the
        last part of it. Raises ResourceNotFound."""

    async def get(self, topic: str) -> TopicInfo:
        """As the metadata has it; loads nothing."""

    async def stats(self, topic: str) -> TopicStats:
        """As its owner sees it now."""

    async def terminate(self, topic: str) -> tuple[MessageId, ...]:
        """Take no more messages, for ever; the last message of each partition that has one."""

    async def truncate(self, topic: str) -> int:
        """Delete all messages there are now; how many."""

    async def delete(self, topic: str, force: bool = False) -> None:
        """With its messages and policies. Raises ResourceInUse while it has subscriptions or
        connected producers or readers, unless `force`."""

    async def why_space(self, topic: str) -> SpaceReport:
        """What keeps its ledgers from being deleted."""


class SubscriptionOperations(Protocol):
    """Subscriptions of a topic; one that is not there raises SubscriptionNotFound. `member` is one
    of a broadcast group; without it a call does all its members."""

    async def create(self, topic: str, subscription: str, start: Where) -> None:
        """Raises ResourceExists, InvalidArgument for a message of another topic."""

    async def list(self, topic: str) -> tuple[str, ...]:
        """Names, sorted."""

    async def stats(
        self, topic: str, subscription: str, *, member: str = ""
    ) -> SubscriptionStats:
        """As the topic's owner sees it now."""

    async def delete(
        self, topic: str, subscription: str, force: bool = False, *, member: str = ""
    ) -> None:
        """Raises ResourceInUse while consumers are connected; `force` sends them away."""

    async def seek(
        self, topic: str, subscription: str, where: Where, *, member: str = ""
    ) -> None:
        """Go on from there; connected consumers stay."""

    async def skip(
        self, topic: str, subscription: str, messages: int, *, member: str = ""
    ) -> int:
        """Acknowledge the next so many of each partition without consuming them; how many."""

    async def clear_backlog(self, topic: str, subscription: str, *, member: str = "") -> int:
        """Acknowledge everything there is now without consuming it; how many."""

    async def expire(
        self, topic: str, subscription: str, older_than_ms: int, *, member: str = ""
    ) -> int:
        """Acknowledge without consuming what was stored longer ago; how many."""

    async def peek(
        self, topic: str, subscription: str, max_messages: int = 1, *, member: str = ""
    ) -> PeekedMessages:
        """The next messages not acknowledged; nothing is consumed."""


class MessageOperations(Protocol):
    """Messages by id."""

    async def get(self, topic: str, message_id: MessageId) -> StoredMessage:
        """Raises MessageNotFound, InvalidArgument for the id of another topic's message."""

    async def last_ids(self, topic: str) -> tuple[MessageId, ...]:
        """The newest message of each partition that has one."""


class ScheduleOperations(Protocol):
    """Messages to be delivered later."""

    async def list(
        self, topic: str, *, from_ms: int = 0, until_ms: int = 0, page_size: int = 0,
        page: str = "",
    ) -> SchedulePage:
        """By time, those due from `from_ms` on and before `until_ms`, 0: no end."""

    async def count(self, topic: str) -> int:
        """How many wait."""

    async def cancel(self, topic: str, scheduled_id: ScheduledId) -> ScheduleOutcome:
        """Do not deliver it."""

    async def move(
        self, topic: str, scheduled_id: ScheduledId, deliver_at_ms: int
    ) -> ScheduleOutcome:
        """Deliver it at that time instead."""


class TopicAdministration(Protocol):
    """What can be done with topics, by noun."""

    @property
    def topics(self) -> TopicOperations: ...

    @property
    def subscriptions(self) -> SubscriptionOperations: ...

    @property
    def messages(self) -> MessageOperations: ...

    @property
    def schedule(self) -> ScheduleOperations: ...
