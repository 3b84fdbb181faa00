"""The links of one consumer or reader to all of its topics, as those come, grow and go."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final, Generic, TypeVar

from magnetar.backoff import Backoff
from magnetar.connection import Connections
from magnetar.consumer_link import ConsumerLink
from magnetar.errors import AlreadyClosed, MagnetarError, OperationTimeout, TopicNotFound
from magnetar.merged_receive import MergedReceive
from magnetar.together import all_done
from magnetar.topic import TopicName
from magnetar.topic_choice import TopicPattern, expanded
from magnetar.topic_watch import TopicWatches

OPENED_AT_ONCE: Final = 16
REOPEN_MOST_S: Final = 10.0
"""Longest wait before a topic that came later, and could not be opened, is tried again."""

_log = logging.getLogger(__name__)

Link = TypeVar("Link", bound=ConsumerLink)
Make = Callable[[TopicName, bool], Link]
"""A link to a topic; told whether the topic came after the beginning."""
Close = Callable[[Link], Coroutine[Any, Any, None]]


class TopicMembers(Generic[Link]):
    """Opens a link for each plain topic and each partition, and keeps up with what there is."""

    def __init__(
        self, connections: Connections, watches: TopicWatches,
        choice: tuple[TopicName, ...] | TopicPattern, make: Make[Link], close: Close[Link],
        joined: Callable[[Link], None] = lambda _link: None,
    ) -> None:
        self._connections = connections
        self._watches = watches
        self._choice = choice
        self._make = make
        self._close = close
        self._joined = joined
        """Told of a link that is open, before anything comes on it."""
        self.merged: MergedReceive[Link] = MergedReceive(self._trouble)
        self.links: dict[str, Link] = {}
        """By the full name of the topic or partition. What other threads may ask, those of
        `magnetar.sync`, goes over a copy, since links come and go meanwhile."""
        self._partitions: dict[str, int] = {}
        self._ended: dict[str, MagnetarError] = {}
        """Not opened again, and why."""
        self._told: set[str] = set()
        """That they cannot be opened was told."""
        self._changed = asyncio.Event()
        self._opening = asyncio.Lock()
        self._unwatch: list[Callable[[], None]] = []
        self._following: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def bases(self) -> list[str]:
        """The topics as users name them."""
        return list(self._partitions)

    def why_ended(self, topic: str) -> MagnetarError | None:
        """Why there is no link to the topic any more, if that was told."""
        return self._ended.get(topic)

    async def open(self, deadline_s: float) -> None:
        """Open them all, or none: raises the first error, with its topic."""
        try:
            if isinstance(self._choice, TopicPattern):
                await self._find_matching(self._choice, deadline_s)
            else:
                await self._find_named(self._choice, deadline_s)
            errors = await self._open_some(expanded(self._partitions), deadline_s, later=False)
            for error in errors.values():
                if not self._is_gone(error):
                    raise error
        except BaseException:
            await self.close()
            raise
        self._following = asyncio.get_running_loop().create_task(
            self._follow(), name="magnetar topics of a consumer")

    async def for_all(self, work: Callable[[Link], Coroutine[Any, Any, Any]]) -> list[Any]:
        """Do it with every link at once; raises the first error, with its topic."""
        links = dict(self.links)
        results = await asyncio.gather(
            *(work(link) for link in links.values()), return_exceptions=True)
        for topic, result in zip(links, results, strict=True):
            if isinstance(result, MagnetarError):
                raise of_topic(result, topic)
            if isinstance(result, BaseException):
                raise result
        return results

    async def close(self) -> None:
        """Close every link; raises the first error among what closing them raises."""
        self.merged.finish(AlreadyClosed("the consumer is closed"))
        following = self._stop_following()
        if following is not None:
            await asyncio.gather(following, return_exceptions=True)
        try:
            await self.for_all(self._close)
        finally:
            await asyncio.gather(*self._closing, return_exceptions=True)

    async def open_no_more(self) -> None:
        """Returns when what is being opened is open, or could not be."""
        async with self._opening:
            self._stop_following()

    def _stop_following(self) -> asyncio.Task[None] | None:
        for cancel in self._unwatch:
            cancel()
        self._unwatch.clear()
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
        return following

    # What there is.

    async def _find_named(self, names: Iterable[TopicName], deadline_s: float) -> None:
        room = asyncio.Semaphore(OPENED_AT_ONCE)

        async def find(name: TopicName) -> int:
            if name.partition >= 0 or not name.persistent:
                return 0
            async with room:
                return await self._connections.partitions_of(name.full, deadline_s)

        counts = await asyncio.gather(*map(find, names))
        for name, count in zip(names, counts, strict=True):
            self._partitions[name.full] = count
            if count:
                self._unwatch.append(
                    self._watches.by_name(name, partial(self._grown, name)))

    def _grown(self, name: TopicName, partitions: int | None) -> None:
        if partitions is not None and partitions > self._partitions[name.full]:
            self._partitions[name.full] = partitions
            self._changed.set()

    async def _find_matching(self, pattern: TopicPattern, deadline_s: float) -> None:
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(topics: dict[str, int]) -> None:
            self._partitions = topics
            self._changed.set()
            if not first.done():
                first.set_result(None)

        def failed(error: MagnetarError) -> None:
            if not first.done():
                first.set_exception(error)
            else:
                self.merged.report(error)

        self._unwatch.append(
            self._watches.by_pattern(pattern.namespace, pattern.expression, told, failed))
        try:
            async with asyncio.timeout(deadline_s - self._connections.clock.monotonic_s()):
                await first
        except TimeoutError as error:
            raise OperationTimeout(
                f"no broker told in time which topics match {pattern.text!r}") from error

    # Coming and going.

    async def _follow(self) -> None:
        backoff = Backoff(self._connections.random, most_s=REOPEN_MOST_S)
        wait_s: float | None = None
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            wanted = {name.full: name for name in expanded(self._partitions)}
            if isinstance(self._choice, TopicPattern):
                self._drop(self.links.keys() - wanted.keys())
                self._ended = {
                    full: error for full, error in self._ended.items() if full in wanted}
            missing = [
                name for full, name in wanted.items()
                if full not in self.links and full not in self._ended
            ]
            clock, settings = self._connections.clock, self._connections.settings
            async with self._opening:
                errors = await self._open_some(
                    missing, clock.monotonic_s() + settings.operation_timeout_s, later=True)
            for full, error in errors.items():
                if self._is_gone(error):
                    continue  # until its end, or its new beginning, is told
                if full not in self._told:
                    self._told.add(full)
                    self.merged.report(error)
                _log.warning("a topic cannot be opened now, trying again: %s", error)
            self._told &= errors.keys()
            if errors:
                wait_s = backoff.next_s()
            else:
                wait_s = None
                backoff.reset()

    async def _open_some(
        self, names: list[TopicName], deadline_s: float, *, later: bool
    ) -> dict[str, MagnetarError]:
        """Those that could not be opened."""
        room = asyncio.Semaphore(OPENED_AT_ONCE)
        errors: dict[str, MagnetarError] = {}
        count = len(self.links) + len(names)

        async def open_one(name: TopicName) -> None:
            link = self._make(name, later)
            link.must_exist = isinstance(self._choice, TopicPattern)
            link.share_window(count)
            try:
                async with room:
                    await link.open(deadline_s)
            except MagnetarError as error:
                await self._close_quietly(link)
                errors[name.full] = of_topic(error, name.full)
            except BaseException:
                await self._close_quietly(link)
                raise
            else:
                self.links[name.full] = link
                self._joined(link)
                self.merged.add(link)

        try:
            await all_done(map(open_one, names))
        finally:
            self._share()
        return errors

    def _drop(self, gone: Iterable[str]) -> None:
        for full in sorted(gone):
            link = self.links.pop(full)
            self.merged.remove(link)
            task = asyncio.get_running_loop().create_task(self._close_quietly(link))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._share()

    async def _close_quietly(self, link: Link) -> None:
        try:
            await self._close(link)
        except MagnetarError as error:
            _log.debug("%s is given up, and its link ended with: %s", link.topic, error)

    def _trouble(self, link: Link, error: MagnetarError) -> MagnetarError | None:
        """A link that ended is given up; of one that goes on the error tells its topic itself."""
        if not link.closed:
            return error
        self.merged.remove(link)
        error = of_topic(error, link.topic)
        gone = self._is_gone(error)
        if self.links.get(link.topic) is link:
            del self.links[link.topic]
            if gone:
                self._changed.set()  # it may have been made again
            else:
                self._ended[link.topic] = error
            self._share()
        if isinstance(self._choice, TopicPattern):
            return None if gone else error
        if not self.links and all(
            name.full in self._ended for name in expanded(self._partitions)
        ):
            # Nothing is left, and nothing can come: this is what ended it all.
            self._stop_following()
            self.merged.finish(error)
            return None
        return error

    def _is_gone(self, error: MagnetarError) -> bool:
        """Topics that match a pattern come and go without an error."""
        return isinstance(error, TopicNotFound) and isinstance(self._choice, TopicPattern)

    def _share(self) -> None:
        """One budget of what is fetched ahead, however many topics there are."""
        count = max(len(self.links), 1)
        for link in self.links.values():
            link.share_window(count)


def of_topic(error: MagnetarError, topic: str) -> MagnetarError:
    """The same error, saying which topic it is about."""
    text = str(error)
    if topic in text:
        return error
    named = copy.copy(error)
    named.args = (f"{topic}: {text}",)
    named.__cause__ = error
    return named
