"""The ledger and bookie rooms alone: owners compete for one managed log and its state log."""

from __future__ import annotations

import asyncio
import random

from ledger.managed_log import LogEntry, ManagedLog
from ledger.position import Position
from magnetar.errors import LedgerError, MagnetarError
from metadata.ledgers import LedgerState
from metadata.topics import TopicRecord, TopicRepository
from tests.sim.checkers import StoredMessage, check_ack_order, check_log
from tests.sim.config import Config
from tests.sim.dump import check_all_copies
from tests.sim.history import Place
from tests.sim.log_owner import TOPIC, LedgerUser, LogOwner, Tailer
from tests.sim.processes import Process
from tests.sim.world import World

WATCHDOG_S = 0.8
"""A leader that cannot be seen working for so long is replaced, whether it lives or not."""


class Auditor(LedgerUser):
    """Opens the log at the end, as the last owner, and reads all of it."""

    def __init__(self, world: LogWorld) -> None:
        super().__init__(world, "auditor")
        self.stored: list[StoredMessage] | None = None
        self.state: list[bytes] = []

    async def main(self) -> None:
        ledgers = await self.open_ledgers()
        while self.stored is None:
            try:
                log = await self.open_log(ledgers, asyncio.Event())
                self.state = [bytes(record) for record in await log.state.replay()]
                self.stored = await self._read_all(log)
                self.first = log.first_position
            except MagnetarError as error:
                self.world.trace.note("auditor", f"{type(error).__name__} {error}")
                await self.clock.sleep(0.2)

    async def _read_all(self, log: ManagedLog) -> list[StoredMessage]:
        stored = []
        at = log.first_position
        while entries := await log.read(at, 1000, 1 << 20):
            for entry in entries:
                self.world.note_entry("auditor", entry)
                stored.append(parse(entry))
            at = log.position_after(entries[-1].position)
        return stored


def parse(entry: LogEntry) -> StoredMessage:
    producer, sequence, _ = bytes(entry.body).decode().split("/", 2)
    place = Place(entry.position.ledger_id, entry.position.entry_id)
    return StoredMessage(place, producer, int(sequence))


class LogWorld(World):
    """Two or three owners, of which one is told to lead."""

    def __init__(self, config: Config, keep_trace: bool = False) -> None:
        super().__init__(config, keep_trace)
        self._chance = random.Random(f"{config.seed}/leader")
        self.owners = [LogOwner(self, f"b{n}") for n in range(2 + config.seed % 2)]
        self.brokers = [*self.owners]
        self.clients = [Tailer(self, "tailer")]
        self._leader = 0
        self._leader_since_s = 0.0
        self._waiting: dict[str, object] = {}
        self._acks_seen = 0
        self._state_sent = 0
        self._state_confirmed: list[bytes] = []
        self.loop.after(WATCHDOG_S, self._watch)

    # --- who leads --------------------------------------------------------------------------
    async def leading(self, owner: LogOwner) -> None:
        """Wait until told to lead."""
        while self.owners[self._leader] is not owner:
            await owner.clock.sleep(0.05)

    def owner_process(self) -> Process | None:
        return self.owners[self._leader]

    def move_owner(self) -> bool:
        others = [n for n in range(len(self.owners)) if n != self._leader]
        running = [n for n in others if self.owners[n].running]
        if not running:
            return False
        self._leader = self._chance.choice(running)
        self._leader_since_s = self.loop.time()
        self.trace.note("leader", self.owners[self._leader].name)
        return True

    def _watch(self) -> None:
        """Stands for the lookup: replaces a leader that brings nothing about."""
        acks = len(self.history.acks)
        idle = acks == self._acks_seen and not self.enough_published()
        patience_s = WATCHDOG_S * (10 if self.healed else 1)
        if idle and self.loop.time() - self._leader_since_s > patience_s:
            self.move_owner()
        self._acks_seen = acks
        self.loop.after(WATCHDOG_S, self._watch)

    # --- what owners tell -------------------------------------------------------------------
    def note_entry(self, reader: str, entry: LogEntry) -> None:
        place = Place(entry.position.ledger_id, entry.position.entry_id)
        self.note_read(reader, place, bytes(entry.body))

    def check_confirmed(self, reader: str, place: Place) -> None:
        """I7: while its writer lives, only what it confirmed may be read of an open ledger."""
        ledger = self.audit.ledgers.get(place.ledger_id)
        if ledger is not None and ledger.state is LedgerState.OPEN and (
            place not in self.history.acked_places
        ):
            self.violations.append(f"I7 {reader} read {place}, which is not confirmed")

    def append_state(self, log: ManagedLog, producer: str) -> None:
        self._state_sent += 1
        record = f"{producer}#{self._state_sent}".encode()

        def done(outcome: Position | LedgerError | None) -> None:
            if not isinstance(outcome, BaseException):
                self._state_confirmed.append(record)

        log.state.append(record, done)

    def state_confirmed(self) -> list[bytes]:
        return list(self._state_confirmed)

    def check_state(self, replayed: list[bytes], confirmed: list[bytes], who: str) -> None:
        """M4: what was confirmed before the takeover began is replayed, once, in order."""
        present = set(replayed)
        if len(present) != len(replayed):
            self.violations.append(f"M4 {who} replays a state record twice")
        missing = [record for record in confirmed if record not in present]
        if missing:
            self.violations.append(f"M4 {who} does not replay {missing[:3]} ({len(missing)})")
        order = [int(record.rpartition(b"#")[2]) for record in replayed]
        if order != sorted(order):
            self.violations.append(f"M4 {who} replays state records out of order")

    # --- the end ----------------------------------------------------------------------------
    async def prepare(self) -> None:
        await TopicRepository(await self.initialize()).create(TopicRecord(TOPIC))

    def settled(self) -> bool:
        leader = self.owners[self._leader]
        return leader.log is not None and all(
            count <= 0 for producer, count in self.history.in_flight.items()
            if producer.startswith(f"{leader.incarnation}.{leader.terms}")
        )

    async def check(self) -> None:
        auditor = Auditor(self)
        confirmed = self.state_confirmed()
        auditor.start()
        await self.within("the log is recovered and read", 60.0,
                          lambda: auditor.stored is not None)
        assert auditor.stored is not None
        self.check_state(auditor.state, confirmed, "auditor")
        self.violations += check_log(
            self.history, auditor.stored, self.read_places, None
        )
        self.violations += check_ack_order(self.history)
        self.violations += await check_all_copies(self)
