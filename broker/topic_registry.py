"""The topics this broker serves: loaded on first use, one task a topic, unloaded when idle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from broker.ownership import HERE, Decision
from broker.settings import BrokerLimits
from broker.topic import Topic
from magnetar.errors import ConnectionFailed, MagnetarError, NotOwner, OperationTimeout

Load = Callable[[str, Decision], Awaitable[Topic]]


class TopicRegistry:
    """`obtain` gives an open topic; however many ask at once, it is loaded once."""

    def __init__(self, load: Load, limits: BrokerLimits) -> None:
        self._load = load
        self._limits = limits
        self._topics: dict[str, Topic] = {}
        self._loading: dict[str, asyncio.Task[Topic]] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._topics)

    def all(self) -> list[Topic]:
        """Every topic that is loaded, in the order in which they were."""
        return list(self._topics.values())

    def get(self, name: str) -> Topic | None:
        """The topic, if it is loaded and open."""
        topic = self._topics.get(name)
        return None if topic is None or topic.closing else topic

    def is_busy_with(self, name: str) -> bool:
        """The topic is being loaded, closed or deleted just now."""
        return name in self._loading or name in self._closing

    async def obtain(self, name: str, decision: Decision = HERE) -> Topic:
        """The open topic, loaded if need be; raises what loading raises."""
        topic = self.get(name)
        if topic is not None:
            return topic
        task = self._loading.get(name)
        if task is None:
            if len(self._topics) + len(self._loading) >= self._limits.topics:
                raise ConnectionFailed("this broker has all the topics it may have")
            task = asyncio.get_running_loop().create_task(self._run_load(name, decision))
            self._loading[name] = task
            task.add_done_callback(lambda done: self._loaded(name, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if task.cancelled() and (waiter is None or not waiter.cancelling()):
                raise NotOwner(f"this broker gave up loading {name}; look it up again") from None
            raise

    async def _run_load(self, name: str, decision: Decision) -> Topic:
        await self.until_closed(name)
        try:
            async with asyncio.timeout(self._limits.load_timeout_s):
                topic = await self._load(name, decision)
        except TimeoutError:
            raise OperationTimeout(
                f"{name} was not loaded within {self._limits.load_timeout_s:g} s; try again"
            ) from None
        self._topics[name] = topic
        return topic

    async def until_closed(self, name: str) -> None:
        """Wait until the topic of that name has closed, if it is about to."""
        closing = self._closing.get(name)
        if closing is not None:
            await asyncio.wait([closing])

    def _loaded(self, name: str, task: asyncio.Task[Topic]) -> None:
        self._loading.pop(name, None)
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may wait any more

    def remove(self, topic: Topic) -> None:
        """The topic closed."""
        if self._topics.get(topic.name) is topic:
            del self._topics[topic.name]

    async def unload(self, topic: Topic) -> None:
        """Close a topic in good order; loading it again waits for that. Raises what prevented
        the good order; the topic is closed all the same."""
        if topic.closing:
            return
        task = asyncio.get_running_loop().create_task(topic.close())
        self._closing[topic.name] = task
        try:
            await asyncio.shield(task)
        finally:
            if task.done():
                self._closing.pop(topic.name, None)
            else:
                task.add_done_callback(lambda _done: self._closing.pop(topic.name, None))

    def end(
        self, topic: Topic, work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None] | None:
        """Let `work` close a topic, from now on; loading it again waits for that. Once begun it is
        done, also when nobody waits for it. None: the topic is closing already."""
        if topic.closing:
            work.close()
            return None
        topic.closing = True
        task = asyncio.get_running_loop().create_task(work)
        self._closing[topic.name] = task
        self._ending.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._closing.pop(topic.name, None)
            self._ending.discard(done)
            if not done.cancelled():
                done.exception()  # whoever waits has it; nobody may wait any more

        task.add_done_callback(ended)
        return task

    def abandon_all(self) -> None:
        """Drop every topic at once, and those on their way."""
        for task in list(self._loading.values()):
            task.cancel()
        for ending in list(self._ending):
            ending.cancel()
        for topic in self.all():
            topic.abandon()

    async def unload_all(self) -> list[MagnetarError]:
        """Close every topic in good order; answers with what went wrong. What `end` is at is
        given some time, and then left to be gone on with elsewhere."""
        for task in list(self._loading.values()):
            task.cancel()
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=self._limits.drain_timeout_s)
            for ending in late:
                ending.cancel()
        results = await asyncio.gather(
            *(self.unload(topic) for topic in self.all()), return_exceptions=True
        )
        return [result for result in results if isinstance(result, MagnetarError)]
