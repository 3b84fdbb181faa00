"""Where the replies to a client's requests arrive: one topic, whatever is under way."""

from __future__ import annotations

import asyncio
import logging

from magnetar.consuming import Consumer
from magnetar.errors import AlreadyClosed, InvalidFrame, MagnetarError, RequestFailed
from magnetar.message import Message

CORRELATION_ID = "correlation_id"
REPLY_TO = "reply_to"
REPLY_ERROR = "reply_error"

_log = logging.getLogger(__name__)


class Inbox:
    """Owns its consumer. Replies to nobody, because they are late or doubled, are counted."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._last_id = 0
        self.late = 0
        self._reading = asyncio.get_running_loop().create_task(
            self._read(), name=f"magnetar replies at {consumer.topic}")

    @property
    def topic(self) -> str:
        return self._consumer.topic

    @property
    def ended(self) -> bool:
        """No reply comes here any more."""
        return self._reading.done()

    def expect(self) -> tuple[str, asyncio.Future[Message]]:
        """The id of a new request, and its reply; `forget` must follow."""
        self._last_id += 1
        correlation_id = str(self._last_id)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = future
        return correlation_id, future

    def forget(self, correlation_id: str) -> None:
        """A reply that comes now is late."""
        self._waiting.pop(correlation_id, None)

    async def close(self) -> None:
        """Nobody waits any more."""
        self._reading.cancel()
        await asyncio.wait({self._reading})
        await self._consumer.close()

    async def _read(self) -> None:
        end: MagnetarError = AlreadyClosed("the client is closed; the outcome is unknown")
        try:
            while True:
                try:
                    messages = await self._consumer.receive_many()
                    for message in messages:
                        self._deliver(message)
                    self._consumer.acknowledge_many(messages)
                except InvalidFrame as error:
                    if self._consumer.closed:
                        raise
                    _log.error("replies at %s are left out: %s", self._consumer.topic, error)
        except MagnetarError as error:
            end = error
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(end)

    def _deliver(self, message: Message) -> None:
        properties = message.properties
        future = self._waiting.pop(properties.get(CORRELATION_ID, ""), None)
        if future is None or future.done():
            self.late += 1
        elif (error := properties.get(REPLY_ERROR)) is not None:
            future.set_exception(RequestFailed(error))
        else:
            future.set_result(message)
