"""Topics: making them, looking at them, ending them."""

from __future__ import annotations

from collections.abc import Mapping

from magnetar.admin.codec import id_of, read
from magnetar.admin.topic_values import SpaceReport, TopicInfo, TopicPage, TopicStats
from magnetar.admin.transport import Transport, ask
from magnetar.errors import InvalidArgument
from magnetar.message_id import MessageId
from magnetar.topic import TopicName
from magnetar.wire import admin_pb2 as pb

MAX_UINT32 = (1 << 32) - 1
MAX_INT64 = (1 << 63) - 1
MAX_UINT64 = (1 << 64) - 1


def count(number: int, what: str, most: int = MAX_UINT32) -> int:
    """A count as the wire can have it; raises InvalidArgument."""
    if not 0 <= number <= most:
        raise InvalidArgument(f"{what} is from 0 to {most}, not {number}")
    return number


def full(topic: str) -> str:
    """The topic's full name; raises InvalidTopicName before anything is sent."""
    return TopicName.parse(topic).full


class Topics:
    """`client.admin.topics`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self, topic: str, partitions: int = 0, properties: Mapping[str, str] | None = None
    ) -> TopicInfo:
        """A topic; with 0 partitions one that has none. Raises ResourceExists, and
        ResourceNotFound without its namespace."""
        request = pb.CreateTopicRequest(
            topic=full(topic), partitions=count(partitions, "partitions"),
            properties=properties or {},
        )
        reply = await ask(self._transport, "CreateTopic", request, pb.TopicInfoReply)
        return read(TopicInfo, reply.topic)

    async def grow(self, topic: str, partitions: int) -> TopicInfo:
        """Give a partitioned topic more partitions. Raises InvalidArgument for fewer than it has,
        and for a topic without any; TopicNotFound."""
        request = pb.GrowTopicRequest(topic=full(topic), partitions=count(partitions, "partitions"))
        reply = await ask(self._transport, "GrowTopic", request, pb.TopicInfoReply)
        return read(TopicInfo, reply.topic)

    async def list(
        self, namespace: str, pattern: str = "", *, page_size: int = 0, page: str = ""
    ) -> TopicPage:
        """Topics of a namespace by name, `page_size` at a time (0: as the broker likes), those
        first that are not persistent and in the memory of a broker now.

        `pattern` is a glob over the last part of the name, such as `orders-*`. `page` is the
        `next_page` of the answer before. Raises ResourceNotFound.
        """
        request = pb.ListTopicsRequest(
            namespace=namespace, pattern=pattern, page_size=count(page_size, "page_size"),
            page=page,
        )
        return read(
            TopicPage, await ask(self._transport, "ListTopics", request, pb.ListTopicsReply)
        )

    async def get(self, topic: str) -> TopicInfo:
        """As the metadata has it, without loading it. Raises TopicNotFound."""
        request = pb.TopicRequest(topic=full(topic))
        reply = await ask(self._transport, "GetTopic", request, pb.TopicInfoReply)
        return read(TopicInfo, reply.topic)

    async def stats(self, topic: str) -> TopicStats:
        """What goes on in a topic; of a partitioned one the sums and each partition. Raises
        TopicNotFound."""
        request = pb.TopicRequest(topic=full(topic))
        reply = await ask(self._transport, "TopicStats", request, pb.TopicStatsReply)
        return read(TopicStats, reply.stats)

    async def terminate(self, topic: str) -> tuple[MessageId, ...]:
        """Take no more messages, for ever; consumers read on to the end. Answers with the last
        message of the topic, or of each partition; none of empty ones. Raises TopicNotFound."""
        request = pb.TopicRequest(topic=full(topic))
        reply = await ask(self._transport, "TerminateTopic", request, pb.MessageIdsReply)
        return tuple(id_of(one) for one in reply.message_ids)

    async def truncate(self, topic: str) -> int:
        """Delete all messages there are now, consumed or not; answers how many. Subscriptions
        stay. Raises TopicNotFound."""
        request = pb.TopicRequest(topic=full(topic))
        return (await ask(self._transport, "TruncateTopic", request, pb.CountReply)).count

    async def delete(self, topic: str, force: bool = False) -> None:
        """Delete a topic with its messages and policies, all partitions together.

        Raises ResourceInUse while it has subscriptions, producers, readers, or messages that wait
        for their time; `force` deletes and sends away whatever there is. Raises TopicNotFound. A
        deletion that failed on its way goes on when it is asked for again.
        """
        request = pb.DeleteTopicRequest(topic=full(topic), force=force)
        await ask(self._transport, "DeleteTopic", request, pb.DoneReply)

    async def why_space(self, topic: str) -> SpaceReport:
        """Which ledgers the topic has, and what keeps each from being deleted. Raises
        TopicNotFound."""
        request = pb.TopicRequest(topic=full(topic))
        reply = await ask(self._transport, "WhySpace", request, pb.WhySpaceReply)
        return read(SpaceReport, reply.report)
