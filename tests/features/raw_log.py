"""A topic's log read raw: its ledgers from the bookies, entry by entry, past every broker."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ledger.bookie_client import FramedBookieClient
from ledger.driver import LedgerStore
from magnetar.entry import EntryView, parse_prefix
from magnetar.ids import EntryId
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.tcp import TcpNetwork
from metadata.bookies import BookieDirectory, BookieRepository
from metadata.cluster import read_cluster
from metadata.ledgers import LedgerRepository
from metadata.store import MetadataStore
from metadata.topics import TopicRepository

ENTRIES, BYTES = 1_000, 4 << 20


@asynccontextmanager
async def _ledgers(store: MetadataStore) -> AsyncIterator[LedgerStore]:
    bookies = BookieDirectory(BookieRepository(store))
    clock, chance = SystemClock(), random.Random()
    await bookies.start()
    key = (await read_cluster(store)).cluster_key
    client = FramedBookieClient(TcpNetwork(), bookies.address, key, clock, chance)
    try:
        yield LedgerStore(LedgerRepository(store), bookies, client, clock, chance)
    finally:
        await client.close()
        await bookies.stop()


async def raw_log(store: MetadataStore, topic: str) -> AsyncIterator[tuple[int, bytes]]:
    """(append time in ms, payload) of each message, in the log's order; up to what is certain to
    be confirmed, so publish one message more before."""
    record, _ = await TopicRepository(store).get(topic)
    async with _ledgers(store) as ledgers:
        for info in record.ledgers:
            reader = await ledgers.open(info.ledger_id)
            at = 0
            while at <= reader.last_entry:
                entries = await reader.read(EntryId(at), ENTRIES, BYTES)
                for entry in entries:
                    prefix, batch = parse_prefix(entry.body)
                    for payload in EntryView(batch).payloads():
                        yield prefix.append_time_ms, payload
                at += len(entries)
