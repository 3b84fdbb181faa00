"""The asyncio shell of a range read."""

from __future__ import annotations

import asyncio

from ledger.bookie_client import BookieClient
from ledger.health import BookieHealth
from ledger.reader import Ask, RangeRead
from ledger.wire import ReadReply, Status, StoredEntry
from magnetar.ids import EntryId
from metadata.ledgers import LedgerMetadata


class RangeReading:
    """Runs range reads over a client; remembers who did not answer."""

    def __init__(self, client: BookieClient, health: BookieHealth) -> None:
        self._client = client
        self._health = health

    async def read(
        self,
        metadata: LedgerMetadata,
        first_entry: EntryId,
        last_entry: EntryId,
        max_entries: int,
        max_bytes: int,
    ) -> list[StoredEntry]:
        """At least one entry; raises EntryNotFound, EntryUnknown."""
        core = RangeRead(
            metadata, first_entry, last_entry, max_entries, max_bytes, self._health.suspects()
        )
        asks = core.begin()
        if len(asks) == 1:
            while asks:
                asks = core.on_reply(asks[0].run, await self._ask(asks[0]))
            if core.finished:
                return core.result()
        return await self._read_parallel(core, asks)

    async def _read_parallel(self, core: RangeRead, asks: list[Ask]) -> list[StoredEntry]:
        replies: asyncio.Queue[tuple[int, ReadReply]] = asyncio.Queue()

        async def ask_one(ask: Ask) -> None:
            replies.put_nowait((ask.run, await self._ask(ask)))

        tasks = [asyncio.create_task(ask_one(ask)) for ask in asks]
        try:
            while not core.finished:
                for ask in core.on_reply(*await replies.get()):
                    tasks.append(asyncio.create_task(ask_one(ask)))
        finally:
            for task in tasks:
                task.cancel()
        return core.result()

    async def _ask(self, ask: Ask) -> ReadReply:
        reply = await self._client.read(ask.bookie, ask.request)
        if reply.status is Status.UNKNOWN and not reply.entries:
            self._health.suspect(ask.bookie)
        return reply
