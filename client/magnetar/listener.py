"""A handler bound to a subscription: each message is handled, and settled by how that went."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from magnetar.consuming import Consumer
from magnetar.errors import EndOfTopic, MagnetarError
from magnetar.key_lanes import KeyLanes
from magnetar.keyed_queue import key_of
from magnetar.message import Message

WAITING_A_HANDLER = 16
"""Messages that may wait for one of their key, for each that may be handled at a time."""
CANCELLED_S = 5.0
"""How long a cancelled handler may take to end."""
DURABLE_S = 5.0
"""How long a stop waits, before it gives messages back, for the acknowledgements of others."""
STOPPED = "the listener stopped while it was being handled"

Handler = Callable[[Message], Coroutine[Any, Any, object]]
Subscribe = Callable[[], Awaitable[Consumer]]

_log = logging.getLogger(__name__)


class Listener:
    """Success acknowledges; an exception gives the message back, with its text as the reason.

    Up to `concurrency` messages are handled at a time, of a key one after the other when
    `keeps_order`. When the subscription `holds_keys`, a failure also gives back what waits
    behind it. `stop` lets handlers finish for `stop_timeout_s` seconds.
    """

    def __init__(
        self, name: str, subscribe: Subscribe, handler: Handler, *, concurrency: int,
        keeps_order: bool, holds_keys: bool, stop_timeout_s: float,
    ) -> None:
        self.name = name
        self._subscribe = subscribe
        self._handler = handler
        self._concurrency = concurrency
        self._holds_keys = holds_keys
        self._stop_timeout_s = stop_timeout_s
        in_lanes = keeps_order and concurrency > 1
        self._lanes = KeyLanes(_key_of if in_lanes else _no_key)
        self._most_waiting = concurrency * WAITING_A_HANDLER if in_lanes else 0
        self._running: set[asyncio.Task[object]] = set()
        self._room = asyncio.Event()
        self._consumer: Consumer | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._claim: Awaitable[None] | None = None
        self._failures: list[tuple[Message, str]] = []
        """Of handlers that ended during a stop."""
        self.handled = 0
        """Messages whose handler succeeded."""
        self.failed = 0

    @property
    def consumer(self) -> Consumer | None:
        """None before the start."""
        return self._consumer

    @property
    def started(self) -> bool:
        """Since the last `stop`."""
        return self._fetching is not None

    async def start(self) -> None:
        """Subscribe, and handle messages from then on; raises what `subscribe` raises."""
        self._consumer = await self._subscribe()
        self._fetching = asyncio.get_running_loop().create_task(
            self._fetch(self._consumer), name=f"magnetar listener {self.name}")
        self._fetching.add_done_callback(self._fetched)

    async def finished(self) -> None:
        """Wait for the end of a terminated topic or for `stop`; raises what else ended it."""
        if (fetching := self._fetching) is not None:
            await asyncio.wait({fetching})
            if not fetching.cancelled():
                fetching.result()

    async def stop(self) -> None:
        """Fetch no more, let handlers finish, cancel those that take too long, give back what
        was not begun, and leave the subscription. Stopping twice is fine."""
        if self._consumer is None or self._fetching is None:
            return
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(
                self._stop(self._consumer, self._fetching))
        await asyncio.shield(self._stopping)

    async def _stop(self, consumer: Consumer, fetching: asyncio.Task[None]) -> None:
        try:
            await self._end_handlers(consumer, fetching)
        finally:
            try:
                await consumer.close()
            finally:
                self._stopping = self._fetching = self._claim = None
                self._failures = []

    async def _end_handlers(self, consumer: Consumer, fetching: asyncio.Task[None]) -> None:
        fetching.cancel()
        await asyncio.wait({fetching})
        with suppress(MagnetarError):
            consumer.pause()
        if self._running:
            await asyncio.wait(self._running, timeout=self._stop_timeout_s)
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=CANCELLED_S)
        if self._running:
            _log.error(
                "%d handlers of %s go on after they were cancelled", len(self._running), self.name)
            self._running = set()
        if self._claim is not None:
            # What is given back before could come here once more.
            with suppress(MagnetarError, TimeoutError):
                async with asyncio.timeout(DURABLE_S):
                    await self._claim
        for message, failure in self._failures:
            with suppress(MagnetarError):
                consumer.negative_acknowledge(message, reason=failure)
        with suppress(MagnetarError):
            consumer.give_back(self._lanes.drain())

    # Handling.

    async def _fetch(self, consumer: Consumer) -> None:
        while True:
            room = self._concurrency - len(self._running) + self._most_waiting - self._lanes.count
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                messages = await consumer.receive_many(room)
            except EndOfTopic:
                if not self._running:
                    return
                # What fails now comes again.
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                continue
            except MagnetarError as error:
                if consumer.closed:
                    raise
                # Of one message that is damaged, or of one topic of several: told once.
                _log.error("%s: something is left out: %s", self.name, error)
                continue
            for message in messages:
                self._lanes.add(message)
            self._begin()

    def _fetched(self, fetching: asyncio.Task[None]) -> None:
        if not fetching.cancelled() and (error := fetching.exception()) is not None:
            _log.error("%s ended: %s", self.name, error)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._running) < self._concurrency and (
            message := self._lanes.next()
        ) is not None:
            task = loop.create_task(self._handler(message), name=f"handler of {self.name}")
            self._running.add(task)
            task.add_done_callback(partial(self._done, message))

    def _done(self, message: Message, task: asyncio.Task[object]) -> None:
        if task not in self._running:
            _log.warning("%s: a cancelled handler of %s ended late", self.name, message.message_id)
            return
        self._running.discard(task)
        stopping = self._stopping is not None
        if task.cancelled():
            failure: str | None = STOPPED if stopping else "the handler was cancelled"
        elif (error := task.exception()) is not None:
            failure = f"{type(error).__name__}: {error}"
            _log.warning("%s: the handler of %s failed", self.name, message.message_id,
                         exc_info=error)
        else:
            failure = None
        try:
            self._settle(message, failure)
        except MagnetarError as error:
            _log.warning("%s: a handled message may come again: %s", self.name, error)
        self._room.set()
        if not stopping:
            self._begin()

    def _settle(self, message: Message, failure: str | None) -> None:
        assert self._consumer is not None
        if failure is None:
            self.handled += 1
            self._lanes.handled(message)
            self._claim = self._consumer.acknowledge(message)
            return
        self.failed += 1
        if self._stopping is not None:
            self._failures.append((message, failure))
            return
        behind: list[Message] = []
        if self._holds_keys:
            behind = self._lanes.failed(message)
        else:
            self._lanes.handled(message)
        self._consumer.negative_acknowledge(message, reason=failure)
        self._consumer.give_back(behind)


def _key_of(message: Message) -> str | None:
    return key_of(message.entry.view, message.index)


def _no_key(_message: Message) -> str | None:
    return None
