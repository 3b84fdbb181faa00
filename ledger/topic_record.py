"""A topic's record as its owner holds it: taken by CAS, changed by CAS, lost for ever at the
first sign of another owner (M2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from ledger.limits import LedgerLimits
from magnetar.errors import (
    AlreadyClosed,
    BadVersion,
    ConnectionLoss,
    LedgerFenced,
    MetadataError,
    NotFound,
    SessionExpired,
)
from magnetar.ids import BrokerId, LedgerId
from magnetar.runtime.clock import Clock
from metadata.topic_nodes import TopicVersion
from metadata.topics import Owner, TopicRecord, TopicRepository

MAX_CLAIM_ATTEMPTS: Final = 5

MayTake = Callable[[Owner | None], Awaitable[bool]]
"""Whether the topic may be taken from this owner, as the record names it."""


async def from_anybody(_owner: Owner | None) -> bool:
    """Whoever it is."""
    return True


class OwnedTopic:
    """The record and its version; `update` is the only way to change it."""

    def __init__(
        self,
        topics: TopicRepository,
        record: TopicRecord,
        version: TopicVersion,
        owner: Owner,
        clock: Clock,
        limits: LedgerLimits,
    ) -> None:
        self._topics = topics
        self._clock = clock
        self._limits = limits
        self._version = version
        self._lock = asyncio.Lock()
        self._fenced: LedgerFenced | None = None
        self._unheard: TopicRecord | None = None
        """Perhaps written: whoever asked for it was cancelled before the answer came."""
        self.record = record
        self.owner = owner
        self.deleted: set[LedgerId] = set()
        """Doomed ledgers that are gone, to be dropped from the record when it is next written."""

    @classmethod
    async def claim(
        cls,
        topics: TopicRepository,
        topic: str,
        broker_id: BrokerId,
        incarnation: str,
        clock: Clock,
        limits: LedgerLimits,
        may_take: MayTake = from_anybody,
    ) -> OwnedTopic:
        """Become the owner, with an epoch above all before.

        Raises NotFound without such a topic, LedgerFenced when it may not be taken or another
        took it meanwhile, ConnectionLoss, SessionExpired.
        """
        record, version = await topics.get(topic)
        found = record.owner
        if not await may_take(found):
            raise LedgerFenced(f"{topic} is owned by {found}")
        for _ in range(MAX_CLAIM_ATTEMPTS):
            if record.owner != found:
                break
            owner = Owner(broker_id, incarnation, found.epoch + 1 if found is not None else 1)
            claimed = replace(record, owner=owner)
            try:
                version = await topics.update(claimed, version)
            except BadVersion:
                record, version = await topics.get(topic)
                continue
            return cls(topics, claimed, version, owner, clock, limits)
        raise LedgerFenced(f"{topic} was taken by {record.owner}")

    def fence(self, reason: str) -> None:
        """Never write again."""
        if self._fenced is None:
            self._fenced = LedgerFenced(f"{self.record.name} is not owned any more: {reason}")

    async def may_name(self, ledger_id: LedgerId) -> bool:
        """False only if the record, as read now, certainly does not name the ledger."""
        try:
            record, _ = await self._topics.get(self.record.name)
        except NotFound:
            return False
        except MetadataError:
            return True
        return ledger_id in record.every_ledger

    async def mark_scheduled(self, ledger_id: LedgerId) -> None:
        """Have brokers find the topic for its schedule when nobody has it loaded. Raises
        LedgerFenced when the session ended; goes on asking while the metadata does not answer."""
        pause_s = self._limits.metadata_retry_min_s
        while self._fenced is None:
            try:
                return await self._topics.scheduled.mark(self.record.name, ledger_id)
            except ConnectionLoss:
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * 2, self._limits.metadata_retry_max_s)
            except (AlreadyClosed, SessionExpired) as error:
                self.fence(str(error))
        raise self._fenced

    async def drop_deleted(self) -> None:
        """Name doomed ledgers no more that are gone. Raises LedgerFenced."""
        if self.deleted:
            await self.update(lambda record: replace(record, doomed_ledgers=tuple(
                one for one in record.doomed_ledgers if one not in self.deleted
            )))

    async def update(self, change: Callable[[TopicRecord], TopicRecord]) -> TopicRecord:
        """Apply a pure change to the record; one at a time, in the order of the calls.

        Raises LedgerFenced, now and ever after, when the record was changed by another, is gone,
        or the session ended. Goes on asking while the metadata does not answer.
        """
        async with self._lock:
            if self._fenced is not None:
                raise self._fenced
            try:
                if self._unheard is not None:
                    await self._hear(self._unheard)
                wanted = change(self.record)
                if wanted == self.record:
                    return wanted
                doomed = tuple(one for one in wanted.doomed_ledgers if one not in self.deleted)
                wanted = replace(wanted, doomed_ledgers=doomed)
                self._unheard = wanted
                self._version = await self._write(wanted)
            except (AlreadyClosed, BadVersion, NotFound, SessionExpired) as error:
                self.fence(str(error))
                assert self._fenced is not None
                raise self._fenced from error
            self.record, self._unheard = wanted, None
            self.deleted.clear()
            return wanted

    async def _hear(self, unheard: TopicRecord) -> None:
        """Whether that was written. If it is neither as it was nor so, another wrote, which the
        next write finds."""
        while True:
            try:
                record, version = await self._topics.get(unheard.name)
                break
            except ConnectionLoss:
                if self._fenced is not None:
                    raise self._fenced from None
                await self._clock.sleep(self._limits.metadata_retry_max_s)
        if version.node == self._version.node + 1 and record == unheard:
            self.record, self._version = unheard, version
        self._unheard = None

    async def _write(self, wanted: TopicRecord) -> TopicVersion:
        pause_s = self._limits.metadata_retry_min_s
        lost = False
        while True:
            if self._fenced is not None:
                raise BadVersion(str(self._fenced))
            try:
                return await self._topics.update(wanted, self._version)
            except ConnectionLoss:
                lost = True
            except BadVersion:
                if not lost:
                    raise
                version = await self._settled(wanted)
                if version is not None:
                    return version
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, self._limits.metadata_retry_max_s)

    async def _settled(self, wanted: TopicRecord) -> TopicVersion | None:
        """The version our own write got although its answer was lost; None: ask again."""
        try:
            record, version = await self._topics.get(wanted.name)
        except ConnectionLoss:
            return None
        if version.node == self._version.node + 1 and record == wanted:
            return version
        raise BadVersion(f"{wanted.name} was changed by another")
