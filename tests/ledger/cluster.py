"""Bookies in memory under real metadata (the embedded store in memory): what most tests need."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ledger.driver import LedgerLimits, LedgerStore
from ledger.managed_log import LogPolicy, ManagedLog
from ledger.position import Position
from ledger.quorum import Quorums
from magnetar.errors import LedgerError
from magnetar.ids import BookieId, BrokerId, EntryId
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.network import Address
from metadata.bookies import BookieDirectory, BookieRegistration, BookieRepository
from metadata.embedded import EmbeddedStore
from metadata.ledgers import LedgerRepository
from metadata.store import MetadataStore
from metadata.topics import TopicRecord, TopicRepository
from tests.ledger.memory_bookies import MemoryBookies

TOPIC = "persistent://public/default/orders"
LIMITS = LedgerLimits(
    quarantine_min_s=0.01, quarantine_max_s=0.05, recovery_retry_s=0.001, recovery_attempts=2,
    bookies_retry_s=0.05, metadata_retry_min_s=0.001, overload_pause_min_s=0.001,
)
WAIT_S = 5.0


class Cluster:
    """Registered bookies, a session, and stores made on demand."""

    def __init__(self, embedded: EmbeddedStore, session: MetadataStore, names: list[str]) -> None:
        self.embedded = embedded
        self.session = session
        self.names = names
        self.bookies = MemoryBookies(*names)
        self.repository = BookieRepository(session)
        self.directory = BookieDirectory(self.repository)
        self.ledgers = LedgerRepository(session)
        self.topics = TopicRepository(session)
        self.store = self.new_store()

    def new_store(self, seed: int = 1, limits: LedgerLimits = LIMITS) -> LedgerStore:
        return LedgerStore(
            self.ledgers, self.directory, self.bookies, SystemClock(), random.Random(seed), limits
        )

    async def register(self, name: str, incarnation: str = "1", read_only: bool = False) -> None:
        await self.repository.register(
            BookieRegistration(
                BookieId(name), Address("127.0.0.1", 1), None, read_only=read_only,
                incarnation=incarnation,
            )
        )
        await until(lambda: any(
            one.bookie_id == name and one.incarnation == incarnation
            for one in self.directory.all()
        ))

    async def unregister(self, name: str) -> None:
        await self.repository.unregister(BookieId(name))
        await until(lambda: all(one.bookie_id != name for one in self.directory.all()))

    async def create_topic(self) -> None:
        await self.topics.create(TopicRecord(TOPIC))

    async def open_log(
        self, broker: str = "b1", policy: LogPolicy | None = None, seed: int = 1
    ) -> tuple[ManagedLog, list[LedgerError]]:
        fenced: list[LedgerError] = []
        log = await ManagedLog.open(
            TOPIC, BrokerId(broker), f"{broker}-1", topics=self.topics,
            ledgers=self.new_store(seed), clock=SystemClock(),
            policy=policy or LogPolicy(Quorums(3, 3, 2)), on_fenced=fenced.append,
        )
        return log, fenced


@asynccontextmanager
async def cluster(*names: str) -> AsyncIterator[Cluster]:
    embedded = EmbeddedStore.open(None)
    session = embedded.open_session()
    made = Cluster(embedded, session, list(names))
    await made.directory.start()
    for name in names:
        await made.register(name)
    try:
        yield made
    finally:
        await made.directory.stop()
        await session.close()
        await embedded.close()


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds; fails after a while."""
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0)


class Results:
    """Collects what callbacks are told."""

    def __init__(self) -> None:
        self.all: list[Position | EntryId | LedgerError] = []

    def __call__(self, result: Position | EntryId | LedgerError) -> None:
        self.all.append(result)

    async def wait(self, count: int) -> None:
        await until(lambda: len(self.all) >= count)

    @property
    def errors(self) -> list[LedgerError]:
        return [one for one in self.all if isinstance(one, LedgerError)]


async def append(log: ManagedLog, *bodies: bytes) -> list[Position]:
    """Append and wait; fails on an error."""
    results = Results()
    for body in bodies:
        log.append(body, results)
    await results.wait(len(bodies))
    assert not results.errors, results.errors
    return [one for one in results.all if isinstance(one, Position)]


async def read_all(log: ManagedLog) -> list[bytes]:
    found: list[bytes] = []
    at = log.first_position
    while entries := await log.read(at, 10, 1 << 20):
        found += [entry.body for entry in entries]
        at = log.position_after(entries[-1].position)
    return found


__all__ = [
    "LIMITS", "TOPIC", "Cluster", "Results", "append", "cluster", "read_all", "until",
]
