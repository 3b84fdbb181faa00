"""Subscriptions of the broker in memory: who gets which message, and what failed.

Message by message and without any haste: what it does is what the real broker promises. Delays
are kept until they pass or a test calls `release`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

from magnetar.entry import Prefix, encode_prefix, select
from magnetar.errors import ConsumerBusy, InvalidArgument, MagnetarError
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.frames import Delivered, encode_deliveries

if TYPE_CHECKING:
    from tests.client.memory_broker import MemoryBroker, MemoryTopic

LEDGER_ID = 7
ALONE = (pb.EXCLUSIVE, pb.BROADCAST)
IN_ORDER = (pb.EXCLUSIVE, pb.FAILOVER, pb.BROADCAST)

Place = tuple[int, int]
"""Entry, index."""


class LinkDropped(Exception):
    """The script says that this link breaks now."""


@dataclass
class MemorySubscription:
    """`kind` None: a reader's."""

    topic: MemoryTopic
    kind: int | None
    next: int
    hold: bool = False
    max_deliveries: int = 0
    dead_letter_topic: str = ""
    epoch: int = 0
    acknowledged: dict[int, int] = field(default_factory=dict)
    counts: dict[Place, int] = field(default_factory=dict)
    sessions: list[MemorySession] = field(default_factory=list)
    waiting: set[Place] = field(default_factory=set)
    in_flight: dict[Place, MemorySession] = field(default_factory=dict)
    delayed: dict[Place, asyncio.TimerHandle] = field(default_factory=dict)
    failed: dict[str, set[Place]] = field(default_factory=dict)
    negatives: list[pb.NegativeAcknowledge] = field(default_factory=list)
    reasons: dict[Place, str] = field(default_factory=dict)
    turn: int = 0

    def attach(self, session: MemorySession, opening: pb.OpenConsumer) -> None:
        if self.sessions and (self.kind in ALONE or self.kind != opening.type):
            raise ConsumerBusy("the subscription has its consumer")
        self.kind = opening.type
        self.hold = opening.hold_failed_keys == pb.HOLD or (
            opening.hold_failed_keys == pb.HOLD_DEFAULT and opening.type == pb.KEY_SHARED)
        self.max_deliveries = opening.max_deliveries
        self.dead_letter_topic = opening.dead_letter_topic
        self.sessions.append(session)

    def detach(self, session: MemorySession) -> None:
        if session not in self.sessions:
            return
        active = self.active
        self.sessions.remove(session)
        for place in [place for place, known in self.in_flight.items() if known is session]:
            self.back(place, counted=True)
        if self.kind == pb.FAILOVER and self.active is not active:
            self.tell_active()
        self.pump()

    @property
    def active(self) -> MemorySession | None:
        return self.sessions[0] if self.sessions else None

    def tell_active(self) -> None:
        if self.active is not None:
            self.active.say(pb.ConsumeReply(active_changed=pb.ActiveChanged(active=True)))

    def give_way(self) -> None:
        """The active consumer of a failover subscription ends to be it."""
        first = self.sessions.pop(0)
        first.say(pb.ConsumeReply(active_changed=pb.ActiveChanged(active=False)))
        self.sessions.append(first)
        for place in [place for place, known in self.in_flight.items() if known is first]:
            self.back(place, counted=True)
        self.tell_active()
        self.pump()

    # What is delivered.

    def pump(self) -> None:
        if self.kind is None:
            return self._pump_reader()
        found: dict[MemorySession, list[Place]] = {}
        for place in sorted(self.waiting):
            if (session := self._session_for(place)) is not None:
                self.waiting.discard(place)
                self._hand_out(session, place, found)
        while self.next < len(self.topic.entries) and any(
            session.permits > 0 for session in self.sessions
        ):
            entry = self.next
            self.next += 1
            chosen = self._session_for((entry, 0)) if self.kind == pb.SHARED else None
            for place in self._unacknowledged(entry):
                session = chosen or self._session_for(place, overdraw=entry)
                if session is None:
                    self.waiting.add(place)
                else:
                    self._hand_out(session, place, found)
            self.turn += 1
        for session, places in found.items():
            session.deliver(places)
        self._tell_end()

    def _pump_reader(self) -> None:
        for session in self.sessions:
            places: list[Place] = []
            while session.permits > 0 and self.next < len(self.topic.entries):
                of_entry = self._unacknowledged(self.next)
                session.permits -= len(of_entry)
                places += of_entry
                self.next += 1
            session.deliver(places)
        self._tell_end()

    def _tell_end(self) -> None:
        if not self.topic.terminated or self.next < len(self.topic.entries):
            return
        if not self.waiting and not self.delayed:
            for session in self.sessions:
                session.tell_end()

    def _unacknowledged(self, entry: int) -> list[Place]:
        done = self.acknowledged.get(entry, 0)
        return [
            (entry, index) for index in range(self.topic.view(entry).count)
            if not done >> index & 1
        ]

    def _session_for(self, place: Place, overdraw: int = -1) -> MemorySession | None:
        """Who gets it now; an entry that was begun may overdraw the permits."""
        key = self.topic.view(place[0]).key(place[1])
        if key is not None and self._held(key, place):
            return None
        if self.kind == pb.KEY_SHARED:
            number = crc32((key or str(place)).encode()) % max(len(self.sessions), 1)
            chosen = self.sessions[number:number + 1]
        elif self.kind == pb.SHARED:
            turn = self.turn % max(len(self.sessions), 1)
            chosen = [*self.sessions[turn:], *self.sessions[:turn]]
        else:
            chosen = self.sessions[:1]
        for session in chosen:
            if session.permits > 0 or session.begun == overdraw:
                return session
        return None

    def _held(self, key: str, place: Place) -> bool:
        return self.hold and any(failed < place for failed in self.failed.get(key, ()))

    def _hand_out(
        self, session: MemorySession, place: Place, found: dict[MemorySession, list[Place]]
    ) -> None:
        session.permits -= 1
        session.begun = place[0]
        self.in_flight[place] = session
        found.setdefault(session, []).append(place)

    # What becomes of it.

    def acknowledge(self, position: pb.Position) -> None:
        for place in self.places(position):
            self._settle(place)

    def acknowledge_cumulative(self, last: pb.Position) -> None:
        if self.kind not in IN_ORDER:
            raise InvalidArgument("no cumulative acknowledgement here")
        for entry in range(last.entry_id):
            for place in self._unacknowledged(entry):
                self._settle(place)
        for place in self._unacknowledged(last.entry_id):
            if last.batch_index < 0 or place[1] <= last.batch_index:
                self._settle(place)

    def _settle(self, place: Place) -> None:
        entry, index = place
        self.acknowledged[entry] = self.acknowledged.get(entry, 0) | 1 << index
        self.waiting.discard(place)
        self.in_flight.pop(place, None)
        if (timer := self.delayed.pop(place, None)) is not None:
            timer.cancel()
        if (key := self.topic.view(entry).key(index)) is not None:
            self.failed.get(key, set()).discard(place)

    def negative(self, asked: pb.NegativeAcknowledge, session: MemorySession) -> None:
        self.negatives.append(asked)
        for position in asked.positions:
            for place in self.places(position):
                if self.in_flight.get(place) is session:
                    self.reasons[place] = asked.reason
                    self.back(
                        place, counted=not asked.uncounted, failed=not asked.uncounted,
                        delay_ms=asked.delay_ms)

    def back(
        self, place: Place, *, counted: bool, failed: bool = False, delay_ms: int = 0
    ) -> None:
        del self.in_flight[place]
        if counted:
            self.counts[place] = self.counts.get(place, 0) + 1
            if self.max_deliveries and self.counts[place] >= self.max_deliveries:
                self._bury(place)
                return
        key = self.topic.view(place[0]).key(place[1])
        if key is not None and failed:
            self.failed.setdefault(key, set()).add(place)
        if delay_ms:
            self.delayed[place] = asyncio.get_running_loop().call_later(
                delay_ms / 1000, self._due, place)
        else:
            self.waiting.add(place)

    def _bury(self, place: Place) -> None:
        dead = self.topic.cluster.topic(self.dead_letter_topic or f"{self.topic.name}-dead")
        dead.append(select(self.topic.view(place[0]), [place[1]]))
        self._settle(place)

    def _due(self, place: Place) -> None:
        del self.delayed[place]
        self.waiting.add(place)
        self.pump()

    def release(self) -> None:
        """Every delay has passed."""
        for place, timer in self.delayed.items():
            timer.cancel()
            self.waiting.add(place)
        self.delayed.clear()
        self.pump()

    def places(self, position: pb.Position) -> list[Place]:
        bits = int.from_bytes(position.batch_indexes, "little")
        if not position.batch_indexes:
            bits = -1 if position.batch_index < 0 else 1 << position.batch_index
        return [
            (position.entry_id, index)
            for index in range(self.topic.view(position.entry_id).count) if bits >> index & 1
        ]

    def seek(self, seek: pb.Seek) -> None:
        self.epoch += 1
        self.clear()
        if seek.HasField("position"):
            self.next = seek.position.entry_id
            if seek.position.batch_index > 0:
                self.acknowledged[self.next] = (1 << seek.position.batch_index) - 1
        else:
            self.next = self.topic.end(seek.initial_position)

    def clear(self) -> None:
        self.acknowledged.clear()
        self.waiting.clear()
        self.in_flight.clear()
        self.failed.clear()
        for timer in self.delayed.values():
            timer.cancel()
        self.delayed.clear()


class MemorySession:
    """One consumer's stream."""

    def __init__(self, topic: MemoryTopic, opening: pb.OpenConsumer) -> None:
        self.topic = topic
        self.out: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.permits = 0
        self.begun = -1
        self.corrupt_deliveries = 0
        self.told_end = False
        if opening.subscription:
            self.subscription = topic.subscription(opening)
            self.subscription.attach(self, opening)
            return
        begin = topic.end(opening.initial_position)
        if opening.HasField("start"):
            start = opening.start
            begin = start.entry_id + (start.batch_index < 0 and not opening.start_inclusive)
        self.subscription = MemorySubscription(topic, None, begin)
        self.subscription.sessions.append(self)

    def say(self, reply: pb.ConsumeReply) -> None:
        self.out.put_nowait(reply.SerializeToString())

    def refuse(self, error: MagnetarError) -> None:
        self.say(pb.ConsumeReply(error=pb.Error(code=pb.UNAUTHORIZED, message=str(error))))

    def tell_end(self) -> None:
        if not self.told_end:
            self.told_end = True
            self.say(pb.ConsumeReply(end_of_topic=True))

    def deliver(self, places: Iterable[Place]) -> None:
        of_entry: dict[tuple[int, int], int] = {}
        for place in places:
            self.told_end = False
            group = (place[0], self.subscription.counts.get(place, 0))
            of_entry[group] = of_entry.get(group, 0) | 1 << place[1]
        found = []
        for (entry, redelivered), bits in of_entry.items():
            count = self.topic.view(entry).count
            skip = ~bits & ((1 << count) - 1)
            body = encode_prefix(Prefix(1, 1, 0)) + self.topic.entries[entry]
            if self.topic.name.endswith("damaged") or self.corrupt_deliveries:
                self.corrupt_deliveries -= 1
                body = body[:-1] + bytes([body[-1] ^ 1])
            bitmap = skip.to_bytes((count + 7) // 8, "little") if skip else b""
            found.append(Delivered(
                LEDGER_ID, entry, body, bitmap, redelivered, self.subscription.epoch))
        if found:
            self.out.put_nowait(encode_deliveries(found))

    def take(self, request: pb.ConsumeRequest, broker: MemoryBroker) -> None:
        reply, subscription = pb.ConsumeReply(), self.subscription
        for acknowledge in request.acknowledge:
            self._acknowledge(acknowledge, broker, reply)
        for asked in request.negative:
            subscription.negative(asked, self)
            if asked.request_id:
                self.told_end = False
                self.say(pb.ConsumeReply(done=[pb.RequestDone(request_id=asked.request_id)]))
        if request.HasField("seek"):
            subscription.seek(request.seek)
            reply.done.add(request_id=request.seek.request_id)
            reply.epoch = subscription.epoch
        if request.last_message_id_request:
            end = pb.LastMessageId(request_id=request.last_message_id_request)
            end.empty = not self.topic.entries
            if self.topic.entries:
                last = len(self.topic.entries) - 1
                end.position.CopyFrom(pb.Position(
                    ledger_id=LEDGER_ID, entry_id=last,
                    batch_index=self.topic.view(last).count - 1))
            reply.last_message_id.CopyFrom(end)
        if request.unsubscribe:
            self.topic.subscriptions = {
                name: known for name, known in self.topic.subscriptions.items()
                if known is not subscription}
        reply.closed = request.close or request.unsubscribe
        if reply.closed:
            subscription.detach(self)  # free for the next before the reply says so
        if reply.ByteSize():
            self.say(reply)
        self.permits += request.permits
        if not reply.closed:
            subscription.pump()

    def _acknowledge(
        self, asked: pb.Acknowledge, broker: MemoryBroker, reply: pb.ConsumeReply
    ) -> None:
        for position in asked.individual:
            self.subscription.acknowledge(position)
        if asked.HasField("cumulative"):
            self.subscription.acknowledge_cumulative(asked.cumulative)
        broker.cluster.acknowledge_requests += 1
        if broker.cluster.lose_acknowledge_replies:
            broker.cluster.lose_acknowledge_replies -= 1
            raise LinkDropped
        reply.done.add(request_id=asked.request_id)

