"""The whole cluster: two brokers, clients, and the topic between them."""

from __future__ import annotations

import asyncio
import zlib

from broker.conversation import LookupResult
from broker.ownership import Decision, Verdict
from ledger.managed_log import ManagedLog
from ledger.wire import AddRequest
from magnetar.dead_letter import default_dead_letter_topic
from magnetar.entry import EntryView, parse_prefix
from magnetar.errors import MagnetarError
from tenants.policies import TopicPolicies
from tests.sim.broker_process import BrokerProcess
from tests.sim.checkers import StoredMessage, check_ack_order, check_dead_letters, check_log
from tests.sim.client_process import SimConsumer, SimProducer
from tests.sim.config import ClockMove, Config
from tests.sim.dump import check_all_copies
from tests.sim.history import Place
from tests.sim.keyed_consumer import KeyedConsumer
from tests.sim.keyed_watch import KeyedWatch
from tests.sim.log_owner import TOPIC, LedgerUser
from tests.sim.processes import Process
from tests.sim.schedule_operator import Operator
from tests.sim.schedule_watch import ScheduleWatch
from tests.sim.world import World

SUBSCRIPTION = "s"
DEAD = default_dead_letter_topic(TOPIC, SUBSCRIPTION)


class TopicAuditor(LedgerUser):
    """Takes a topic over at the end and reads its log entry by entry."""

    def __init__(self, world: ClusterWorld, topic: str = TOPIC) -> None:
        super().__init__(world, "auditor")
        self._topic = topic
        self.stored: list[StoredMessage] | None = None
        self.first: Place | None = None
        self.problems: list[str] = []

    async def main(self) -> None:
        ledgers = await self.open_ledgers()
        while self.stored is None:
            try:
                log = await self.open_log(ledgers, asyncio.Event(), self._topic)
                kept = log.record.ledgers
                oldest = kept[0].ledger_id if kept else log.record.last_ledger_id + 1
                self.first = Place(oldest, 0)
                self.stored = await self._read_all(log)
            except MagnetarError as error:
                self.world.trace.note("auditor", f"{type(error).__name__} {error}")
                await self.clock.sleep(0.2)

    async def _read_all(self, log: ManagedLog) -> list[StoredMessage]:
        stored: list[StoredMessage] = []
        self.problems = []
        at = log.first_position
        ordinal, time_ms, epoch = -1, -1, -1
        while entries := await log.read(at, 1000, 1 << 20):
            for entry in entries:
                place = Place(entry.position.ledger_id, entry.position.entry_id)
                if self._topic == TOPIC:
                    self.world.note_read("auditor", place, bytes(entry.body))
                prefix, batch = parse_prefix(entry.body)
                view = EntryView(batch)
                if ordinal >= 0 and prefix.first_ordinal != ordinal:
                    self.problems.append(
                        f"ordinals: {place} begins at {prefix.first_ordinal}, not {ordinal}"
                    )
                if prefix.append_time_ms < time_ms or prefix.owner_epoch < epoch:
                    self.problems.append(f"{place} goes back in time or epoch")
                ordinal = prefix.first_ordinal + view.count
                time_ms, epoch = prefix.append_time_ms, prefix.owner_epoch
                stored += [parse_message(place, view, n) for n in range(view.count)]
            at = log.position_after(entries[-1].position)
        return stored


def parse_message(place: Place, view: EntryView, index: int) -> StoredMessage:
    producer, number, _ = bytes(view.payload(index)).decode().split("/", 2)
    delayed = view.origin(index).scheduled is not None
    return StoredMessage(place, producer, int(number), delayed)


class ClusterWorld(World):
    """Producers and consumers of one topic over real broker cores."""

    topic = TOPIC

    def __init__(self, config: Config, keep_trace: bool = False) -> None:
        super().__init__(config, keep_trace)
        quorums = config.quorums
        self.policies = TopicPolicies(
            ensemble_size=quorums.ensemble_size, write_quorum=quorums.write_quorum,
            ack_quorum=quorums.ack_quorum, retention_minutes=-1 if config.keep_log else 0,
            max_ledger_entries=config.max_ledger_entries,
        )
        self.broker_processes = [BrokerProcess(self, f"b{n}") for n in range(2)]
        self.brokers = [*self.broker_processes]
        self.watch = KeyedWatch()
        self.consumers = self._make_consumers()
        self.producers = [SimProducer(self, f"p{n}") for n in range(config.producer_count)]
        self.schedule = ScheduleWatch(self.rare.counts)
        self.operators = self._make_operators()
        self.clients = [*self.consumers, *self.producers, *self.operators]
        self.subscribed = False
        self.consuming_ended = False

    def _make_consumers(self) -> list[SimConsumer]:
        config = self.config
        if config.spread:
            count = 3 if config.spread == "key_shared" else 2
            return [KeyedConsumer(self, f"c{n}", SUBSCRIPTION) for n in range(count)]
        count = 2 if config.subscription_shared else 1
        return [SimConsumer(self, f"c{n}", SUBSCRIPTION) for n in range(count)]

    def _make_operators(self) -> list[Operator]:
        """Where the seed has delayed messages; brokers' clocks move then."""
        if not self.config.delayed_share:
            return []
        self.on_add = self._add_sent
        for move in self.config.clock_moves:
            self.loop.after(move.at_s, self._move_clock, move)
        return [Operator(self, number, of=2) for number in range(2)]

    def _move_clock(self, move: ClockMove) -> None:
        broker = self.broker_processes[move.broker]
        broker.clock.skew_ms = move.skew_ms
        self.trace.note("clock", f"{broker.name} {move.skew_ms:+} ms")

    def _add_sent(self, host: str, request: AddRequest) -> None:
        record = self.audit.topics.get(TOPIC)
        broker = next((one for one in self.broker_processes if one.name == host), None)
        if record is not None and broker is not None:
            self.schedule.add_sent(record, request, self.loop.time(), broker.clock.latest_ms)

    def note_read(self, reader: str, place: Place, body: bytes) -> None:
        super().note_read(reader, place, body)
        if self.config.delayed_share:
            self.schedule.read(place, body)

    def keeps_back(self, key: tuple[str, int]) -> bool:
        """Messages that are never acknowledged, so that the end can ask for them."""
        drawn = zlib.crc32(f"{self.config.seed}/{key}".encode()) % 1000
        return drawn >= 1000 * self.config.acknowledge_share

    def is_poison(self, key: tuple[str, int]) -> bool:
        """Messages that no consumer can handle."""
        drawn = zlib.crc32(f"{self.config.seed}/poison/{key}".encode())
        return self.config.max_deliveries > 0 and drawn % 6 == 0

    def owner_process(self) -> Process | None:
        record = self.audit.topics.get(TOPIC)
        if record is None or record.owner is None:
            return None
        return next(b for b in self.broker_processes if b.name == record.owner.broker_id)

    def move_owner(self) -> bool:
        """Force a broker that is not the owner to load the topic: fencing alone must hold."""
        owner, record = self.owner_process(), self.audit.topics.get(TOPIC)
        others = [b for b in self.broker_processes if b is not owner and b.running]
        if owner is None or record is None or not others or others[0].broker is None:
            return False
        taker = others[0]
        broker = taker.broker
        assert broker is not None and taker.host is not None

        async def take() -> LookupResult | None:
            try:
                await broker.registry.obtain(
                    TOPIC, Decision(Verdict.HERE, former=record.owner))
            except MagnetarError as error:
                self.trace.note("forced takeover failed", type(error).__name__)
            return None

        self.loop.spawn(taker.host.lane, take())
        return True

    # --- the end ----------------------------------------------------------------------------
    def settled(self) -> bool:
        return all(producer.unsettled == 0 for producer in self.producers) and all(
            operator.idle for operator in self.operators
        )

    def _schedule_is_empty(self) -> bool:
        """Nothing waits, nothing is kept on the bookies any more, and nothing is tried in vain."""
        owner, record = self.owner_process(), self.audit.topics[TOPIC]
        broker = owner.broker if isinstance(owner, BrokerProcess) else None
        topic = broker.registry.get(TOPIC) if broker is not None else None
        return topic is not None and not (
            topic.schedule.count or record.schedule_runs or record.schedule_ledgers
            or topic.schedule.blocked_reason
        )

    def _owed(self) -> set[tuple[str, int]]:
        """What was acknowledged to its producer, and not cancelled."""
        return {
            key for m in self.history.acks
            if not self.schedule.may_be_cancelled(key := (m.producer, m.sequence_id))
        }

    async def drain(self) -> None:
        history = self.history
        await self.within(
            "consumers receive every acknowledged message", 60.0,
            lambda: self._owed() <= history.seen_messages,
        )
        if self.config.spread:
            await self.within(
                "what failed and was given back comes again until it is acknowledged", 60.0,
                lambda: all(key in history.consume_asked or self.keeps_back(key)
                            for key in self._owed()),
            )
        if self.operators:
            await self.within("nothing is left of the schedule", 30.0, self._schedule_is_empty)
        await asyncio.sleep(0.5)
        self.consuming_ended = True
        await asyncio.sleep(0.5)

    async def check(self) -> None:
        for process in self.clients:
            process.stop()
        for broker in self.broker_processes:
            broker.stop()
        await asyncio.sleep(0.2)
        dead = await self._dead_letters()
        dead_keys = {(m.producer, m.sequence_id) for m in dead}
        final = await self._final_consumer(dead_keys)
        for broker in self.broker_processes:
            broker.stop()
        auditor = TopicAuditor(self)
        auditor.start()
        await self.within("the log is recovered and read", 60.0,
                          lambda: auditor.stored is not None)
        assert auditor.stored is not None
        first = None if self.config.keep_log else auditor.first
        self.violations += auditor.problems
        self.violations += self.watch.violations
        self.violations += check_log(self.history, auditor.stored, self.read_places, first)
        self.violations += check_ack_order(self.history)
        self.violations += self.schedule.judge(
            [(m.producer, m.sequence_id) for m in self.history.acks], self.history.seen_messages
        )
        self.violations += check_dead_letters(self.history, dead)
        self.violations += self._check_cursor(auditor.stored, final.received, dead_keys)
        self.violations += await check_all_copies(self)

    async def _dead_letters(self) -> list[StoredMessage]:
        """What lies in the dead-letter topic, if there is one."""
        if not self.audit.topics.get(DEAD):
            return []
        auditor = TopicAuditor(self, DEAD)
        auditor.start()
        await self.within("the dead letters are read", 60.0, lambda: auditor.stored is not None)
        assert auditor.stored is not None
        self.violations += auditor.problems
        return auditor.stored

    async def _final_consumer(self, dead: set[tuple[str, int]]) -> SimConsumer:
        """After a restart of all brokers: what does the subscription still owe?"""
        for broker in self.broker_processes:
            broker.start()
        final = SimConsumer(self, "final", SUBSCRIPTION)
        final.final = True
        final.start()
        history = self.history
        owed = self._owed() - history.consume_asked - dead
        await self.within("what was not acknowledged is delivered again", 60.0,
                          lambda: owed <= final.received)
        await asyncio.sleep(0.6)
        final.stop()
        return final

    def _check_cursor(
        self, stored: list[StoredMessage], received: set[tuple[str, int]],
        dead: set[tuple[str, int]],
    ) -> list[str]:
        """I16: nothing acknowledged durably comes again, nothing else is skipped, unless it is a
        dead letter."""
        history = self.history
        violations = [
            f"I16 {key} was acknowledged durably and delivered again"
            for key in sorted(history.consumed_durably) if key in received
        ]
        violations += [
            f"I16 {(m.producer, m.sequence_id)} at {m.place} was skipped"
            for m in stored
            if (m.producer, m.sequence_id) not in received | history.consume_asked | dead
        ]
        return violations[:20]
