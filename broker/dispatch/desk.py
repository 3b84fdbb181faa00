"""Where a turn of dispatch takes messages from, and hands them to consumers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from broker.consumer_session import ConsumerSession
from broker.conversation import Delivery
from broker.cursor import Cursor, lowest_bits
from broker.cut_entry import (
    OpenedEntry,
    cut_entry,
    cutting_cost_bytes,
    cutting_pays,
    whole_entry,
)
from broker.dispatch.bodies import Bodies
from broker.dispatch.choice import Choice
from broker.dispatch.flights import Flights, Key
from broker.dispatch.masks import in_order
from broker.dispatch.mode import Mode
from broker.dispatch.waiting import Wait, Waiting
from broker.expiry import Expiry
from broker.filtered_log import ENTRY_COST_BYTES, FilteredLog
from broker.redelivery import RedeliveryCounts
from broker.settings import BrokerLimits
from broker.stored_entry import StoredEntry
from broker.subscription_stats import Block
from broker.traffic import TrafficCounter
from tenants.policies import TopicPolicies

NO_BOUND = 1 << 62


class Piece(NamedTuple):
    """Messages of one entry that may go to anybody. `fresh`: they were never delivered."""

    entry: StoredEntry
    mask: int
    redelivered: int
    reason: str
    keys: Sequence[str | None] | None
    fresh: bool

    @property
    def key(self) -> Key:
        return (self.entry.ledger_id, self.entry.entry_id)

    @property
    def ordinal(self) -> int:
        """Of its first message."""
        return self.entry.first_ordinal + (self.mask & -self.mask).bit_length() - 1


EXPIRED_COST_BYTES = 1_000
"""What passing over expired messages of an entry costs, as bytes that would cost as much."""


class DeskHost(Protocol):
    """What is asked of the subscription."""

    cursor: Cursor
    epoch: int
    counts: RedeliveryCounts
    expiry: Expiry

    @property
    def policies(self) -> TopicPolicies: ...

    @property
    def max_deliveries(self) -> int:
        """Of a message, before it is given up; 0: any number."""


class Desk:
    """Of one subscription. `tracked` False: nothing is remembered of what went out."""

    def __init__(
        self, host: DeskHost, reader: FilteredLog, flights: Flights, waiting: Waiting,
        bodies: Bodies, limits: BrokerLimits, traffic: TrafficCounter, *, tracked: bool,
    ) -> None:
        self.host = host
        self.reader = reader
        self.flights = flights
        self.waiting = waiting
        self.bodies = bodies
        self.limits = limits
        self.tracked = tracked
        self.traffic = traffic
        self.mode: Mode
        self.choice: Choice
        self.again: deque[Piece] = deque()
        """Taken from what waits for its turn, and to be handed out next."""
        self.spare: deque[Piece] = deque()
        """Taken from the log, and to be handed out before what comes after it."""
        self.lost_track = False
        self.budget = 0
        self._served: dict[int, ConsumerSession] = {}
        self.room_found = 0
        """Of the consumer that `able` was asked about last."""
        self.opened = OpenedEntry()
        self.reading = False
        """What is to go next is not at hand."""
        self._consumer_bound = NO_BOUND
        self._subscription_bound = NO_BOUND
        self._found_at_bound: dict[ConsumerSession, None] = {}
        """Who was at its bound when its turn came; some may have room again."""

    # --- turns

    def begin_turn(self, budget: int) -> None:
        """So many bytes may go out, or what costs as much, before others run."""
        policies = self.host.policies
        self._consumer_bound = _bound(policies.max_unacked_messages_per_consumer)
        self._subscription_bound = _bound(policies.max_unacked_messages_per_subscription)
        self.budget = budget
        self.reading = False

    def end_turn(self) -> None:
        """Send what was collected."""
        self.opened.forget()
        served, self._served = self._served, {}
        for consumer in served.values():
            consumer.flush()
            if consumer.parked:  # perhaps only for what was collected
                self.choice.offer(consumer)

    def leave(self, consumer: ConsumerSession) -> None:
        """It is gone, and has nothing any more."""
        self.choice.leave(consumer)
        self._found_at_bound.pop(consumer, None)

    # --- room

    def able(self, consumer: ConsumerSession) -> bool:
        """Whether it may be given anything now."""
        self.room_found = room = self.room(consumer)
        return room > 0

    def room(self, consumer: ConsumerSession) -> int:
        """How many messages it may be given now."""
        if consumer.permits <= 0 or not self.has_way(consumer):
            return 0
        room = self._consumer_bound - consumer.unacknowledged
        if room <= 0:
            self._found_at_bound[consumer] = None
            return 0
        if self.mode.sharing or consumer.exact:
            return min(room, consumer.permits)
        return room

    def has_way(self, consumer: ConsumerSession) -> bool:
        """Its connection takes more."""
        backlog_bytes = consumer.outgoing_bytes + consumer.backlog_bytes()
        return backlog_bytes < self.limits.consumer_backlog_bytes

    def at_consumer_bound(self, consumer: ConsumerSession) -> bool:
        """It holds as much as it may."""
        return consumer.unacknowledged >= self._consumer_bound

    def consumer_bound_met(self) -> bool:
        """A consumer whose turn came holds as much as it may, and still does."""
        found = self._found_at_bound
        while found:
            consumer = next(reversed(found))
            if self.at_consumer_bound(consumer):
                return True
            del found[consumer]
        return False

    def bounds_met(self) -> list[Block]:
        """What keeps back messages that were never delivered, whoever may take them."""
        met = []
        if self.fresh_room() <= 0:
            met.append(Block.FLIGHT_BOUND if self._at_flight_bound() else Block.SUBSCRIPTION_BOUND)
        if self.at_look_ahead_bound():
            met.append(Block.LOOK_AHEAD_BOUND)
        return met

    def fresh_room(self) -> int:
        """How many messages that were never delivered may be."""
        if not self.tracked:
            return NO_BOUND
        if self._at_flight_bound():
            return 0
        room = self._subscription_bound - self.flights.messages
        return room - self.waiting.delivered if self.waiting.entries else room

    def _at_flight_bound(self) -> bool:
        """As many entries are out, or wait, as are tracked."""
        entries = len(self.flights.entries) + len(self.waiting.entries)
        return entries >= self.limits.in_flight_entries and not self._may_lose_track

    def at_look_ahead_bound(self) -> bool:
        """As much is set aside, and passed by others, as may be."""
        return self.waiting.messages[Wait.PATH] >= self.limits.look_ahead_messages

    @property
    def _may_lose_track(self) -> bool:
        """One consumer without a bound: what went out first may be forgotten, since its leaving
        means starting over from the cursor, which needs no list of what was out."""
        return (
            self._consumer_bound == NO_BOUND and self.mode.of_one and not self.mode.ordered
        )

    # --- messages

    def deliverable(self, entry: StoredEntry, mask: int) -> int:
        """Those of these messages that are neither acknowledged nor expired."""
        mask &= ~self.host.cursor.mask(entry.first_ordinal, entry.count)
        if not mask:
            self.budget -= ENTRY_COST_BYTES
            return 0
        live = self.host.expiry.live(entry, mask)
        if live != mask:
            self.budget -= EXPIRED_COST_BYTES
        return live

    def source(self) -> deque[Piece] | None:
        """Where the next piece that may go to anybody is; None when there is none, or when it is
        being read. Where whoever acknowledges a message may mean all before it, none of those
        comes later."""
        pieces = self.again or self.spare or None
        entry = self.waiting.first_in_turn() if self.waiting.entries else None
        if pieces is not None and self.mode.in_order:
            if self.spare and self.spare[0].ordinal < pieces[0].ordinal:
                pieces = self.spare
            if entry is not None and entry.turn_ordinal > pieces[0].ordinal:
                return pieces
        if entry is None or (self.again and not self.mode.in_order):
            return pieces
        body = self.bodies.get(entry.key)
        if body is None:
            self.reading = True
            return None
        found = [
            Piece(body, part.mask, part.redelivered, part.reason, entry.keys, False)
            for part in self.waiting.take_turn(entry)
        ]
        while self.again and self.again[0].key == entry.key:
            found.append(self.again.popleft())
        self.again.extendleft(reversed(self.in_turn(found)))
        self.bodies.drop(entry.key)
        return self.again

    def in_turn(self, pieces: list[Piece]) -> list[Piece]:
        """Pieces of one entry as they are to go: by their messages, where those keep their order
        however often each was delivered."""
        if not self.mode.in_order or len(pieces) < 2:
            return pieces
        runs = in_order([piece.mask for piece in pieces])
        return [pieces[place]._replace(mask=run) for place, run in runs]

    def serve(self, pieces: deque[Piece]) -> bool:
        """Hand the first piece, or what fits of it, to whoever's turn it is; False when nobody
        may take it."""
        consumer = self.choice.first(self.able)
        if consumer is None:
            return False
        piece, room = pieces[0], self.room_found
        if piece.fresh:
            # One that stands before what is to go again must not keep it back.
            least = 1 if self.again or self.waiting.first_in_turn() is not None else 0
            room = min(room, max(self.fresh_room(), least))
            if room <= 0:
                return False
        entry = piece.entry
        mask = self.deliverable(entry, piece.mask)
        rest = 0
        if mask.bit_count() > room:
            taken = lowest_bits(mask, room)
            mask, rest = taken, mask ^ taken
        if mask:
            self.hand_out(consumer, entry, mask, piece.redelivered, piece.reason, piece.keys)
            self.choice.served(consumer)
        if rest:
            pieces[0] = piece._replace(mask=rest)
        else:
            pieces.popleft()
        return True

    def hand_out(
        self, consumer: ConsumerSession, entry: StoredEntry, mask: int, redelivered: int,
        reason: str, keys: Sequence[str | None] | None,
    ) -> None:
        """These messages go to this consumer."""
        messages = mask.bit_count()
        consumer.permits -= messages
        consumer.delivered_messages += messages
        if self.tracked:
            self.flights.add(entry, mask, keys, consumer, redelivered, reason)
            if len(self.flights.entries) > self.limits.in_flight_entries and self._may_lose_track:
                self.flights.forget_oldest()
                self.lost_track = True
        if messages == entry.count:
            body, skip, picked = entry.body, b"", b""
        elif self._cuts(consumer, entry, mask):
            body, skip, picked = cut_entry(entry, mask, self.opened)
            self.budget -= cutting_cost_bytes(entry, messages)
        else:
            body, skip, picked = whole_entry(entry, mask)
        size_bytes = len(body)
        self.budget -= size_bytes + ENTRY_COST_BYTES
        self.traffic.count(messages, size_bytes)
        self._served[consumer.consumer_id] = consumer
        consumer.offer(Delivery(
            entry.ledger_id, entry.entry_id, body, skip, redelivered, self.host.epoch, picked
        ))

    def _cuts(self, consumer: ConsumerSession, entry: StoredEntry, mask: int) -> bool:
        """Whether the consumer is sent only these messages, rather than the whole entry."""
        return self.reader.filter is not None or consumer.exact or (
            self.mode.sharing and cutting_pays(entry, mask)
        )


def _bound(policy: int) -> int:
    return policy if policy > 0 else NO_BOUND
