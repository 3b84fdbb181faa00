"""Which topics of a namespace there are, told to its watchers now and whenever that changes.

One reading of a namespace serves everybody who watches it. What a pattern may match is read
anew when the namespace's generation changed; what is watched by name, when its record did. Both
only say "look again": what counts is what is read afterwards, and what cannot be read leaves
the view as it was. A watcher's first list comes from a reading that began after it came.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from broker.settings import BrokerLimits
from broker.topic_catalog import CatalogTopic, TopicCatalog
from broker.topic_pattern import TopicPattern
from magnetar.errors import ConnectionFailed, InvalidArgument, MagnetarError, MetadataError
from magnetar.runtime.clock import Clock
from magnetar.topic import TopicName
from metadata.store import Cancel

MATCHED_A_TURN: Final = 1_000
"""Names that a pattern is held against before other work gets its turn."""
NAMES_AT_ONCE: Final = 32
LISTING_SHARE: Final = 0.25
"""Share of the time that is spent on listing a namespace at the most."""
LONGEST_PAUSE_S: Final = 1.0
RETRY_S: Final = 0.5

OnTopics = Callable[[list[CatalogTopic]], None]
OnEnded = Callable[[MagnetarError], None]

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class TopicWatcher:
    """One client's interest. `told` is called with everything that matches, by name."""

    told: OnTopics
    ended: OnEnded
    pattern: str
    names: frozenset[str]
    watch: NamespaceWatch
    first_reading: int = 0
    last: dict[str, int] | None = None


@dataclass(eq=False, slots=True)
class _Matching:
    """A pattern, its watchers, and what it matches of the namespace's last listing."""

    pattern: TopicPattern
    topics: dict[str, int] = field(default_factory=dict)
    watchers: set[TopicWatcher] = field(default_factory=set)
    matched: bool = False


@dataclass(eq=False, slots=True)
class _Named:
    """A topic watched by name; `partitions` is None while it does not exist."""

    cancel: Cancel
    partitions: int | None = None
    watchers: set[TopicWatcher] = field(default_factory=set)


class NamespaceWatch:
    """What is known of one namespace while somebody watches it; one task reads."""

    def __init__(
        self, catalog: TopicCatalog, tenant: str, namespace: str, clock: Clock,
        limits: BrokerLimits,
    ) -> None:
        self._catalog = catalog
        self._tenant = tenant
        self._namespace = namespace
        self._clock = clock
        self._limits = limits
        self._topics: dict[str, int] = {}
        self._patterns: dict[str, _Matching] = {}
        self._names: dict[str, _Named] = {}
        self._cancel_generation: Cancel | None = None
        self._list_again = False
        self._stale_names: set[str] = set()
        self._stale = asyncio.Event()
        self._readings = 0
        self._not_before_s = 0.0
        self._new: set[TopicWatcher] = set()
        self._changed: set[TopicWatcher] = set()
        self._task: asyncio.Task[None] | None = None
        self.watchers: set[TopicWatcher] = set()

    def add(self, watcher: TopicWatcher) -> None:
        """Tell it after the next reading. Raises InvalidArgument for a bad pattern, and
        ConnectionFailed when too many names are watched."""
        new_names = watcher.names - self._names.keys()
        if len(self._names) + len(new_names) > self._limits.watched_names:
            raise ConnectionFailed(
                f"{len(self._names)} topics of {self._tenant}/{self._namespace} are watched by"
                " name; watch by a pattern, or ask another broker"
            )
        if watcher.pattern:
            matching = self._patterns.get(watcher.pattern)
            if matching is None:
                matching = _Matching(TopicPattern(watcher.pattern))
                self._patterns[watcher.pattern] = matching
            matching.watchers.add(watcher)
            self._list_again = True
            if self._cancel_generation is None:
                self._cancel_generation = self._catalog.watch_namespace(
                    self._tenant, self._namespace, self._generation_changed
                )
        for name in new_names:
            cancel = self._catalog.watch_topic(
                TopicName.parse(name), partial(self._name_changed, name)
            )
            self._names[name] = _Named(cancel)
        for name in watcher.names:
            self._names[name].watchers.add(watcher)
        self._stale_names |= watcher.names
        watcher.first_reading = self._readings + 1
        self.watchers.add(watcher)
        self._new.add(watcher)
        self._stale.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._follow(), name=f"topics of {self._tenant}/{self._namespace}"
            )

    def remove(self, watcher: TopicWatcher) -> None:
        """Tell it nothing more."""
        self.watchers.discard(watcher)
        self._new.discard(watcher)
        self._changed.discard(watcher)
        matching = self._patterns.get(watcher.pattern)
        if matching is not None:
            matching.watchers.discard(watcher)
            if not matching.watchers:
                del self._patterns[watcher.pattern]
        for name in watcher.names:
            named = self._names.get(name)
            if named is not None:
                named.watchers.discard(watcher)
                if not named.watchers:
                    self._names.pop(name).cancel()
        if not self._patterns and self._cancel_generation is not None:
            self._cancel_generation()
            self._cancel_generation = None
            self._topics = {}
        if not self.watchers:
            self.stop()

    def stop(self) -> None:
        """End the task and every watch."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for named in self._names.values():
            named.cancel()
        self._names.clear()
        if self._cancel_generation is not None:
            self._cancel_generation()
            self._cancel_generation = None

    def _generation_changed(self) -> None:
        self._list_again = True
        self._stale.set()

    def _name_changed(self, name: str) -> None:
        self._stale_names.add(name)
        self._stale.set()

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._limits.listing_again_s):
                    await self._stale.wait()
            except TimeoutError:
                self._list_again = bool(self._patterns)
                self._stale_names = set(self._names)
            await self._clock.sleep(max(self._not_before_s - self._clock.monotonic_s(), 0.0))
            self._stale.clear()
            begun_s = self._clock.monotonic_s()
            self._readings += 1
            reading = self._readings
            try:
                await self._read()
            except MetadataError as error:
                _log.info(
                    "the topics of %s/%s cannot be read now: %s",
                    self._tenant, self._namespace, error,
                )
                self._stale.set()
                self._not_before_s = self._clock.monotonic_s() + RETRY_S
                continue
            now_s = self._clock.monotonic_s()
            pause_s = max(self._limits.listing_pause_s, (now_s - begun_s) / LISTING_SHARE)
            self._not_before_s = now_s + min(pause_s, LONGEST_PAUSE_S)
            self._tell(reading)

    async def _read(self) -> None:
        names, self._stale_names = self._stale_names & self._names.keys(), set()
        listing, self._list_again = self._list_again and bool(self._patterns), False
        try:
            await self._read_names(sorted(names))
            if listing:
                await self._match(
                    await self._catalog.partitions_by_topic(self._tenant, self._namespace)
                )
        except BaseException:
            self._stale_names |= names
            self._list_again = self._list_again or listing
            raise

    async def _read_names(self, names: list[str]) -> None:
        for start in range(0, len(names), NAMES_AT_ONCE):
            some = names[start : start + NAMES_AT_ONCE]
            found = await asyncio.gather(
                *(self._catalog.find(TopicName.parse(name)) for name in some)
            )
            for name, topic in zip(some, found, strict=True):
                named = self._names.get(name)
                partitions = None if topic is None else topic.partitions
                if named is not None and named.partitions != partitions:
                    named.partitions = partitions
                    self._changed |= named.watchers

    async def _match(self, topics: dict[str, int]) -> None:
        """Hold what is new against every pattern, and everything against a new pattern."""
        gone = self._topics.keys() - topics.keys()
        came = {
            name: partitions for name, partitions in topics.items()
            if self._topics.get(name) != partitions
        }
        for matching in list(self._patterns.values()):
            changed = False
            for name in gone:
                changed |= matching.topics.pop(name, None) is not None
            for count, name in enumerate(came if matching.matched else topics, start=1):
                if matching.pattern.matches(name):
                    changed = True
                    matching.topics[name] = topics[name]
                if count % MATCHED_A_TURN == 0:
                    await asyncio.sleep(0)
            matching.matched = True
            if changed:
                self._changed |= matching.watchers
        self._topics = topics

    def _tell(self, reading: int) -> None:
        ready = {one for one in self._new if one.first_reading <= reading}
        self._new -= ready
        waiting, self._changed = (self._changed | ready) - self._new, set()
        for watcher in waiting:
            if watcher not in self.watchers:
                continue
            topics = {
                name: partitions for name in watcher.names
                if (partitions := self._names[name].partitions) is not None
            }
            if watcher.pattern:
                topics |= self._patterns[watcher.pattern].topics
            if topics == watcher.last:
                continue
            if len(topics) > self._limits.topics_a_watch:
                watcher.ended(InvalidArgument(
                    f"{watcher.pattern!r} matches {len(topics)} topics, above"
                    f" {self._limits.topics_a_watch}; narrow it"
                ))
                continue
            watcher.last = topics
            watcher.told([CatalogTopic(name, topics[name]) for name in sorted(topics)])
