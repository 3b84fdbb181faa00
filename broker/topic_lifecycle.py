"""The end of topics and of their messages: terminated, truncated, deleted.

Called at the topic's owner; elsewhere every method raises NotOwner with who that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from broker.conversation import MessagePosition
from broker.topic import Topic
from broker.topic_catalog import TopicCatalog
from broker.topic_deletion import TopicDeletion
from broker.topic_registry import TopicRegistry
from magnetar.errors import InvalidArgument, ResourceInUse
from magnetar.topic import TopicName

SHOWN_NAMES = 3
"""Of what is in the way of a deletion."""


class TopicLifecycle:
    """Every method raises TopicNotFound for a topic that does not exist, and makes none;
    InvalidArgument for a partitioned topic, which is to be ended partition by partition."""

    def __init__(
        self, catalog: TopicCatalog, registry: TopicRegistry, deletion: TopicDeletion,
        open_topic: Callable[[str], Awaitable[Topic]],
    ) -> None:
        self._catalog = catalog
        self._registry = registry
        self._deletion = deletion
        self._open_topic = open_topic

    async def terminate(self, topic: str) -> MessagePosition | None:
        """Take no more messages, for ever; answers with the last one, None if there is none.
        Consumers read on to it. Doing it again answers the same. Raises ResourceInUse while
        messages wait in the topic's schedule."""
        return await (await self._existing(topic)).terminate()

    async def truncate(self, topic: str) -> int:
        """Delete all messages there are now, consumed or not, with their ledgers; answers how
        many messages the topic held. What is published meanwhile may stay."""
        return await (await self._existing(topic)).truncate()

    async def delete(self, topic: str, *, force: bool = False) -> None:
        """Delete the topic with its messages, subscriptions and policies.

        Raises ResourceInUse while producers or consumers are connected, subscriptions exist or
        messages wait for their time, unless `force`, which ends them with TopicNotFound. Once it
        has begun it is finished by whoever comes across the topic next, should this broker fail.
        """
        found = await self._existing(topic)
        name = TopicName.parse(topic)
        # Asked after it was found: a partition made later is one of a topic made again.
        if name.partition >= 0 and not await self._catalog.ends(name.base):
            raise ResourceInUse(f"{name.full} is a partition, and goes with {name.base.full}")
        if not force:
            _refuse_if_used(found)
        task = self._registry.end(found, self._delete(found))
        if task is None:
            found.refuse_if_closing()
        else:
            await asyncio.shield(task)

    async def _delete(self, topic: Topic) -> None:
        mine = topic.log.log.owner
        await topic.mark_deleted()
        await self._deletion.complete(topic.name, mine)

    async def _existing(self, topic: str) -> Topic:
        name = TopicName.parse(topic)
        if not name.persistent:
            raise InvalidArgument(f"{name.full} is not persistent: it ends with its last user")
        if await self._catalog.partitions_of(name):
            raise InvalidArgument(f"{name.full} is partitioned; end its partitions one by one")
        return await self._open_topic(topic)


def _refuse_if_used(topic: Topic) -> None:
    if topic.publishing.producers:
        raise ResourceInUse(
            f"{topic.name} has {len(topic.publishing.producers)} connected producers, such as"
            f" {next(iter(topic.publishing.producers))!r}; close them, or delete by force"
        )
    names = sorted(one.name for one in topic.subscriptions() if one.name)
    if names:
        shown = ", ".join(map(repr, names[:SHOWN_NAMES]))
        raise ResourceInUse(
            f"{topic.name} has {len(names)} subscriptions, such as {shown}; delete them, or"
            " delete the topic by force"
        )
    if (scheduled := topic.scheduled_in_the_way("delete by force")) is not None:
        raise scheduled
    if topic.in_use:
        raise ResourceInUse(f"{topic.name} has connected readers; close them, or delete by force")

