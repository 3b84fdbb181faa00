"""Chooses what goes to which consumer of a subscription, and remembers it until acknowledged.

Redelivered entries go first, in the order of the log; then the log itself. A shared
subscription goes round robin by entries. Every loop is bounded: one turn hands out at most
`TURN_BYTES` and then lets others run.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict, deque
from typing import Protocol

from broker.consumer_session import ConsumerSession
from broker.conversation import Delivery
from broker.cursor import Cursor, full_mask, lowest_bits
from broker.cut_entry import cut_entry, whole_entry
from broker.expiry import Expiry
from broker.filtered_log import FilteredLog
from broker.log_reader import LogReader
from broker.redelivery import RedeliveryCounts
from broker.settings import BrokerLimits
from broker.state_records import SubscriptionKind
from broker.stored_entry import StoredEntry
from broker.topic_log import TopicLog
from broker.traffic import TrafficCounter
from ledger.position import Position
from magnetar.errors import MagnetarError
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import Clock

TURN_BYTES = 1 << 20
Key = tuple[int, int]


class DispatchHost(Protocol):
    """What a dispatcher needs of its subscription."""

    cursor: Cursor
    kind: SubscriptionKind
    epoch: int
    counts: RedeliveryCounts
    expiry: Expiry

    def may_dispatch(self) -> bool: ...

    def passed_over(self, entry: StoredEntry, mask: int) -> None:
        """See FilterHost."""


class Part:
    """Messages of one entry (`mask`) that went to one consumer."""

    __slots__ = ("consumer", "mask", "redelivered")

    def __init__(self, consumer: ConsumerSession, mask: int, redelivered: int) -> None:
        self.consumer = consumer
        self.mask = mask
        self.redelivered = redelivered


class Flight:
    """An entry some of whose messages are delivered and not acknowledged."""

    __slots__ = ("count", "first_ordinal", "parts")

    def __init__(self, first_ordinal: int, count: int, parts: list[Part]) -> None:
        self.first_ordinal = first_ordinal
        self.count = count
        self.parts = parts


class Waiting:
    """An entry some of whose messages wait to be delivered again."""

    __slots__ = ("count", "first_ordinal", "parts")

    def __init__(self, first_ordinal: int, count: int) -> None:
        self.first_ordinal = first_ordinal
        self.count = count
        self.parts: list[tuple[int, int]] = []  # mask, redelivery count


class Dispatcher:
    """`tracked` False is for readers, which acknowledge nothing and get nothing again."""

    def __init__(
        self, host: DispatchHost, log: TopicLog, limits: BrokerLimits, clock: Clock, tracked: bool
    ) -> None:
        self._host = host
        self._log = log
        self._limits = limits
        self._clock = clock
        self._tracked = tracked
        self.consumers: list[ConsumerSession] = []
        self.flights: OrderedDict[Key, Flight] = OrderedDict()
        self.reader = FilteredLog(
            LogReader(log, limits, clock, self.schedule), host, self.schedule
        )
        self.traffic = TrafficCounter(clock.monotonic_s())
        self.paused = True
        self.lost_track = False
        self._turn = 0
        self._scheduled = False
        self._ready: deque[tuple[StoredEntry, int, int]] = deque()
        self._waiting: dict[Key, Waiting] = {}
        self._order: list[Key] = []
        self._bodies: dict[Key, StoredEntry] = {}
        self._fetch: asyncio.Task[None] | None = None

    @property
    def waiting_entries(self) -> int:
        """How many entries wait to be delivered again."""
        return len(self._waiting)

    def schedule(self) -> None:
        """Hand out what can be handed out, soon and once."""
        if not self._scheduled and self.consumers and not self.paused:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def restart(self, after: Position) -> None:
        """Begin anew after a position: nothing is in flight, nothing waits."""
        self.flights.clear()
        self._clear_waiting()
        self.lost_track = False
        self.reader.seek(after)

    def close(self) -> None:
        self.paused = True
        self.reader.close()
        self._clear_waiting()

    def _clear_waiting(self) -> None:
        self._ready.clear()
        self._waiting.clear()
        self._order.clear()
        self._bodies.clear()
        if self._fetch is not None:
            self._fetch.cancel()
            self._fetch = None

    def _pump(self) -> None:
        self._scheduled = False
        budget = TURN_BYTES
        self.reader.begin_turn()
        self._host.expiry.begin_turn()
        served: dict[int, ConsumerSession] = {}
        while budget > 0:
            consumer = self._choose()
            if consumer is None:
                break
            found = self._take()
            if found is None:
                break
            entry, mask, redelivered = found
            if consumer.exact and mask.bit_count() > consumer.permits:
                mask = self._cut(entry, mask, redelivered, consumer.permits)
            budget -= self.reader.cost_of(entry, mask)
            served[consumer.consumer_id] = consumer
            self._hand_out(consumer, entry, mask, redelivered)
        else:
            self.schedule()
        for consumer in served.values():
            consumer.flush()

    def _choose(self) -> ConsumerSession | None:
        """The next consumer in turn that may be sent something."""
        if self.paused or not self._host.may_dispatch():
            return None
        count = len(self.consumers)
        for offset in range(count):
            consumer = self.consumers[(self._turn + offset) % count]
            backlog = consumer.outgoing_bytes + consumer.backlog_bytes()
            if consumer.permits > 0 and backlog < self._limits.consumer_backlog_bytes:
                self._turn = (self._turn + offset) % count
                return consumer
        return None

    def _hand_out(
        self, consumer: ConsumerSession, entry: StoredEntry, mask: int, redelivered: int
    ) -> None:
        self._turn += 1
        messages = mask.bit_count()
        consumer.permits -= messages
        consumer.delivered_messages += messages
        if self._tracked:
            self._track(consumer, entry, mask, redelivered)
        whole = self.reader.filter is None and not consumer.exact
        cut = (whole_entry if whole else cut_entry)(entry, mask)
        self.traffic.count(messages, len(cut.body))
        consumer.offer(Delivery(
            entry.ledger_id, entry.entry_id, cut.body, cut.skip, redelivered, self._host.epoch,
            cut.picked,
        ))

    def _track(
        self, consumer: ConsumerSession, entry: StoredEntry, mask: int, redelivered: int
    ) -> None:
        key = (entry.ledger_id, entry.entry_id)
        flight = self.flights.get(key)
        if flight is not None:
            flight.parts.append(Part(consumer, mask, redelivered))
            return
        self.flights[key] = Flight(
            entry.first_ordinal, entry.count, [Part(consumer, mask, redelivered)]
        )
        if len(self.flights) > self._limits.in_flight_entries:
            # Only exclusive ones get here: their only consumer leaving means starting over from
            # the cursor, which needs no list of what was in flight.
            self.flights.popitem(last=False)
            self.lost_track = True

    def _take(self) -> tuple[StoredEntry, int, int] | None:
        """The next entry to deliver, which of its messages, and how often they were before."""
        while self._ready:
            entry, mask, redelivered = self._ready.popleft()
            mask = self._deliverable(entry, mask)
            if mask:
                return entry, mask, redelivered
        if self._waiting:
            return self._take_waiting()
        if (
            self._host.kind is SubscriptionKind.SHARED
            and len(self.flights) >= self._limits.in_flight_entries
        ):
            return None
        while (read := self.reader.next()) is not None:
            mask = self._deliverable(read, full_mask(read.count))
            if not mask:
                continue
            parts = self._host.counts.split(read.first_ordinal, mask)
            for part, redelivered in parts[1:]:
                self._ready.append((read, part, redelivered))
            return read, *parts[0]
        return None

    def _take_waiting(self) -> tuple[StoredEntry, int, int] | None:
        while self._order:
            key = self._order[0]
            waiting = self._waiting[key]
            unacknowledged = ~self._host.cursor.mask(waiting.first_ordinal, waiting.count)
            parts = [
                (mask & unacknowledged, redelivered)
                for mask, redelivered in sorted(waiting.parts, key=_first_message)
                if mask & unacknowledged
            ]
            entry = self._bodies.get(key) or self._log.cached(*key)
            if parts and entry is None:
                self._fetch_waiting(key)
                return None
            heapq.heappop(self._order)
            del self._waiting[key]
            self._bodies.pop(key, None)
            if entry is not None:
                live = [
                    (left, redelivered) for mask, redelivered in parts
                    if (left := self._deliverable(entry, mask))
                ]
                for mask, redelivered in live[1:]:
                    self._ready.append((entry, mask, redelivered))
                if live:
                    return entry, *live[0]
        return self._take()

    def _deliverable(self, entry: StoredEntry, mask: int) -> int:
        """Those of these messages that are neither acknowledged nor expired."""
        mask &= ~self._host.cursor.mask(entry.first_ordinal, entry.count)
        return self._host.expiry.live(entry, mask) if mask else 0

    def _fetch_waiting(self, key: Key) -> None:
        """Read the entry, and with it the neighbours that wait as well."""
        if self._fetch is not None:
            return
        ledger_id, entry_id = key
        run = 1
        while (ledger_id, entry_id + run) in self._waiting and run < 100:
            run += 1
        after = Position(LedgerId(ledger_id), EntryId(entry_id - 1))
        self._fetch = asyncio.get_running_loop().create_task(self._read_waiting(after, run))

    async def _read_waiting(self, after: Position, run: int) -> None:
        while True:
            try:
                found = await self._log.read(after, run, self._limits.read_ahead_bytes)
                if found:
                    break
            except MagnetarError as error:
                self.reader.problem = f"cannot read after {after}: {error}"
            await self._clock.sleep(self._limits.read_retry_s)
        self._fetch = None
        self._bodies = {
            key: entry for entry in found
            if (key := (entry.ledger_id, entry.entry_id)) in self._waiting
        }
        wanted = (after.ledger_id, after.entry_id + 1)
        if wanted in self._waiting and wanted not in self._bodies:
            # Trimmed meanwhile, which happens to acknowledged or non-durable entries only.
            del self._waiting[wanted]
            self._order = [key for key in self._order if key != wanted]
            heapq.heapify(self._order)
        self.schedule()

    def _cut(self, entry: StoredEntry, mask: int, redelivered: int, most: int) -> int:
        """The first `most` messages; the others are next, before what comes after them."""
        taken = lowest_bits(mask, most)
        key = (entry.ledger_id, entry.entry_id)
        self._wait(key, entry.first_ordinal, entry.count, mask & ~taken, redelivered)
        self._bodies[key] = entry
        return taken

    def again(
        self, key: Key, first_ordinal: int, count: int, mask: int, redelivered: int
    ) -> None:
        """These messages wait to be delivered for the `redelivered`-th time again."""
        self._wait(key, first_ordinal, count, mask, redelivered)
        self._host.counts.set(first_ordinal, mask, redelivered)

    def _wait(
        self, key: Key, first_ordinal: int, count: int, mask: int, redelivered: int
    ) -> None:
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = Waiting(first_ordinal, count)
            heapq.heappush(self._order, key)
        waiting.parts.append((mask, redelivered))

    def take_back(
        self, consumer: ConsumerSession, key: Key, mask: int, *, counted: bool = True
    ) -> bool:
        """The consumer wants these messages again, or leaves; False: they are not with it."""
        flight = self.flights.get(key)
        if flight is None:
            return False
        unacknowledged = ~self._host.cursor.mask(flight.first_ordinal, flight.count)
        kept = []
        for part in flight.parts:
            if part.consumer is consumer:
                hit = part.mask & mask & unacknowledged
                part.mask &= ~mask & unacknowledged
                if hit:
                    put_back = self.again if counted else self._wait
                    put_back(
                        key, flight.first_ordinal, flight.count, hit, part.redelivered + counted)
            if part.mask:
                kept.append(part)
        flight.parts = kept
        if not kept:
            del self.flights[key]
        return True

    def take_all_back(self, consumer: ConsumerSession) -> None:
        """The consumer left."""
        held = [
            key for key, flight in self.flights.items()
            if any(part.consumer is consumer for part in flight.parts)
        ]
        for key in held:
            self.take_back(consumer, key, -1)

    def acknowledged_below(self, floor: int) -> None:
        """Forget flights that a cumulative acknowledgement covered."""
        while self.flights:
            key = next(iter(self.flights))
            flight = self.flights[key]
            if flight.first_ordinal + flight.count > floor:
                return
            del self.flights[key]


def _first_message(part: tuple[int, int]) -> int:
    return part[0] & -part[0]
