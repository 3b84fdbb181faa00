"""What a client offers to programs that handle events: functions bound to topics."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from magnetar.connection import Connections
from magnetar.enums import ConsumerType
from magnetar.errors import InvalidArgument
from magnetar.listener import Handler
from magnetar.listeners import Listeners, Subscribe, is_asynchronous
from magnetar.message import Message
from magnetar.partitioned_producer import AnyProducer
from magnetar.redelivery_backoff import Delay
from magnetar.requests import Replier, Requests
from magnetar.topic_choice import Topics

Function = TypeVar("Function", bound=Handler)

Answering = TypeVar("Answering", bound=Replier)

STOP_TIMEOUT_S = 30.0
REQUEST_TIMEOUT_S = 10.0


class Handling:
    """A part of Client."""

    _listeners: Listeners | None = None

    _requests: Requests | None = None

    subscribe: Subscribe
    """See Client."""
    create_producer: Callable[..., Coroutine[Any, Any, AnyProducer]]
    """See Client."""
    _connections: Connections

    def on(
        self, topics: Topics | None, subscription: str, *,
        consumer_type: ConsumerType = ConsumerType.Shared, concurrency: int = 1,
        stop_timeout_s: float = STOP_TIMEOUT_S, **options: Any,
    ) -> Callable[[Function], Function]:
        """Bind an `async def handler(message)` to a subscription; `run` serves it.

        A handler that returns acknowledges its message; one that raises gives it back, with the
        text of the exception as the reason. All that `subscribe` takes is taken here too, such
        as `redelivery_backoff`, `dead_letter_policy`, or a `pattern` with None for `topics`. Up
        to `concurrency` messages are handled at a time; unless the subscription is shared, those
        of a key one after the other.

        When it is stopped, handlers may go on for `stop_timeout_s`, then they are cancelled;
        what was not handled goes to others, or comes again after the next start.
        """
        def bind(handler: Function) -> Function:
            self._all_listeners().add(
                topics, subscription, handler, consumer_type=consumer_type,
                concurrency=concurrency, stop_timeout_s=stop_timeout_s, options=options)
            return handler

        return bind

    async def run(self) -> None:
        """Serve all handlers until `stop_listeners`, the end of their topics, or a cancellation.

        Raises InvalidArgument when there is none, and the error that ended one of them. All are
        stopped when it returns or raises, with what their handlers did acknowledged.
        """
        await self._all_listeners().run()

    async def start_listeners(self) -> None:
        """Serve the handlers bound so far in the background; raises what `subscribe` raises."""
        await self._all_listeners().start()

    async def stop_listeners(self) -> None:
        """Let handlers finish, and give back what was not begun; `run` returns."""
        if self._listeners is not None:
            await self._listeners.stop()

    async def request(
        self, topic: str, content: bytes, timeout: Delay = REQUEST_TIMEOUT_S, *,
        properties: Mapping[str, str] | None = None, partition_key: str | None = None,
    ) -> Message:
        """Send a request, and wait for the reply of whoever serves the topic (see `reply`).

        Raises OperationTimeout when none came in time, seconds or a timedelta, and with it
        the request itself expires; RequestFailed when its handler raised; and what `send` raises.
        """
        return await self._all_requests().request(
            topic, content, timeout, properties, partition_key)

    def reply(
        self, topics: Topics | None, subscription: str = "repliers", **options: Any
    ) -> Callable[[Answering], Answering]:
        """Bind an `async def handler(message)` that returns the reply to each request: bytes, a
        Reply with properties, or None. All else is as `on` has it, but that an exception is told
        to the requester, and the request is not handled again.
        """
        def bind(handler: Answering) -> Answering:
            if not is_asynchronous(handler):
                raise InvalidArgument(
                    "a handler is an `async def`; plain functions are for magnetar.sync")
            self.on(topics, subscription, **options)(self._all_requests().replier(handler))
            return handler

        return bind

    async def reply_to(
        self, request: Message, content: bytes, properties: Mapping[str, str] | None = None
    ) -> None:
        """Answer a request received in another way than by `reply`; returns when that is sent.

        Raises InvalidArgument for a message that asks for no reply, and what `send` raises.
        """
        await self._all_requests().reply(request, content, properties)

    @property
    def late_replies(self) -> int:
        """Replies that came when nobody waited for them any more."""
        return 0 if self._requests is None else self._requests.late_replies

    async def _stop_handling(self) -> None:
        """Handlers first: they may still ask and answer."""
        try:
            await self.stop_listeners()
        finally:
            if self._requests is not None:
                await self._requests.close()

    def _all_requests(self) -> Requests:
        if self._requests is None:
            self._requests = Requests(
                self.subscribe, self.create_producer, self._connections.random)
        return self._requests

    def _all_listeners(self) -> Listeners:
        if self._listeners is None:
            self._listeners = Listeners(self.subscribe)
        return self._listeners
