"""All handlers of a client: bound by decorators, started, run and stopped together."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from magnetar.consuming import Consumer
from magnetar.enums import ConsumerType
from magnetar.errors import InvalidArgument
from magnetar.listener import Handler, Listener
from magnetar.topic_choice import Topics

_log = logging.getLogger(__name__)

Subscribe = Callable[..., Coroutine[Any, Any, Consumer]]
"""`Client.subscribe`."""


class Listeners:
    """Those of one client."""

    def __init__(self, subscribe: Subscribe) -> None:
        self._subscribe = subscribe
        self._bound: list[Listener] = []
        self._changing = asyncio.Lock()
        self._starting: asyncio.Task[None] | None = None

    def add(
        self, topics: Topics | None, subscription: str, handler: Handler, *,
        consumer_type: ConsumerType, concurrency: int, stop_timeout_s: float,
        options: dict[str, Any],
    ) -> Listener:
        """Bind a handler; it is started by the next `start`. Raises InvalidArgument."""
        if not is_asynchronous(handler):
            raise InvalidArgument(
                "a handler is an `async def`; plain functions are for magnetar.sync")
        if concurrency < 1 or stop_timeout_s < 0:
            raise InvalidArgument("concurrency is at least 1, and a stop takes 0 s or more")
        if not subscription:
            raise InvalidArgument("a handler needs the name of a subscription")
        hold = options.get("hold_failed_keys")
        holds_keys = consumer_type is ConsumerType.KeyShared if hold is None else bool(hold)

        async def subscribe() -> Consumer:
            return await self._subscribe(
                topics, subscription, consumer_type=consumer_type, **options)

        what = options.get("pattern") if topics is None else topics
        listener = Listener(
            f"{what} ({subscription})", subscribe, handler, concurrency=concurrency,
            keeps_order=consumer_type is not ConsumerType.Shared, holds_keys=holds_keys,
            stop_timeout_s=stop_timeout_s)
        self._bound.append(listener)
        return listener

    async def start(self) -> None:
        """Start what has not been; when one cannot, or `stop` comes first, none of these is."""
        async with self._changing:
            starting = self._starting = asyncio.get_running_loop().create_task(
                self._start(), name="magnetar start of listeners")
            try:
                await asyncio.wait({starting})
            finally:
                self._starting = None
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
        if not starting.cancelled():
            starting.result()

    async def _start(self) -> None:
        begun: list[Listener] = []
        try:
            for listener in self._bound:
                if not listener.started:
                    await listener.start()
                    begun.append(listener)
        except BaseException:
            await _stop_all(begun)
            raise

    async def run(self) -> None:
        """Start, and wait until all have ended; raises what ended the first one otherwise.

        Stops them all before it returns or raises, also when it is cancelled.
        """
        if not self._bound:
            raise InvalidArgument("there is no handler; bind one with `@client.on(...)` first")
        try:
            await self.start()
            ends = [asyncio.ensure_future(listener.finished()) for listener in self._bound]
            try:
                await asyncio.gather(*ends)
            finally:
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Stop all; raises the first error, after all are stopped."""
        if self._starting is not None:
            self._starting.cancel()
        async with self._changing:
            await _stop_all(self._bound)


async def _stop_all(listeners: list[Listener]) -> None:
    results = await asyncio.gather(
        *(listener.stop() for listener in listeners), return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors[1:]:
        _log.error("a listener did not stop well: %r", error)
    if errors:
        raise errors[0]


def is_asynchronous(handler: object) -> bool:
    """Whether calling it gives something to await."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None))  # noqa: B004
