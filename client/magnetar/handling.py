"""What a client offers to programs that handle events: functions bound to topics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from magnetar.enums import ConsumerType
from magnetar.listener import Handler
from magnetar.listeners import Listeners, Subscribe
from magnetar.topic_choice import Topics

Function = TypeVar("Function", bound=Handler)

STOP_TIMEOUT_S = 30.0


class Handling:
    """A part of Client."""

    _listeners: Listeners | None = None

    subscribe: Subscribe
    """See Client."""

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

    def _all_listeners(self) -> Listeners:
        if self._listeners is None:
            self._listeners = Listeners(self.subscribe)
        return self._listeners
