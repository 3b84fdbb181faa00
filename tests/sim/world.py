"""One seed: a cluster, its faults, a safety phase, a heal, and then everything must come right."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ledger.wire import AddRequest
from magnetar.errors import LedgerError, MagnetarError
from metadata.cluster import initialize_cluster
from tests.sim.audit import MetadataAudit
from tests.sim.clock import SimClock
from tests.sim.config import Config
from tests.sim.disk import Machine
from tests.sim.faults import FaultInjector
from tests.sim.history import History, Place
from tests.sim.loop import SimLoop, SimulationError
from tests.sim.network import Fabric
from tests.sim.processes import BookieProcess, Process
from tests.sim.rare_states import RareStates
from tests.sim.store import MetadataService, SimStore
from tests.sim.trace import Trace
from tests.sim.values import Values

LIVENESS_LIMIT_S = 60.0
"""Virtual seconds after the heal within which the target is reached and all is drained."""


@dataclass(slots=True)
class Outcome:
    """What a seed came to. `violations` empty: clean."""

    seed: int
    workload: str
    violations: list[str]
    acknowledged: int
    faults: Counter[str]
    rare: Counter[str]
    digest: str
    virtual_s: float
    steps: int
    trace: list[str] = field(default_factory=list)


class World:
    """Everything of one seed. Subclasses add the brokers, the clients and the final checks."""

    def __init__(self, config: Config, keep_trace: bool = False) -> None:
        self.config = config
        seed = config.seed
        self.loop = SimLoop(random.Random(f"{seed}/loop"), step_limit=1_500_000)
        self.trace = Trace(self.loop, keep_trace)
        self.fabric = Fabric(
            self.loop, random.Random(f"{seed}/network"), self.trace, config.links
        )
        self.service = MetadataService(
            self.loop, random.Random(f"{seed}/metadata"), self.trace, self.fabric, config.store
        )
        self.audit = MetadataAudit(self.service.tree, config.quorums.ack_quorum)
        self.values = Values()
        self.history = History()
        self.rare = RareStates(self)
        self.service.on_request = self.rare.request_sent
        self.service.on_reply = self.rare.request_done
        self.machines = [
            Machine(self.loop, random.Random(f"{seed}/disk{n}"), self.trace, f"k{n}", config.disks)
            for n in range(config.bookie_count)
        ]
        self.bookies: list[BookieProcess] = [
            BookieProcess(self, f"k{n}", n) for n in range(config.bookie_count)
        ]
        self.brokers: list[Process] = []
        self.clients: list[Process] = []
        self.healed = False
        self.quiet = False
        """While set, nobody publishes."""
        self.on_add: Callable[[str, AddRequest], None] = lambda _host, _request: None
        """Told of each entry that a host sends to a bookie."""
        self.injector = FaultInjector(self, random.Random(f"{seed}/faults"))
        self.violations: list[str] = []
        self.cluster_key = b""

    # --- for the faults ---------------------------------------------------------------------
    def owner_process(self) -> Process | None:
        """The broker at work, if there is one."""
        return None

    def move_owner(self) -> bool:
        """Make another broker the owner while the old one lives; False if impossible."""
        return False

    def enough_published(self) -> bool:
        return self.healed and len(self.history.acks) >= self.config.publish_target

    # --- the run ----------------------------------------------------------------------------
    def run(self) -> Outcome:
        """The whole seed; never raises for what the simulated program does wrong."""
        try:
            self.loop.run_until_complete(self._phases())
        except SimulationError as error:
            self.violations.append(f"I22 {type(error).__name__}: {error}")
        except (AssertionError, MagnetarError, LedgerError) as error:
            self.violations.append(f"{type(error).__name__} in the world: {error!r}")
        return Outcome(
            self.config.seed, self.config.workload, self._all_violations(),
            len(self.history.acks), self.injector.counts, self.rare.collect(),
            self.trace.digest, self.loop.time(), self.loop.steps, self.trace.lines or [],
        )

    def _all_violations(self) -> list[str]:
        return (
            self.audit.violations + self.values.violations + self.history.violations
            + self.violations + [f"unhandled {error}" for error in self.loop.errors]
        )

    async def _phases(self) -> None:
        await self.prepare()
        for process in self.bookies + self.brokers + self.clients:
            process.start()
        self.injector.schedule(self.config.faults)
        await asyncio.sleep(self.config.fault_phase_s)
        await self.injector.complete()
        self.heal()
        await self.within("the publish target is reached", LIVENESS_LIMIT_S, self.target_reached)
        await self.drain()
        self.trace.note("checks")
        await self.check()

    async def prepare(self) -> None:
        """Before the first process starts."""
        await self.initialize()

    async def initialize(self) -> SimStore:
        """Make the cluster's record; answers a session of the operator."""
        loss, self.config.store.loss_chance = self.config.store.loss_chance, 0.0
        store = self.service.connect(self.fabric.boot("operator"))
        chance = random.Random(f"{self.config.seed}/cluster")
        cluster = await initialize_cluster(
            store, random_bytes=chance.randbytes, clock=SimClock(self.loop)
        )
        self.cluster_key = cluster.cluster_key
        self.config.store.loss_chance = loss
        return store

    def target_reached(self) -> bool:
        return self.enough_published() and self.settled()

    def settled(self) -> bool:
        """Whether nothing published is without an answer."""
        return True

    async def drain(self) -> None:
        """Wait until consumers have everything."""

    async def check(self) -> None:
        """The final judgement."""

    def heal(self) -> None:
        """No more faults; every process runs and every link works."""
        self.healed = True
        self.quiet = False
        self.trace.note("heal")
        self.injector.heal()
        self.config.store.loss_chance = 0.0
        self.config.store.delay_max_s = min(self.config.store.delay_max_s, 0.005)
        self.config.disks.slow_chance = 0.0
        for machine in self.machines:
            machine.full = machine.fail_next_sync = False
            machine.slow_s = 0.0
            machine.on_append = None
        for process in self.bookies + self.brokers + self.clients:
            process.start()

    async def within(self, what: str, limit_s: float, holds: Any) -> None:
        """Liveness: the condition must come true in bounded virtual time."""
        deadline_s = self.loop.time() + limit_s
        while not holds():
            if self.loop.time() > deadline_s:
                raise SimulationError(f"{what}: not within {limit_s:g} s after the heal")
            await asyncio.sleep(0.05)

    def note_read(self, reader: str, place: Place, body: bytes) -> None:
        """Somebody read an entry: it must be the one value of its place, for good."""
        self.values.check(reader, place.ledger_id, place.entry_id, body)
        self.read_places.setdefault(place, reader)

    @property
    def read_places(self) -> dict[Place, str]:
        return self.history.read_places

    def stop_everything(self) -> None:
        """After the checks: nothing of this world may run again."""
        for process in self.bookies + self.brokers + self.clients:
            with contextlib.suppress(Exception):
                process.stop()
