"""Counts how often the states that hide the defects were reached, from what crosses the seams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ledger.bookie_client import BookieClient
from ledger.wire import (
    NEGATIVES,
    AddRequest,
    ReadLacReply,
    ReadLacRequest,
    ReadReply,
    ReadRequest,
    Status,
)
from magnetar.ids import BookieId
from metadata.ledgers import LedgerState, decode_ledger
from metadata.paths import LEDGERS

if TYPE_CHECKING:
    from tests.sim.world import World

ACK_DURING_ENSEMBLE_CAS = "acks while an ensemble CAS is in flight"
RECOVERY_BESIDE_WRITER = "recovery beside a live writer"
TORN_TAIL = "torn tail"
FENCE_OF_UNKNOWN = "fence of an unknown ledger"
ROLL = "roll"
TOO_FEW_BOOKIES = "write with too few bookies"
REQUIRED = (
    ACK_DURING_ENSEMBLE_CAS, RECOVERY_BESIDE_WRITER, TORN_TAIL, FENCE_OF_UNKNOWN, ROLL,
    TOO_FEW_BOOKIES,
)
ENSEMBLE_CHANGE = "ensemble change"
UNANSWERED_CAS = "applied CAS without an answer"
LOST_INDEX = "index lost a suffix"
FENCED_WRITER = "writer told that it is fenced"
ABORTED_OWNERSHIP = "takeover"
TRIM = "trim"
RUN_FLUSHED = "run of a schedule written"
RUNS_MERGED = "runs of a schedule merged"
RUN_DROPPED = "run of a schedule dropped, all fired"
SCHEDULE_TRIM = "trim of a schedule"
READ_ONLY = "add refused: read-only"
DEAD_LETTER = "dead letters written"
DEAD_LETTER_UNKNOWN = "a dead letter's fate is unknown"


class RareStates:
    """Observes metadata requests and bookie calls of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.counts: Counter[str] = Counter()
        self._changing: Counter[tuple[str, int]] = Counter()
        self._recovering: dict[int, str] = {}
        self._added: set[tuple[str, int]] = set()
        self.adds_in_flight: Counter[str] = Counter()
        self.on_record_write: Callable[[], None] | None = None
        self.on_close_write: Callable[[], None] | None = None
        self.on_ensemble_write: Callable[[], None] | None = None
        self.ack_strikes: dict[str, Callable[[], None]] = {}
        """What befalls a bookie just when a writer hears its next ack."""

    # --- metadata ---------------------------------------------------------------------------
    def request_sent(self, host: str, method: str, arguments: tuple[Any, ...]) -> None:
        key = self._ensemble_write(host, method, arguments)
        if key is not None:
            self._changing[key] += 1
            if self.on_ensemble_write is not None:
                strike, self.on_ensemble_write = self.on_ensemble_write, None
                strike()

        if method == "put" and self.on_record_write is not None and (
            arguments[0].startswith("/topics/")
        ):
            strike, self.on_record_write = self.on_record_write, None
            strike()

    def forget(self) -> None:
        """No fault waits for anything any more."""
        self.ack_strikes.clear()
        self.on_ensemble_write = self.on_close_write = self.on_record_write = None

    def request_done(self, host: str, method: str, arguments: tuple[Any, ...]) -> None:
        key = self._ensemble_write(host, method, arguments)
        if key is not None:
            self._changing[key] -= 1

    def _ensemble_write(
        self, host: str, method: str, arguments: tuple[Any, ...]
    ) -> tuple[str, int] | None:
        if method != "put" or not arguments[0].startswith(LEDGERS):
            return None
        ledger = decode_ledger(arguments[1])
        if ledger.state is LedgerState.IN_RECOVERY:
            self._recovering.setdefault(ledger.ledger_id, host)
        if ledger.state is LedgerState.CLOSED and self._recovering.get(ledger.ledger_id) is None:
            strike, self.on_close_write = self.on_close_write, None
            if strike is not None:
                strike()
        return (host, ledger.ledger_id) if ledger.state is LedgerState.OPEN else None

    # --- bookie calls -----------------------------------------------------------------------
    def add_sent(self, host: str, bookie: str, request: AddRequest) -> None:
        self.adds_in_flight[host] += 1
        recoverer = self._recovering.get(request.ledger_id)
        if recoverer is not None and recoverer != host and not request.recovery:
            self.counts[RECOVERY_BESIDE_WRITER] += 1

    def add_done(self, host: str, bookie: str, request: AddRequest, status: Status) -> None:
        self.adds_in_flight[host] -= 1
        if status is Status.OK:
            if self.ack_strikes and bookie in self.ack_strikes:
                self._world.loop.after(0.0, self.ack_strikes.pop(bookie))
            self._added.add((bookie, request.ledger_id))
            if self._changing.get((host, request.ledger_id)):
                self.counts[ACK_DURING_ENSEMBLE_CAS] += 1
        elif status is Status.FENCED:
            self.counts[FENCED_WRITER] += 1
        elif status is Status.READ_ONLY:
            self.counts[READ_ONLY] += 1

    def fence_sent(self, host: str, bookie: str, ledger_id: int) -> None:
        if (bookie, ledger_id) not in self._added:
            self._recovering.setdefault(ledger_id, host)

    def fence_done(self, bookie: str, ledger_id: int, reply: ReadLacReply) -> None:
        answered = reply.status is Status.OK or reply.status in NEGATIVES
        if answered and reply.last_entry_id < 0 and (bookie, ledger_id) not in self._added:
            self.counts[FENCE_OF_UNKNOWN] += 1


    def collect(self) -> Counter[str]:
        """All counters, with those that others keep."""
        world, counts = self._world, self.counts
        counts[TORN_TAIL] = sum(machine.torn_tails for machine in world.machines)
        counts[ROLL] = world.audit.rolls
        counts[TOO_FEW_BOOKIES] = world.audit.under_replicated
        counts[ENSEMBLE_CHANGE] = world.audit.ensemble_changes
        counts[UNANSWERED_CAS] = world.service.applied_unanswered
        counts[LOST_INDEX] = sum(bookie.index_losses for bookie in world.bookies)
        counts[ABORTED_OWNERSHIP] = world.audit.owner_changes
        counts[TRIM] = world.audit.trims
        counts[RUN_FLUSHED] = world.audit.run_flushes
        counts[RUNS_MERGED] = world.audit.run_merges
        counts[RUN_DROPPED] = world.audit.run_drops
        counts[SCHEDULE_TRIM] = world.audit.schedule_trims
        return counts


class RecordingClient:
    """A `BookieClient` that tells the counters, and keeps one value a (ledger, entry) (I3)."""

    def __init__(self, inner: BookieClient, host: str, world: World) -> None:
        self._inner = inner
        self._host = host
        self._world = world
        self._rare = world.rare
        self._values = world.values

    def add_nowait(
        self, bookie: BookieId, request: AddRequest, on_reply: Callable[[Status], None]
    ) -> None:
        rare, host = self._rare, self._host
        rare.add_sent(host, bookie, request)
        self._world.on_add(host, request)

        def replied(status: Status) -> None:
            rare.add_done(host, bookie, request, status)
            on_reply(status)

        self._inner.add_nowait(bookie, request, replied)

    async def add(self, bookie: BookieId, request: AddRequest) -> Status:
        self._rare.add_sent(self._host, bookie, request)
        status = await self._inner.add(bookie, request)
        self._rare.add_done(self._host, bookie, request, status)
        return status

    async def read(self, bookie: BookieId, request: ReadRequest) -> ReadReply:
        reply = await self._inner.read(bookie, request)
        for entry in reply.entries:
            self._values.check(f"{bookie} to {self._host}", request.ledger_id, entry.entry_id,
                               entry.body)
        return reply

    async def read_lac(self, bookie: BookieId, request: ReadLacRequest) -> ReadLacReply:
        if request.fence:
            self._rare.fence_sent(self._host, bookie, request.ledger_id)
        reply = await self._inner.read_lac(bookie, request)
        if request.fence:
            self._rare.fence_done(bookie, request.ledger_id, reply)
        return reply

    async def close(self) -> None:
        await self._inner.close()
