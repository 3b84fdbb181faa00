"""Requests that wait for a reply, and the replies to them, over ordinary topics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from random import Random
from typing import Any, Final, NamedTuple

from magnetar.consuming import Consumer
from magnetar.enums import InitialPosition
from magnetar.errors import AlreadyClosed, InvalidArgument, MagnetarError, OperationTimeout
from magnetar.inbox import CORRELATION_ID, REPLY_ERROR, REPLY_TO, Inbox
from magnetar.listener import Handler
from magnetar.message import Message
from magnetar.partitioned_producer import AnyProducer
from magnetar.producer_cache import ProducerCache
from magnetar.redelivery_backoff import Delay, delay_ms_of
from magnetar.ticket import Ticket
from magnetar.topic import TopicName

REQUESTS_IN_FLIGHT: Final = 10_000
"""Of a client; further ones wait for one to end, within their own time."""
PRODUCERS: Final = 500
"""Topics of requests and of replies to which a client keeps a producer open."""
SUBSCRIPTION: Final = "replies"
ERROR_TEXT: Final = 1000
"""Characters of an exception that the requester is told."""

_log = logging.getLogger(__name__)


class Reply(NamedTuple):
    """What a handler of requests may return instead of bytes."""

    content: bytes = b""
    properties: Mapping[str, str] | None = None


Answer = bytes | Reply | None
Replier = Callable[[Message], Coroutine[Any, Any, Answer]]


class Requests:
    """Those of one client: an inbox a namespace, made by the first request in it."""

    def __init__(
        self, subscribe: Callable[..., Awaitable[Consumer]],
        create_producer: Callable[[str], Awaitable[AnyProducer]], random: Random,
    ) -> None:
        self._subscribe = subscribe
        self._producers = ProducerCache(create_producer, PRODUCERS)
        self._random = random
        self._inboxes: dict[str, Inbox] = {}
        self._late_before = 0
        self._opening = asyncio.Lock()
        self._room = asyncio.Semaphore(REQUESTS_IN_FLIGHT)
        self._closed = False

    @property
    def late_replies(self) -> int:
        """Replies that nobody waited for any more."""
        return self._late_before + sum(inbox.late for inbox in self._inboxes.values())

    async def request(
        self, topic: str, content: bytes, timeout: Delay, properties: Mapping[str, str] | None,
        partition_key: str | None,
    ) -> Message:
        """See Handling.request."""
        timeout_s = delay_ms_of(timeout) / 1000
        if timeout_s <= 0:
            raise InvalidArgument("a request needs some time: a timeout above 0")
        for name in (REPLY_TO, CORRELATION_ID):
            if name in (properties or ()):
                raise InvalidArgument(f"the property {name!r} is set by the request itself")
        try:
            async with asyncio.timeout(timeout_s), self._room:
                return await self._ask(topic, content, timeout_s, properties or {}, partition_key)
        except TimeoutError as error:
            raise OperationTimeout(
                f"no reply from {topic} within {timeout_s} s; the request may have been served"
            ) from error

    async def _ask(
        self, topic: str, content: bytes, timeout_s: float, properties: Mapping[str, str],
        partition_key: str | None,
    ) -> Message:
        inbox = await self._inbox(TopicName.parse(topic))
        correlation_id, reply = inbox.expect()
        try:
            ticket = await self._producers.send(
                topic, content,
                {**properties, REPLY_TO: inbox.topic, CORRELATION_ID: correlation_id},
                partition_key, timeout_s)

            def sent(ticket: Ticket) -> None:
                try:
                    ticket.result()
                except MagnetarError as error:
                    if not reply.done():
                        reply.set_exception(error)

            ticket.add_done_callback(sent)
            return await reply
        finally:
            inbox.forget(correlation_id)
            if not reply.cancel() and not reply.cancelled():
                reply.exception()  # seen: whoever asked has it, or was cancelled

    async def _inbox(self, topic: TopicName) -> Inbox:
        namespace = f"{topic.tenant}/{topic.namespace}"
        async with self._opening:
            inbox = self._inboxes.get(namespace)
            if inbox is not None and not inbox.ended:
                return inbox
            if self._closed:
                raise AlreadyClosed("the client is closed; make a new one")
            name = f"replies-{self._random.getrandbits(128):032x}"
            # From the earliest: where the topic moved, replies may be there before this consumer.
            consumer = await self._subscribe(
                f"non-persistent://{namespace}/{name}", SUBSCRIPTION,
                initial_position=InitialPosition.Earliest)
            if self._closed:
                await consumer.close()
                raise AlreadyClosed("the client is closed; make a new one")
            made = Inbox(consumer)
            if inbox is not None:
                self._late_before += inbox.late
            self._inboxes[namespace] = made
            return made

    def replier(self, handler: Replier) -> Handler:
        """A handler of messages that answers them with what `handler` returns.

        An exception is the requester's to handle: it is told, and the request is done with.
        """
        async def handle(message: Message) -> None:
            try:
                answer = await handler(message)
                reply = answer if isinstance(answer, Reply) else Reply(answer or b"")
            except Exception as error:
                _log.warning(
                    "a request of %s failed: %s", message.topic_name, message.message_id,
                    exc_info=error)
                text = f"{type(error).__name__}: {error}"[:ERROR_TEXT]
                reply = Reply(b"", {REPLY_ERROR: text})
            if REPLY_TO in message.properties:
                await self.reply(message, reply.content, reply.properties)

        return handle

    async def reply(
        self, request: Message, content: bytes, properties: Mapping[str, str] | None
    ) -> None:
        """See Handling.reply_to."""
        asked = request.properties
        reply_to, correlation_id = asked.get(REPLY_TO), asked.get(CORRELATION_ID)
        if reply_to is None or correlation_id is None:
            raise InvalidArgument("the message asks for no reply: it has no property 'reply_to'")
        await (await self._producers.send(
            reply_to, content, {**(properties or {}), CORRELATION_ID: correlation_id}))

    async def close(self) -> None:
        """End the inboxes; whoever waits for a reply gets AlreadyClosed."""
        self._closed = True
        for inbox in self._inboxes.values():
            await inbox.close()
        await self._producers.close()
