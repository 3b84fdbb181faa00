"""Reading from any thread."""

from __future__ import annotations

from collections.abc import Iterator

from magnetar.enums import InitialPosition
from magnetar.errors import EndOfTopic
from magnetar.message import Message
from magnetar.message_id import MessageId
from magnetar.multi_topic_reader import AnyReader
from magnetar.sync.closable import Closable
from magnetar.sync.loop_thread import THREAD


class Reader(Closable):
    """Reads a topic from a chosen place."""

    def __init__(self, reader: AnyReader) -> None:
        self._reader = reader

    @property
    def topic(self) -> str:
        """The topic's full name."""
        return self._reader.topic

    @property
    def closed(self) -> bool:
        """Nothing will be read any more."""
        return self._reader.closed

    @property
    def is_connected(self) -> bool:
        """Whether the topic, or every partition, has its link."""
        return self._reader.is_connected

    def read_next(self, timeout_millis: int | None = None) -> Message:
        """The next message; raises OperationTimeout, EndOfTopic."""
        return THREAD.run(self._reader.read_next(timeout_millis))

    def read_many(
        self, max_messages: int = 1000, timeout_millis: int | None = None,
        max_bytes: int | None = None,
    ) -> list[Message]:
        """What is there, at least one message; raises as `read_next`."""
        return THREAD.run(self._reader.read_many(max_messages, timeout_millis, max_bytes))

    def has_message_available(self) -> bool:
        """Whether `read_next` would find a message without waiting for a new one."""
        return THREAD.run(self._reader.has_message_available())

    def last_message_id(self) -> MessageId | None:
        """The topic's last message; None when it has none."""
        return THREAD.run(self._reader.last_message_id())

    def last_message_ids(self) -> dict[str, MessageId | None]:
        """The last message of each partition, by full name; None where there is none."""
        return THREAD.run(self._reader.last_message_ids())

    def seek(self, where: MessageId | int | InitialPosition) -> None:
        """Go on from a message, a publish time in ms since the epoch, or an end."""
        THREAD.run(self._reader.seek(where))

    def close(self) -> None:
        """Stop reading."""
        THREAD.run(self._reader.close())

    def __iter__(self) -> Iterator[Message]:
        while True:
            try:
                yield self.read_next()
            except EndOfTopic:
                return
