"""A consumer of several topics, of a pattern's topics, or of a topic's partitions."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import chain, groupby
from typing import Final

from magnetar.acknowledgements import Acknowledgement, Acknowledgements
from magnetar.batch_receive_policy import BatchReceivePolicy
from magnetar.connection import Connections
from magnetar.consumer import TopicConsumer
from magnetar.consumer_options import ConsumerOptions
from magnetar.consuming import Consumer
from magnetar.enums import InitialPosition
from magnetar.errors import InvalidArgument, OperationTimeout, TopicNotFound
from magnetar.intercepted_consumer import topic_consumer
from magnetar.message import Message
from magnetar.message_id import MessageId, stored_id
from magnetar.redelivery_backoff import Delay
from magnetar.topic import TopicName
from magnetar.topic_choice import TopicPattern
from magnetar.topic_members import TopicMembers
from magnetar.topic_watch import TopicWatches

KNOWN_LEDGERS: Final = 10_000
"""Ledgers of which the topic is remembered, for those who acknowledge by id."""
BATCH_MESSAGES: Final = 1_000
"""What `batch_receive` waits for when no policy says."""


class MultiTopicConsumer(Consumer):
    """See Consumer. Made by `Client.subscribe`.

    Order holds within a partition or a plain topic. What comes later, new partitions and new
    topics that match a pattern, is consumed from its first message, within seconds. A topic that
    fails does not keep the others: `receive` raises its error once, and goes on.
    """

    def __init__(
        self, connections: Connections, watches: TopicWatches,
        choice: tuple[TopicName, ...] | TopicPattern, options: ConsumerOptions,
    ) -> None:
        self._choice = choice
        self._options = options
        self._connections = connections
        self._paused = False
        self._active = False
        self._members: TopicMembers[TopicConsumer] = TopicMembers(
            connections, watches, choice, self._make, TopicConsumer.close, self._joined)
        self._merged = self._members.merged
        self._ledgers: dict[int, str] = {}
        self._last_ledger_id = -1

    def _make(self, name: TopicName, later: bool) -> TopicConsumer:
        options = self._options
        if options.on_active_changed is not None:
            options = replace(options, on_active_changed=self._member_active)
        if later:
            # All of its messages came after this subscription began.
            options = replace(options, initial_position=InitialPosition.Earliest)
        return topic_consumer(self._connections, name, options)

    def _joined(self, one: TopicConsumer) -> None:
        if self._paused:
            one.pause()

    async def open(self, deadline_s: float) -> None:
        """Open all topics; called once by the client."""
        await self._members.open(deadline_s)

    # What it is.

    @property
    def topic(self) -> str:
        """The topic's full name, the names of several, or the pattern."""
        if isinstance(self._choice, TopicPattern):
            return self._choice.text
        return ", ".join(name.full for name in self._choice)

    @property
    def topics(self) -> list[str]:
        """See Consumer."""
        return sorted(self._members.links)

    @property
    def subscription_name(self) -> str:
        return self._options.subscription_name

    @property
    def consumer_name(self) -> str:
        given = [one.consumer_name for one in list(self._members.links.values())]
        return self._options.consumer_name or (given[0] if given else "")

    @property
    def is_connected(self) -> bool:
        """Whether every topic has its link."""
        return all(one.is_connected for one in list(self._members.links.values()))

    @property
    def is_active(self) -> bool:
        """Whether messages of any topic come to this consumer now."""
        return any(one.is_active for one in list(self._members.links.values()))

    @property
    def closed(self) -> bool:
        """See Consumer."""
        return self._merged.end is not None

    @property
    def paused(self) -> bool:
        return self._paused

    # Receiving.

    async def receive(self, timeout_millis: int | None = None) -> Message:
        """See Consumer."""
        message = await self._merged.receive(timeout_millis)
        if message.entry.ledger_id != self._last_ledger_id:
            self._remember(message)
        return message

    async def receive_many(
        self, max_messages: int = 1000, timeout_millis: int | None = None,
        max_bytes: int | None = None,
    ) -> list[Message]:
        """See Consumer."""
        messages = await self._merged.receive_many(max_messages, timeout_millis, max_bytes)
        self._remember_all(messages)
        return messages

    async def batch_receive(self, policy: BatchReceivePolicy | None = None) -> list[Message]:
        """See Consumer."""
        policy = policy or self._options.batch_receive_policy or BatchReceivePolicy()
        most, most_bytes = policy.max_num_message, policy.max_num_bytes or None
        with suppress(OperationTimeout):
            await self._merged.until_enough(
                policy.timeout_ms or None, most or BATCH_MESSAGES, most_bytes)
        messages = self._merged.take(most or BATCH_MESSAGES, most_bytes)
        self._remember_all(messages)
        return messages

    def pause(self) -> None:
        """See Consumer."""
        self._paused = True
        for one in self._members.links.values():
            one.pause()

    def resume(self) -> None:
        """See Consumer."""
        self._paused = False
        for one in self._members.links.values():
            one.resume()

    # Settling.

    def acknowledge(self, message: Message | MessageId) -> Acknowledgement:
        """See Consumer."""
        owner = self._owner(message)
        return _DONE if owner is None else owner.acknowledge(message)

    def acknowledge_many(self, messages: Iterable[Message | MessageId]) -> Acknowledgements:
        """See Consumer."""
        return Acknowledgements(chain.from_iterable(
            owner.acknowledge_many(own).groups
            for owner, own in groupby(messages, self._owner) if owner is not None))

    def acknowledge_cumulative(self, message: Message | MessageId) -> Acknowledgement:
        """See Consumer; of the message's own partition or topic only."""
        owner = self._owner(message)
        return _DONE if owner is None else owner.acknowledge_cumulative(message)

    def negative_acknowledge(
        self, message: Message | MessageId, delay: Delay | None = None, reason: str = ""
    ) -> None:
        """See Consumer."""
        owner = self._members.links.get(self._topic_of(message))
        if owner is not None:  # else it has been given back already
            owner.negative_acknowledge(message, delay, reason)

    def give_back(self, messages: Iterable[Message]) -> None:
        """See Consumer."""
        for message in messages:
            owner = self._members.links.get(self._topic_of(message))
            if owner is not None:
                owner.give_back((message,))

    def redeliver_unacknowledged_messages(self) -> None:
        """See Consumer."""
        self._refuse_if_ended()
        for one in self._members.links.values():
            one.redeliver_unacknowledged_messages()

    # The subscription.

    async def seek(self, where: MessageId | int | InitialPosition) -> None:
        """See Consumer. To a time or an end: in all topics; to a message: in its own, alone."""
        self._refuse_if_ended()
        ends = (MessageId.earliest, MessageId.latest)
        if isinstance(where, MessageId) and where not in ends:
            owner = self._owner(where)
            if owner is not None:
                await owner.seek(where)
            return
        await self._members.for_all(lambda one: one.seek(where))

    async def last_message_id(self) -> MessageId | None:
        """Raises InvalidArgument when there are several topics: ask for `last_message_ids`."""
        found = await self.last_message_ids()
        if len(found) == 1:
            return next(iter(found.values()))
        raise InvalidArgument(f"{len(found)} topics have a last message each: last_message_ids()")

    async def last_message_ids(self) -> dict[str, MessageId | None]:
        """The last message of each topic and partition, by full name; None where there is none."""
        self._refuse_if_ended()
        topics = list(self._members.links)
        return dict(zip(
            topics, await self._members.for_all(lambda one: one.last_message_id()), strict=True))

    async def unsubscribe(self) -> None:
        """Delete the subscription of every topic, then close."""
        self._refuse_if_ended()
        await self._members.for_all(lambda one: one.unsubscribe())
        await self._members.open_no_more()
        await self._members.for_all(lambda one: one.unsubscribe())  # of what came meanwhile
        await self.close()

    async def close(self) -> None:
        """See Consumer."""
        await self._members.close()

    # Whose a message is.

    def _owner(self, what: Message | MessageId) -> TopicConsumer | None:
        """None: its topic was deleted, so it never comes again. Raises what ended the topic's
        consumer otherwise, and InvalidArgument for an id that may be of any topic."""
        topic = self._topic_of(what)
        owner = self._members.links.get(topic)
        if owner is None:
            error = self._members.why_ended(topic)
            if error is not None and not isinstance(error, TopicNotFound):
                raise error
        return owner

    def _topic_of(self, what: Message | MessageId) -> str:
        self._refuse_if_ended()
        if isinstance(what, Message):
            return what.topic_name
        what = stored_id(what)
        if len(self._members.bases) == 1:
            name = TopicName.parse(self._members.bases[0])
            if what.partition >= 0 and name.partition < 0:
                name = name.with_partition(what.partition)
            known = name.full in self._members.links or self._members.why_ended(name.full)
            if not known:
                raise InvalidArgument(f"{what} is of no partition that is consumed here")
            return name.full
        topic = self._ledgers.get(what.ledger_id)
        if topic is None:
            raise InvalidArgument(
                f"{what} may be of any topic: give the message itself, or an id received here")
        return topic

    def _remember_all(self, messages: list[Message]) -> None:
        for message in messages:
            if message.entry.ledger_id != self._last_ledger_id:
                self._remember(message)

    def _remember(self, message: Message) -> None:
        """Ledgers are of one topic each."""
        self._last_ledger_id = ledger_id = message.entry.ledger_id
        self._ledgers.pop(ledger_id, None)
        self._ledgers[ledger_id] = message.topic_name
        if len(self._ledgers) > KNOWN_LEDGERS:
            del self._ledgers[next(iter(self._ledgers))]

    def _refuse_if_ended(self) -> None:
        if self._merged.end is not None:
            raise self._merged.end

    def _member_active(self, _consumer: Consumer, _active: bool) -> None:
        active = self.is_active
        if active != self._active:
            self._active = active
            assert self._options.on_active_changed is not None
            self._options.on_active_changed(self, active)


_DONE: Final = Acknowledgement()
"""Of a message that cannot come again."""
_DONE.finish(None)
