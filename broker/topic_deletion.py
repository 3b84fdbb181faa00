"""Deletes topics, and goes on with deletions that something interrupted.

    mark the record      from here on the topic is not there any more, whatever happens
    fence                nobody's acknowledgement comes after this
    delete ledgers       of messages, of state, of whatever else the record names
    delete its policies  unless it is a partition: those belong to the whole topic
    delete the record    a topic of the same name is a new one

Each step can be done twice. A deletion belongs to the topic's owner, as everything does: one that
finds the mark takes the record by compare-and-set first, unless the owner lives and is at it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from broker.topic_catalog import TopicCatalog
from ledger.driver import LedgerStore
from magnetar.errors import BadVersion, ConnectionFailed, LedgerError, LedgerNotFound, NotFound
from magnetar.topic import TopicName
from metadata.brokers import BrokerRegistration
from metadata.store import MetadataStore
from metadata.tenants import PolicyRepository
from metadata.topic_nodes import TopicVersion
from metadata.topics import Owner, TopicRecord, TopicRepository

DELETED_AT_ONCE = 16
"""Ledgers whose records are deleted at the same time."""

_log = logging.getLogger(__name__)


class TopicDeletion:
    """Of all topics. Every method may raise MetadataError, after which the deletion is to be
    finished later."""

    def __init__(
        self, store: MetadataStore, catalog: TopicCatalog, ledgers: LedgerStore,
        me: Callable[[], BrokerRegistration],
    ) -> None:
        self._topics = TopicRepository(store)
        self._policies = PolicyRepository(store)
        self._catalog = catalog
        self._ledgers = ledgers
        self._me = me
        self._finishing: dict[str, asyncio.Task[None]] = {}

    async def complete(self, name: str, mine: Owner) -> None:
        """The rest of a deletion that this broker marked, as the owner, and whose log it has
        closed to everybody."""
        record, version = await self._topics.get(name)
        if record.deleting and record.owner == mine:
            await self._delete(record, version)

    async def finish(self, name: str) -> None:
        """Go on with an interrupted deletion. Raises ConnectionFailed while too few bookies
        answer to be sure that the former owner is stopped."""
        task = self._finishing.get(name)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._finish(name))
            self._finishing[name] = task
            task.add_done_callback(lambda _done: self._finishing.pop(name, None))
        await asyncio.shield(task)

    async def stop(self) -> None:
        """Leave what is not finished to others."""
        tasks = [*self._finishing.values()]
        self.abandon()
        await asyncio.gather(*tasks, return_exceptions=True)

    def abandon(self) -> None:
        """As `stop`, without waiting."""
        for task in self._finishing.values():
            task.cancel()

    async def _finish(self, name: str) -> None:
        me = self._me()
        try:
            record, version = await self._topics.get(name)
            if not record.deleting:
                return
            _log.info("goes on with the deletion of %s", name)
            # Of this very record: a topic that is made again meanwhile is none to be claimed.
            epoch = record.owner.epoch + 1 if record.owner is not None else 1
            record = replace(record, owner=Owner(me.broker_id, me.incarnation, epoch))
            version = await self._topics.update(record, version)
        except NotFound:
            return
        except BadVersion as error:
            raise ConnectionFailed(f"another broker is deleting {name}; try again") from error
        await self._fence(record)
        await self._delete(record, version)

    async def _fence(self, record: TopicRecord) -> None:
        open_ledgers = [info.ledger_id for info in record.ledgers if not info.closed_ms]
        for ledger_id in (*open_ledgers, *record.state_ledgers, *record.schedule_ledgers):
            try:
                await self._ledgers.recover(ledger_id)
            except LedgerNotFound:
                continue
            except LedgerError as error:
                raise ConnectionFailed(
                    f"{record.name} is being deleted, and its former owner cannot be stopped for"
                    f" certain: {error}; try again"
                ) from error

    async def _delete(self, record: TopicRecord, version: TopicVersion) -> None:
        ledgers = record.every_ledger
        for start in range(0, len(ledgers), DELETED_AT_ONCE):
            some = ledgers[start : start + DELETED_AT_ONCE]
            await asyncio.gather(*map(self._ledgers.delete, some))
        name = TopicName.parse(record.name)
        if name.partition < 0:
            await self._delete_policies(record.name)
        try:
            await self._topics.delete(record.name, version)
        except (NotFound, BadVersion):
            return  # another broker finished it
        _log.info("deleted %s and its %d ledgers", record.name, len(ledgers))
        await self._catalog.tell_changed(name)

    async def _delete_policies(self, name: str) -> None:
        try:
            _, version = await self._policies.get_topic(name)
            await self._policies.delete_topic(name, version)
        except (NotFound, BadVersion):
            return  # there were none, or somebody sets them for the topic to come
