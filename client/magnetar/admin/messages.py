"""Single messages of a topic."""

from __future__ import annotations

from magnetar.admin.codec import id_message, id_of, read
from magnetar.admin.topic_values import StoredMessage
from magnetar.admin.topics import full
from magnetar.admin.transport import Transport, ask
from magnetar.message_id import MessageId
from magnetar.wire import admin_pb2 as pb


class Messages:
    """`client.admin.messages`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self, topic: str, message_id: MessageId) -> StoredMessage:
        """A message by its id. Raises MessageNotFound when it is deleted by now or never was,
        InvalidArgument for the id of another topic's message."""
        request = pb.GetMessageRequest(topic=full(topic), message_id=id_message(message_id))
        reply = await ask(self._transport, "GetMessage", request, pb.GetMessageReply)
        return read(StoredMessage, reply.message)

    async def last_ids(self, topic: str) -> tuple[MessageId, ...]:
        """The newest message of the topic, or of each of its partitions; none of empty ones."""
        request = pb.TopicRequest(topic=full(topic))
        reply = await ask(self._transport, "LastMessageIds", request, pb.MessageIdsReply)
        return tuple(id_of(one) for one in reply.message_ids)
