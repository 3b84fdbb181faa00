"""A reader of all partitions of a topic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from magnetar.closable import Closable
from magnetar.connection import Connections
from magnetar.enums import InitialPosition
from magnetar.errors import EndOfTopic, InvalidArgument
from magnetar.message import Message
from magnetar.message_id import MessageId
from magnetar.reader import Reader
from magnetar.topic import TopicName
from magnetar.topic_members import TopicMembers
from magnetar.topic_watch import TopicWatches

Place = MessageId | InitialPosition
Start = Place | Sequence[MessageId]
MakeReader = Callable[[TopicName, Place], Reader]

ENDS = (MessageId.earliest, MessageId.latest)


class MultiTopicReader(Closable):
    """As Reader; order holds within a partition. Made by `Client.create_reader`.

    Partitions that the topic gets later are read from their first message, within seconds.
    """

    def __init__(
        self, connections: Connections, watches: TopicWatches, topic: TopicName,
        make_reader: MakeReader, start: Start,
    ) -> None:
        self._topic = topic
        starts = _starts_of(start)

        def make(name: TopicName, later: bool) -> Reader:
            begin = InitialPosition.Earliest if later else starts(name.partition)
            return make_reader(name, begin)

        self._members: TopicMembers[Reader] = TopicMembers(
            connections, watches, (topic,), make, Reader.close)
        self._merged = self._members.merged

    async def open(self, deadline_s: float) -> None:
        """Open all partitions; called once by the client."""
        await self._members.open(deadline_s)

    @property
    def topic(self) -> str:
        """The topic's full name, without a partition."""
        return self._topic.full

    @property
    def closed(self) -> bool:
        """Nothing will be read any more."""
        return self._merged.end is not None

    @property
    def is_connected(self) -> bool:
        """Whether every partition has its link."""
        return all(one.is_connected for one in list(self._members.links.values()))

    async def read_next(self, timeout_millis: int | None = None) -> Message:
        """The next message of any partition; raises as `Reader.read_next`."""
        return await self._merged.receive(timeout_millis)

    async def read_many(
        self, max_messages: int = 1000, timeout_millis: int | None = None,
        max_bytes: int | None = None,
    ) -> list[Message]:
        """What is there, at least one message; raises as `read_next`."""
        return await self._merged.receive_many(max_messages, timeout_millis, max_bytes)

    async def last_message_id(self) -> MessageId | None:
        """Raises InvalidArgument when there are several partitions: `last_message_ids`."""
        found = await self.last_message_ids()
        if len(found) == 1:
            return next(iter(found.values()))
        raise InvalidArgument(
            f"{len(found)} partitions have a last message each: last_message_ids()")

    async def last_message_ids(self) -> dict[str, MessageId | None]:
        """The last message of each partition, by full name; None where there is none."""
        topics = list(self._members.links)
        return dict(zip(
            topics, await self._members.for_all(lambda one: one.last_message_id()), strict=True))

    async def has_message_available(self) -> bool:
        """Whether `read_next` would find a message without waiting for a new one.

        Raises NotSupported for a reader with a filter: only reading on can tell.
        """
        return any(await self._members.for_all(lambda one: one.has_message_available()))

    async def seek(self, where: MessageId | int | InitialPosition) -> None:
        """Go on from a publish time in ms since the epoch or an end, in all partitions, or from
        a message (itself included), in its own partition alone."""
        if isinstance(where, MessageId) and where not in ENDS:
            owner = None
            if where.partition >= 0:
                name = self._topic.with_partition(where.partition)
                owner = self._members.links.get(name.full)
            if owner is None:
                raise InvalidArgument(f"{where} is of no partition of {self.topic}")
            await owner.seek(where)
            return
        await self._members.for_all(lambda one: one.seek(where))

    async def close(self) -> None:
        """Stop reading; closing twice is fine."""
        await self._members.close()

    def __aiter__(self) -> MultiTopicReader:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.read_next()
        except EndOfTopic:
            raise StopAsyncIteration from None


AnyReader = Reader | MultiTopicReader
"""What `Client.create_reader` gives."""


def single_start(start: Start) -> Place:
    """Where to begin in a topic without partitions; raises InvalidArgument."""
    if isinstance(start, MessageId | InitialPosition):
        return start
    _check_messages(start)
    if len(start) == 1:
        return start[0]
    raise InvalidArgument("a topic without partitions is read from one message, not from several")


def _starts_of(start: Start) -> Callable[[int], Place]:
    """Where to begin in each partition; raises InvalidArgument."""
    if isinstance(start, InitialPosition) or start in ENDS:
        return lambda _: start
    if isinstance(start, MessageId):
        raise InvalidArgument(
            f"{start} is of one partition: to go on in all of them, give a list with one id each;"
            " to read one of them, name it as the topic")
    _check_messages(start)
    places: dict[int, Place] = {}
    for one in start:
        if one.partition < 0 or one.partition in places:
            raise InvalidArgument(
                f"{one}: begin with at most one message of each partition, and no others")
        places[one.partition] = one
    return lambda partition: places.get(partition, InitialPosition.Earliest)


def _check_messages(start: object) -> None:
    if not isinstance(start, Sequence) or not all(isinstance(one, MessageId) for one in start):
        raise InvalidArgument(
            f"a reader begins at an InitialPosition, a MessageId or a list of them, not {start!r}")
