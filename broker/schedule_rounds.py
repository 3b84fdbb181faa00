"""Finds topics whose scheduled messages wait while no broker has them loaded.

Messages fire at a topic's owner only. An owner that died, or gave the topic up, leaves them
waiting until somebody loads the topic again, and perhaps no client ever asks. So each broker looks
through its share of the topics that are marked for having a schedule: often, and at once when
another broker goes. First those whose owner, as last seen, is gone; then, slowly, the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from broker.ownership import Ownership, preferred
from broker.settings import BrokerLimits
from broker.topic_registry import TopicRegistry
from broker.topic_rounds import Visit
from magnetar.errors import InvalidArgument, MagnetarError, NotFound
from magnetar.ids import LedgerId
from magnetar.runtime.clock import Clock
from metadata.brokers import BrokerDirectory
from metadata.store import MetadataStore
from metadata.topics import Owner, TopicRepository

_log = logging.getLogger(__name__)


class ScheduleRounds:
    """Of one broker."""

    def __init__(
        self, store: MetadataStore, registry: TopicRegistry, ownership: Ownership,
        directory: BrokerDirectory, broker_id: str, is_serving: Callable[[], bool],
        open_topic: Visit, clock: Clock, limits: BrokerLimits,
    ) -> None:
        self._topics = TopicRepository(store)
        self._registry = registry
        self._ownership = ownership
        self._directory = directory
        self._broker_id = broker_id
        self._is_serving = is_serving
        self._open_topic = open_topic
        self._clock = clock
        self._limits = limits
        self._left: set[str] = set()
        """Topics that closed here while messages waited, ours to look after if nobody else is."""
        self._owners: dict[str, Owner] = {}
        """Of the marked topics of our share that live elsewhere, as last seen."""
        self._soon = asyncio.Event()
        self.visits = 0
        """Topics loaded because something waits in their schedule."""

    def look_soon(self) -> None:
        """A broker came or went."""
        self._soon.set()

    def left(self, name: str) -> None:
        """This broker does not serve the topic any more, and messages wait in its schedule."""
        self._left.add(name)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self._soon.clear()
            try:
                if self._is_serving():
                    await self.walk()
            except MagnetarError as error:
                _log.info("the round over schedules is put off: %s", error)
            except Exception:
                _log.exception("the round over schedules failed")
            try:
                async with asyncio.timeout(self._limits.schedule_round_interval_s):
                    await self._soon.wait()
            except TimeoutError:
                continue

    async def walk(self) -> None:
        """One round, cut short when there is news. Raises what the metadata store raises."""
        orphaned: list[tuple[str, list[LedgerId]]] = []
        others: list[tuple[str, list[LedgerId]]] = []
        owners: dict[str, Owner] = {}
        unmarked = set(self._left)
        async for part in self._topics.scheduled.in_parts():
            unmarked.difference_update(part)
            for name, marks in part.items():
                if not self._is_mine(name):
                    continue
                owner = self._owners.get(name)
                if owner is not None and self._seems_alive(owner):
                    owners[name] = owner
                    others.append((name, marks))
                else:
                    orphaned.append((name, marks))
        self._owners = owners
        self._left -= unmarked
        await self._look_at_all(orphaned)
        for name, marks in others:
            if self._soon.is_set():
                return
            await self._look_at(name, marks)
            await self._clock.sleep(1 / self._limits.schedule_round_reads_a_second)

    def _is_mine(self, name: str) -> bool:
        if name in self._left:
            return True
        chosen = preferred(name, self._directory.all())
        return chosen is not None and chosen.broker_id == self._broker_id

    def _seems_alive(self, owner: Owner) -> bool:
        broker = self._directory.get(owner.broker_id)
        return broker is not None and broker.incarnation == owner.incarnation

    async def _look_at_all(self, marked: Iterable[tuple[str, list[LedgerId]]]) -> None:
        """Loading takes a while where bookies are slow, so some at a time."""
        waiting = iter(marked)

        async def work() -> None:
            for name, marks in waiting:
                await self._look_at(name, marks)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._limits.schedule_round_visits_at_once):
                group.create_task(work())

    async def _look_at(self, name: str, marks: list[LedgerId]) -> None:
        try:
            await self._look(name, marks)
        except MagnetarError as error:
            _log.info("%s is not loaded for its schedule in this round: %s", name, error)

    async def _look(self, name: str, marks: list[LedgerId]) -> None:
        here = self._registry.get(name)
        if here is not None and here.log.log.record.has_schedule:
            await self._topics.scheduled.unmark(name, marks[:-1])  # the newest says enough
            return
        try:
            record, _ = await self._topics.get(name)
        except (NotFound, InvalidArgument):  # deleted; or a partitioned topic has its name now
            await self._forget(name, marks)
            return
        if not record.has_schedule:
            await self._forget(name, marks)
            return
        await self._topics.scheduled.unmark(name, marks[:-1])
        if here is not None or record.deleting:
            return
        owner = record.owner
        alive = None if owner is None else await self._ownership.owner_alive(owner)
        if owner is not None and alive is not None and alive.broker_id != self._broker_id:
            self._owners[name] = owner
            self._left.discard(name)
            return
        self.visits += 1
        await self._open_topic(name)
        self._left.discard(name)

    async def _forget(self, name: str, marks: list[LedgerId]) -> None:
        self._left.discard(name)
        self._owners.pop(name, None)
        await self._topics.scheduled.unmark(name, marks)
