"""What becomes of messages that were out: acknowledged, to be delivered again, or given up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.consumer_session import ConsumerSession
from broker.cursor import full_mask
from broker.dead_letter_port import DeadLetters
from broker.dispatch.bodies import Bodies
from broker.dispatch.flights import Flights, Key
from broker.dispatch.key_order import KeyOrder
from broker.dispatch.waiting import Wait, Waiting, WaitingEntry, WaitingPart
from broker.redelivery import History, RedeliveryCounts, first_bytes
from broker.stored_entry import StoredEntry
from magnetar.dead_letter import MAX_REASON_BYTES
from magnetar.errors import MagnetarError
from magnetar.runtime.clock import Clock

EARLY_S = 0.001
"""Timers of the loop and the clock differ by their rounding."""

Order = KeyOrder[ConsumerSession, WaitingEntry]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why messages come back. `counted`: as a delivery that failed. `holds`: later messages of
    their keys wait for them, where the subscription says so."""

    counted: bool = True
    delay_s: float = 0.0
    reason: str = ""
    holds: bool = True


LEFT = Failure(holds=False)
"""Their consumer left: they failed, but nobody says that they would again."""


class ReturnsHost(Protocol):
    """What is asked of the subscription."""

    name: str
    epoch: int
    counts: RedeliveryCounts

    @property
    def max_deliveries(self) -> int: ...

    @property
    def dead_letters(self) -> DeadLetters: ...


class Returns:
    """Of one subscription. `wake` is called when messages have become ready to go out."""

    def __init__(
        self, host: ReturnsHost, flights: Flights, waiting: Waiting, bodies: Bodies, clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._host = host
        self._flights = flights
        self._waiting = waiting
        self._bodies = bodies
        self._clock = clock
        self._wake = wake
        self.order: Order | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = 0.0
        self._burials: deque[Key] = deque()
        self._given: dict[Key, int] = {}
        """With whoever puts them into the dead-letter topic, also after a new beginning."""
        self._closed = False

    # --- to be delivered again

    def take_back(
        self, consumer: ConsumerSession, key: Key, mask: int, failure: Failure
    ) -> bool:
        """These messages are with the consumer no more; False when none of the entry is out."""
        flight = self._flights.get(key)
        if flight is None:
            return False
        for hit, redelivered, reason in self._flights.take(key, consumer, mask):
            self._again(
                key, flight.first_ordinal, flight.count, flight.keys, hit, redelivered, reason,
                failure, was_out=True,
            )
        return True

    def take_all_back(self, consumer: ConsumerSession) -> None:
        """It left, or has had its time."""
        for key in list(consumer.held):
            self.take_back(consumer, key, -1, LEFT)

    def lost(self, entry: StoredEntry, mask: int, before: History, failure: Failure) -> None:
        """As `take_back`, of messages that were out and are not tracked."""
        self._again(
            (entry.ledger_id, entry.entry_id), entry.first_ordinal, entry.count, None, mask,
            before.count, before.reason, failure, was_out=False,
        )

    def kept_back(
        self, entry: StoredEntry, mask: int, keys: Sequence[str | None] | None, history: History
    ) -> bool:
        """Whether messages of the log, which were read just now and had failed before, are not
        to go out yet, or not at all: then they are taken care of."""
        delay_s = history.left_s(self._clock.wall_ms()) if history.due_ms else 0.0
        if not delay_s and not 0 < self._host.max_deliveries <= history.count:
            return False
        self._wait(
            (entry.ledger_id, entry.entry_id), entry.first_ordinal, entry.count, keys, mask,
            history.count, history.reason, delay_s, holds=history.holds, was_out=False,
        )
        return True

    def _again(
        self, key: Key, first: int, count: int, keys: Sequence[str | None] | None, mask: int,
        redelivered: int, reason: str, failure: Failure, *, was_out: bool,
    ) -> None:
        reason = first_bytes(failure.reason, MAX_REASON_BYTES) or reason
        holds = failure.holds and (failure.counted or failure.delay_s > 0)
        if failure.counted or failure.delay_s > 0:
            redelivered += failure.counted
            delay_ms = round(failure.delay_s * 1000)
            due_ms = self._clock.wall_ms() + delay_ms if delay_ms else 0
            self._host.counts.set(
                first, mask, History(redelivered, due_ms, delay_ms, reason, holds))
        self._wait(
            key, first, count, keys, mask, redelivered, reason, failure.delay_s, holds=holds,
            was_out=was_out,
        )

    def _wait(
        self, key: Key, first: int, count: int, keys: Sequence[str | None] | None, mask: int,
        redelivered: int, reason: str, delay_s: float, *, holds: bool, was_out: bool,
    ) -> None:
        due_s = 0.0
        if 0 < self._host.max_deliveries <= redelivered:
            wait = Wait.BURIAL
        elif delay_s > 0:
            wait, due_s = Wait.TIME, self._clock.monotonic_s() + delay_s
        else:
            wait = Wait.TURN
        entry = self._waiting.entry(key, first, count, keys)
        keyed = keyed_of(keys, mask) if self.order is not None and keys is not None else 0
        if keyed:
            self._waiting.add(entry, keyed, redelivered, reason, wait, due_s, ordered=True)
        if mask & ~keyed:
            self._waiting.add(entry, mask & ~keyed, redelivered, reason, wait, due_s)
        if keyed and self.order is not None and keys is not None:
            put_back = self.order.returned if was_out else self.order.kept
            put_back(
                first, keys, keyed, entry, failed=holds or wait is Wait.BURIAL,
                now=wait is Wait.TURN,
            )
        if wait is Wait.BURIAL:
            self._burials.append(key)
            asyncio.get_running_loop().call_soon(self.bury)
        elif wait is Wait.TIME:
            self._arm()

    # --- delays

    def look_at_clock(self) -> None:
        """What was delayed until now waits for its turn from now on."""
        now_s = self._clock.monotonic_s() + EARLY_S
        for entry, mask, ordered in self._waiting.due(now_s):
            if ordered and self.order is not None and entry.keys is not None:
                self.order.set_aside(
                    entry.first_ordinal, entry.keys, mask, entry, fresh=False)

    def _arm(self) -> None:
        due_s = self._waiting.next_due_s()
        if self._timer is not None:
            if due_s is not None and self._timer_due_s <= due_s:
                return
            self._timer.cancel()
            self._timer = None
        if due_s is not None and not self._closed:
            self._timer_due_s = due_s
            self._timer = asyncio.get_running_loop().call_later(
                max(due_s - self._clock.monotonic_s(), 0.0), self._time_came)

    def _time_came(self) -> None:
        self._timer = None
        self.look_at_clock()
        self._arm()
        self._wake()

    # --- to the dead-letter topic

    def bury(self) -> None:
        """Give what was given up to whoever puts it into the dead-letter topic."""
        while self._burials and not self._closed:
            key = self._burials[0]
            entry = self._waiting.get(key)
            given_up = [] if entry is None else [
                part for part in entry.parts if part.wait is Wait.BURIAL and not part.given
            ]
            if given_up:
                body = self._bodies.get(key)
                if body is None:
                    return  # called again once it could be read
                for part in given_up:
                    part.given = True
                    self.give_up(body, part.mask, part.redelivered, part.reason)
            self._burials.popleft()

    def give_up(self, entry: StoredEntry, mask: int, redelivered: int, reason: str) -> None:
        """These messages go to the dead-letter topic, if they are not on their way there."""
        key, epoch = (entry.ledger_id, entry.entry_id), self._host.epoch
        mask &= ~self._given.get(key, 0)
        if not mask:
            return
        self._given[key] = self._given.get(key, 0) | mask

        def buried(error: MagnetarError | None) -> None:
            if epoch == self._host.epoch:
                self._given[key] &= ~mask
                if not self._given[key]:
                    del self._given[key]

        self._host.dead_letters.give(
            self._host.name, entry, mask, redelivered,
            reason or f"delivered {redelivered} times, never acknowledged", buried,
        )

    def take_all_up_again(self) -> None:
        """A seek: what was given up before it is to be delivered."""
        self._given.clear()

    # --- done with

    def span_of(self, key: Key) -> tuple[int, int] | None:
        """First ordinal and number of messages of an entry of which something is out or waits."""
        known = self._flights.entries.get(key) or self._waiting.entries.get(key)
        return None if known is None else (known.first_ordinal, known.count)

    def known_of(self, key: Key) -> int:
        """Which messages of an entry are out or wait."""
        known = 0
        for holder in (self._flights.entries.get(key), self._waiting.entries.get(key)):
            for part in holder.parts if holder is not None else ():
                known |= part.mask
        return known

    def settle(self, key: Key, mask: int) -> None:
        """These messages are acknowledged."""
        if self.order is None:
            self._flights.settle(key, mask)
        elif (flight := self._flights.get(key)) is not None:
            hit = self._flights.settle(key, mask)
            if hit and flight.keys is not None:
                self.order.settled(flight.first_ordinal, flight.keys, hit)
        if self._waiting.entries:
            self._withdraw(self._waiting.settle(key, mask))

    def settle_below(self, floor: int) -> None:
        """Everything below the ordinal is acknowledged."""
        for flight, hit in self._flights.settle_below(floor):
            if self.order is not None and flight.keys is not None:
                self.order.settled(flight.first_ordinal, flight.keys, hit)
        if self._waiting.entries:
            self._withdraw(self._waiting.settle_below(floor))

    def settle_range(self, first: int, end: int) -> None:
        """What waits of the ordinals first..end-1 is done with; what is out stays out."""
        if self._waiting.entries:
            self._withdraw(self._waiting.settle_range(first, end))

    def gone(self, key: Key) -> None:
        """The entry is not in the log any more."""
        self._withdraw(self._waiting.settle(key, -1))

    def withdraw(self, key: Key, mask: int) -> None:
        """These waiting messages are taken care of by somebody else."""
        self._withdraw(self._waiting.settle(key, mask))

    def _withdraw(self, settled: list[tuple[WaitingEntry, WaitingPart, int]]) -> None:
        for entry, part, hit in settled:
            if part.ordered and self.order is not None and entry.keys is not None:
                self.order.withdrawn(
                    entry.first_ordinal, entry.keys, hit,
                    waits=part.wait in (Wait.TURN, Wait.PATH),
                )
            if entry.key not in self._waiting:
                self._bodies.drop(entry.key)

    def clear(self) -> None:
        """Begin anew: nothing is out, nothing waits."""
        self._flights.clear()
        self._waiting.clear()
        self._burials.clear()
        if self.order is not None:
            self.order.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """For good."""
        self._closed = True
        self.clear()


def keyed_of(keys: Sequence[str | None], mask: int) -> int:
    """Those of these messages that have a key."""
    if None not in keys:
        return mask & full_mask(len(keys))
    for index, key in enumerate(keys):
        if key is None:
            mask &= ~(1 << index)
    return mask
