"""The way of a batch into a topic's log, and the producers it comes from.

A batch is checked, compared with what its source stored before, given its place in the order of
the log, and acknowledged once Qa bookies hold it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from crc32c import crc32c

from broker.conversation import (
    SHARED_ACCESS,
    Access,
    AccessMode,
    ChecksumMismatch,
    OnEnded,
    OnReceipts,
    Receipt,
)
from broker.deduplication import BatchInFlight, Source
from broker.producer_access import Admission
from broker.producer_door import ProducerDoor
from broker.producer_session import Arrived, ProducerSession
from broker.publish_gate import PublishGate
from broker.resends import settle_if_known
from broker.schedule.intake import Intake, Verdict
from broker.schedule.schedule import Schedule, ScheduleCounters
from broker.settings import BrokerLimits
from broker.stored_entry import StoredEntry
from broker.topic_log import TopicLog
from broker.topic_state import TopicState
from broker.traffic import TrafficCounter
from ledger.position import Position
from magnetar.entry import EntryHeader, check, parse_header
from magnetar.errors import (
    ConnectionFailed,
    InvalidArgument,
    InvalidFrame,
    MagnetarError,
    MessageTooLarge,
    NotSupported,
    ProducerFenced,
)
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Buffer
from magnetar.waiters import Waiters
from tenants.policies import TopicPolicies


@dataclass(slots=True)
class TopicCounters:
    """What the topics of a broker did, for the metrics."""

    published_messages: int = 0
    """Came from producers and are stored; a delayed message counts when the schedule has it, and
    no more when it is due."""
    published_batches: int = 0
    published_bytes: int = 0
    duplicate_batches: int = 0
    refused_batches: int = 0
    failed_topics: int = 0
    dropped_messages: int = 0
    """Of non-persistent topics: gone without having been acknowledged by every subscription."""
    schedules: ScheduleCounters = field(default_factory=ScheduleCounters)


class PublishingHost(Protocol):
    """What publishing needs of its topic."""

    policies: TopicPolicies
    gate: PublishGate
    closing: bool
    closed: bool

    @property
    def name(self) -> str: ...

    def refuse_if_closing(self) -> None:
        """Raises NotOwner."""

    def touch(self) -> None:
        """The topic was used."""

    def something_stored(self) -> None:
        """Consumers may have something to receive."""

    def fail(self, error: MagnetarError) -> None:
        """The log cannot go on."""

    async def durable_epoch(self) -> None:
        """Write the sources that changed, and wait until that is durable."""


class Publishing:
    """The producers of one topic on its owner, and what is on its way into the log."""

    def __init__(
        self, host: PublishingHost, log: TopicLog, state: TopicState, schedule: Schedule,
        limits: BrokerLimits, clock: Clock, counters: TopicCounters,
    ) -> None:
        self._host = host
        self._log = log
        self._state = state
        self._limits = limits
        self._clock = clock
        self._counters = counters
        self.producers: dict[str, ProducerSession] = {}
        self.door = ProducerDoor(state.access, state.write, self._put_out)
        self.opening = 0
        """How many producers are about to open, or wait for their turn."""
        self.delayed = Intake(schedule, state.schedule, self._count_and_release)
        self.traffic = TrafficCounter(clock.monotonic_s())
        self._names_given = 0
        self._held_bytes = 0
        """Of batches that wait for earlier ones of their producer in the other lane."""
        self._for_room_or_end = Waiters()

    @property
    def name(self) -> str:
        """The topic's full name."""
        return self._host.name

    @property
    def congested(self) -> bool:
        """More bytes are on their way to the bookies than may be, or the topic holds producers
        back for another reason."""
        return (
            self.pending_bytes > self._limits.pending_publish_bytes or self._host.gate.holds
            or self.delayed.congested
        )

    @property
    def pending_bytes(self) -> int:
        """On their way to the bookies, to the log or to the schedule, or waiting for that."""
        return self._log.pending_bytes + self.delayed.pending_bytes + self._held_bytes

    def loaded(self) -> None:
        """The state is read; producers may come."""
        self.door.loaded(self._limits.exclusive_return_s)

    async def open_producer(
        self, name: str, epoch: int, reply: OnReceipts, ended: OnEnded,
        access: Access = SHARED_ACCESS,
    ) -> ProducerSession:
        """A producer; an empty name gets an automatic one.

        Waits for its turn where `access` says so, then until no batch of an earlier session of
        the name is in flight, so that `last_sequence_id` is what is really stored. Raises
        ProducerFenced, ProducerBusy, TopicTerminated, InvalidArgument.
        """
        self._host.refuse_if_closing()
        if access.mode is not AccessMode.SHARED and not self._log.log.persistent:
            raise NotSupported(
                f"{self.name} is not persistent, so nobody would remember an exclusive producer's"
                " epoch; use a persistent topic, or a shared producer"
            )
        begins = not epoch  # who comes back may have batches stored, of which it is to hear
        if begins:
            self._host.gate.check_open()
        new_name = not name
        if new_name:
            self._names_given += 1
            name = f"~{self._log.log.owner.epoch}-{self._names_given}"
        elif len(name.encode()) > 1024:
            raise InvalidArgument("a producer name has at most 1024 bytes")
        if len(self.producers) >= self._limits.producers_a_topic and name not in self.producers:
            raise InvalidArgument(f"{self.name} has all the producers it may have")
        self.opening += 1
        try:
            admission = await self.door.enter(name, access)
            try:
                self._host.refuse_if_closing()
                if begins:
                    self._host.gate.check_open()
                source = self._state.sources.open(name, epoch, new_name=new_name)
                session = ProducerSession(
                    self, source, admission, reply, ended,
                    self._host.policies.max_message_size_bytes,
                )
            except BaseException:
                self.door.leave(admission, for_good=not access.topic_epoch)
                raise
            await self._take_name(session, for_good=not access.topic_epoch)
        finally:
            self.opening -= 1
        return session

    async def _take_name(self, session: ProducerSession, *, for_good: bool) -> None:
        """End the name's older session, and wait until what it sent is stored and the new epoch
        durable. `for_good`: if that fails, the producer was never told that it is open."""
        name, source = session.producer_name, session.source
        before = self.producers.pop(name, None)
        if before is not None:
            before.end(_taken_over(name, before.producer_epoch == source.epoch))
            source.idle_since_ms = 0
        self.producers[name] = session
        try:
            if source.in_flight:
                await self._stored(source.in_flight[-1])
            if (delayed := self.delayed.in_flight(name)) is not None:
                await self._stored(delayed)
            if not source.automatic:
                await self._host.durable_epoch()
            self._host.refuse_if_closing()
            if session.closed:
                raise session.admission.fenced or _taken_over(
                    name, session.producer_epoch == source.epoch)
        except BaseException:
            session.close(for_good=for_good)
            raise
        session.last_sequence_id = max(source.last_stored, self.delayed.last_stored(name))

    def _put_out(self, admissions: tuple[Admission, ...]) -> None:
        """These are fenced, at once: nothing more of theirs is taken."""
        out = {admission: admission.fenced for admission in admissions}
        for session in list(self.producers.values()):
            error = out.get(session.admission)
            if error is not None:
                session.end(error)

    async def _stored(self, batch: BatchInFlight) -> None:
        """Wait for this batch and no other; raises NotOwner when the topic closes before."""
        is_stored = False

        def stored(_place: Position) -> None:
            nonlocal is_stored
            is_stored = True

        batch.waiting.append(stored)
        while not is_stored:
            self._host.refuse_if_closing()
            # Woken as well by every other batch, and by the end of the topic.
            await self._for_room_or_end.wait()

    def producer_closed(self, session: ProducerSession, *, for_good: bool) -> None:
        """Called by the session when its stream ended."""
        self._host.touch()
        self._drop_held(session)
        self.door.leave(session.admission, for_good=for_good)
        if self.producers.get(session.producer_name) is session:
            del self.producers[session.producer_name]
            self._state.sources.closed(session.source, self._clock.wall_ms())

    def publish(self, session: ProducerSession, batch: Buffer) -> None:
        """Take one batch of a session; see ProducerSession.publish."""
        if self._host.closing:
            return
        header = parse_header(batch)
        receipt = Receipt(header.first_sequence_id, header.count)
        session.expect(receipt)
        if len(batch) > self._host.policies.max_message_size_bytes:
            self._refuse(session, receipt, MessageTooLarge(
                f"a batch of {len(batch)} bytes; this topic takes"
                f" {self._host.policies.max_message_size_bytes}"
            ))
            return
        try:
            check(batch, header)
        except InvalidFrame:
            if crc32c(memoryview(batch)[4:]) != int.from_bytes(batch[:4], "little"):
                raise ChecksumMismatch("a batch was damaged on its way; send it again") from None
            raise
        if header.producer_name != session.producer_name:
            self._refuse(session, receipt, InvalidArgument(
                f"the batch names producer {header.producer_name!r}, the stream"
                f" {session.producer_name!r}"
            ))
            return
        if header.delayed and not self._log.log.persistent:
            self._refuse(session, receipt, NotSupported(
                f"{self.name} is not persistent, so it cannot keep a message until its time;"
                " use a persistent topic, or send without deliver_at"
            ))
            return
        arrived = Arrived(receipt, batch, header)
        if session.held or self._waits_for_other_lane(session, header):
            session.held.append(arrived)
            self._held_bytes += len(batch)
            return
        self._take(session, arrived)

    def _waits_for_other_lane(self, session: ProducerSession, header: EntryHeader) -> bool:
        """A batch is not written before those that came earlier are stored in the other lane: the
        producer's last sequence id that is stored says that all below it are. If so, what the
        session holds goes on afterwards."""
        other = self._newest_in_flight(session, delayed=not header.delayed)
        if other is None:
            return False
        other.waiting.append(lambda _place: self._go_on(session))
        return True

    def _newest_in_flight(
        self, session: ProducerSession, *, delayed: bool
    ) -> BatchInFlight | None:
        if delayed:
            return self.delayed.in_flight(session.producer_name)
        return session.source.in_flight[-1] if session.source.in_flight else None

    def _go_on(self, session: ProducerSession) -> None:
        while session.held and not (session.closed or session.barred or self._host.closing):
            if self._waits_for_other_lane(session, session.held[0].header):
                return
            arrived = session.held.popleft()
            self._held_bytes -= len(arrived.batch)
            self._take(session, arrived)
        self._drop_held(session)

    def _drop_held(self, session: ProducerSession) -> None:
        self._held_bytes -= sum(len(arrived.batch) for arrived in session.held)
        session.held.clear()

    def _take(self, session: ProducerSession, arrived: Arrived) -> None:
        receipt, batch, header = arrived
        if header.delayed:
            self._publish_later(session, receipt, batch, header)
            return
        source = session.source
        try:
            if self._host.policies.deduplication and settle_if_known(
                session, receipt, source, batch, header
            ):
                self._counters.duplicate_batches += 1
                return
        except InvalidArgument as error:
            self._refuse(session, receipt, error)
            return
        if self._host.gate.refuses(partial(self._refuse, session, receipt)):
            return
        flying = source.push(header.first_sequence_id, header.last_sequence_id)

        def stored(result: StoredEntry | MagnetarError) -> None:
            self._batch_stored(session, receipt, flying, result)

        self._log.append(batch, header.count, stored)

    def _publish_later(
        self, session: ProducerSession, receipt: Receipt, batch: Buffer, header: EntryHeader
    ) -> None:
        try:
            verdict = self.delayed.take(
                session, receipt, batch, header, self._host.policies.deduplication,
                partial(self._host.gate.refuses, partial(self._refuse, session, receipt)),
            )
        except (InvalidArgument, NotSupported) as error:
            self._refuse(session, receipt, error)
            return
        if verdict is Verdict.KNOWN:
            self._counters.duplicate_batches += 1

    def _refuse(self, session: ProducerSession, receipt: Receipt, error: MagnetarError) -> None:
        self._counters.refused_batches += 1
        session.settle(receipt, error=error)

    def _batch_stored(
        self, session: ProducerSession, receipt: Receipt, flying: BatchInFlight,
        result: StoredEntry | MagnetarError,
    ) -> None:
        if isinstance(result, MagnetarError):
            self._host.fail(result)
            return
        if self._host.closed:
            return
        source: Source = session.source
        self._state.sources.stored(source, flying, result.ledger_id, result.entry_id)
        session.settle(receipt, result.ledger_id, result.entry_id)
        for waiting in flying.waiting:
            waiting(result.position)
        self._state.entry_stored(len(result.body))
        self._count_and_release(result.count, len(result.body))
        self._host.something_stored()

    def _count_and_release(self, messages: int, size_bytes: int) -> None:
        """So much came from a producer and is stored, in the log or in the schedule."""
        self._counters.published_batches += 1
        self._counters.published_messages += messages
        self._counters.published_bytes += size_bytes
        self.traffic.count(messages, size_bytes)
        self.release_if_room()

    async def drained(self) -> None:
        """Wait until all that was appended is stored; raises NotOwner when the topic closes."""
        while self._log.pending_entries or self.delayed.pending_bytes:
            self._host.refuse_if_closing()
            await self._for_room_or_end.wait()

    def release_if_room(self) -> None:
        """Something is stored: let those look again who wait for that."""
        if self.pending_bytes <= self._limits.pending_publish_bytes // 2:
            self.release_waiters()

    async def until_uncongested(self) -> None:
        """Wait for room; returns as well when the topic closes."""
        while self.congested and not self._host.closing:
            await self._for_room_or_end.wait()

    def end(self, error: MagnetarError) -> None:
        """The topic ends here: end every producer, and whoever waits."""
        self.door.shut(error)
        self.release_waiters()
        for producer in list(self.producers.values()):
            producer.end(error)

    def release_waiters(self) -> None:
        """Let those look again who wait for room."""
        self._for_room_or_end.wake()


def _taken_over(name: str, same_producer: bool) -> MagnetarError:
    """A producer that reconnects may be overtaken by an opening it gave up: it tries again."""
    if same_producer:
        return ConnectionFailed(f"another stream of producer {name!r} came later; open it again")
    return ProducerFenced(f"a newer producer took over the name {name!r}")
