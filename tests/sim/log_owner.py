"""Brokers without topics: competing owners of one managed log, straight on the ledger room."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ledger.driver import LedgerLimits, LedgerStore
from ledger.framed_client import BookieClientLimits, FramedBookieClient
from ledger.managed_log import LogPolicy, ManagedLog
from ledger.position import Position
from magnetar.errors import LedgerClosed, LedgerError, MagnetarError
from magnetar.ids import BrokerId, EntryId
from metadata.bookies import BookieRepository
from metadata.ledgers import LedgerRepository
from metadata.topics import TopicRepository
from tests.sim.history import Place
from tests.sim.network import SimNetwork
from tests.sim.processes import Process
from tests.sim.rare_states import RecordingClient

if TYPE_CHECKING:
    from tests.sim.world import World

TOPIC = "persistent://public/default/sim"


class LedgerUser(Process):
    """A process with a ledger store of its own."""

    async def open_ledgers(self) -> LedgerStore:
        """Directory, client and store, as a broker puts them together."""
        assert self.host is not None and self.store is not None
        world, chance = self.world, self.chance()
        directory = BookieRepository(self.store).directory()
        while True:
            try:
                await directory.start()
                break
            except MagnetarError:
                await self.clock.sleep(0.1)
        client = FramedBookieClient(
            SimNetwork(world.fabric, self.host), directory.address, world.cluster_key, self.clock,
            chance,
            BookieClientLimits(
                add_timeout_s=world.config.add_timeout_s, read_timeout_s=0.7,
                connect_timeout_s=0.5, backoff_max_s=0.4,
            ),
        )
        limits = LedgerLimits(
            slow_bookie_bytes=world.config.slow_bookie_bytes, quarantine_min_s=0.2,
            quarantine_max_s=2.0, bookies_retry_s=0.3,
        )
        return LedgerStore(
            LedgerRepository(self.store), directory,
            RecordingClient(client, self.name, world), self.clock, chance, limits,
        )

    async def open_log(
        self, ledgers: LedgerStore, on_fenced: asyncio.Event, topic: str = TOPIC
    ) -> ManagedLog:
        assert self.store is not None
        config = self.world.config
        return await ManagedLog.open(
            topic, BrokerId(self.name), self.incarnation,
            topics=TopicRepository(self.store), ledgers=ledgers, clock=self.clock,
            policy=LogPolicy(config.quorums, max_ledger_entries=config.max_ledger_entries),
            on_fenced=lambda error: on_fenced.set(),
        )


class LogOwner(LedgerUser):
    """Appends numbered bodies while it is told to lead, until another fences it."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.log: ManagedLog | None = None
        self.terms = 0

    def begin(self) -> None:
        self.log = None

    async def main(self) -> None:
        ledgers = await self.open_ledgers()
        while True:
            await self.world.leading(self)
            fenced = asyncio.Event()
            try:
                log = await self.open_log(ledgers, fenced)
                await self._lead(log, fenced)
            except MagnetarError as error:
                self.world.trace.note("term ends", f"{self.incarnation} {type(error).__name__}")
                await self.clock.sleep(0.05)

    async def _lead(self, log: ManagedLog, fenced: asyncio.Event) -> None:
        self.terms += 1
        self.log = log
        producer = f"{self.incarnation}.{self.terms}"
        await self._check_state(log, producer)
        readers = asyncio.ensure_future(self._tail(log, fenced))
        try:
            await self._append(log, producer, fenced)
        finally:
            self.log = None
            readers.cancel()

    async def _append(self, log: ManagedLog, producer: str, fenced: asyncio.Event) -> None:
        world, config = self.world, self.world.config
        history, chance = world.history, self.chance()
        sequence = 0
        while not fenced.is_set() and not world.enough_published():
            if world.quiet:
                await self.clock.sleep(0.02)
                continue
            for _ in range(config.burst):
                history.sent(producer, sequence, world.loop.time())
                log.append(
                    f"{producer}/{sequence}/".encode() + b"x" * chance.randrange(60),
                    self._on_done(producer, sequence),
                )
                sequence += 1
            if chance.random() < 0.3:
                world.append_state(log, producer)
            if chance.random() < 0.02:
                await log.roll()
            waited_s = 0.0
            while history.unsettled(producer) > 2 * config.burst and not fenced.is_set():
                await self.clock.sleep(0.01)
                waited_s += 0.01
            await self.clock.sleep(config.gap_s * chance.uniform(0.5, 1.5))
        if not fenced.is_set():
            await fenced.wait()

    def _on_done(self, producer: str, sequence: int):  # type: ignore[no-untyped-def]
        world = self.world

        def done(outcome: Position | LedgerError) -> None:
            if isinstance(outcome, Position):
                place = Place(outcome.ledger_id, outcome.entry_id)
                world.history.acked(producer, sequence, place, world.loop.time())
            elif isinstance(outcome, LedgerClosed):
                world.history.failed(producer, sequence)
            else:
                world.history.unknown(producer, sequence)

        return done

    async def _check_state(self, log: ManagedLog, producer: str) -> None:
        """A new owner sees every state record whose write was confirmed (M4); one that has been
        replaced while it opened cannot, and is fenced by its first ledger."""
        world = self.world
        confirmed = world.state_confirmed()
        record = world.audit.topics.get(TOPIC)
        if record is None or record.owner != log.owner:
            confirmed = []
        records = await log.state.replay()
        world.check_state([bytes(one) for one in records], confirmed, producer)

    async def _tail(self, log: ManagedLog, fenced: asyncio.Event) -> None:
        """Reads behind the appends; what is read must be in the log for good (I7)."""
        world = self.world
        at = log.first_position
        while not fenced.is_set():
            try:
                entries = await log.read(at, 100, 1 << 20)
            except MagnetarError:
                entries = []
            for entry in entries:
                self.world.note_entry(self.incarnation, entry)
                at = log.position_after(entry.position)
            await self.clock.sleep(0.1 if not entries else 0.02)
            if world.healed and not entries:
                await self.clock.sleep(0.3)


class Tailer(LedgerUser):
    """Reads open ledgers without recovery, as readers elsewhere do (R15)."""

    async def main(self) -> None:
        assert self.store is not None
        ledgers = await self.open_ledgers()
        topics = TopicRepository(self.store)
        seen: dict[int, int] = {}
        while not self.world.healed:
            await self.clock.sleep(0.15)
            try:
                record, _ = await topics.get(TOPIC)
                for info in record.ledgers[-1:]:
                    reader = await ledgers.open(info.ledger_id)
                    first = seen.get(info.ledger_id, 0)
                    if reader.last_entry < first:
                        continue
                    for entry in await reader.read(EntryId(first), 1000, 1 << 20):
                        place = Place(info.ledger_id, entry.entry_id)
                        self.world.check_confirmed(self.name, place)
                        self.world.note_read(self.name, place, entry.body)
                        seen[info.ledger_id] = entry.entry_id + 1
            except MagnetarError as error:
                self.world.trace.note("tailer", type(error).__name__)
