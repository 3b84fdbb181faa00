"""Hands the messages of a subscription to its consumers, and remembers them until acknowledged.

What is redelivered goes first, in the order of the log; then the log itself. How consumers share
is the `Mode`; see `broker.dispatch` for the parts. Every loop is bounded: one turn hands out at
most `TURN_BYTES` and then lets others run.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from broker.consumer_session import ConsumerSession
from broker.dispatch.bodies import Bodies
from broker.dispatch.choice import choice_of
from broker.dispatch.desk import Desk, DeskHost
from broker.dispatch.flights import Flight, Flights, Key, Part
from broker.dispatch.key_order import KeyOrder
from broker.dispatch.mode import Mode
from broker.dispatch.ordered_turn import OrderedTurn
from broker.dispatch.plain_turn import PlainTurn
from broker.dispatch.returns import Order, Returns, ReturnsHost
from broker.dispatch.waiting import Waiting
from broker.filtered_log import FilteredLog, FilterHost
from broker.log_reader import LogReader
from broker.settings import BrokerLimits
from broker.topic_log import TopicLog
from broker.traffic import TrafficCounter
from ledger.position import Position
from magnetar.runtime.clock import Clock

TURN_BYTES = 1 << 20


class DispatchHost(DeskHost, ReturnsHost, FilterHost, Protocol):
    """What a dispatcher and its parts need of their subscription."""

    def may_dispatch(self) -> bool: ...

    def turn_ended(self) -> None:
        """All was handed out that can be now, which may be nothing."""


class Dispatcher:
    """`tracked` False is for readers, which acknowledge nothing and get nothing again."""

    def __init__(
        self, host: DispatchHost, log: TopicLog, limits: BrokerLimits, clock: Clock, mode: Mode,
        *, tracked: bool,
    ) -> None:
        self._host = host
        self._log = log
        self._limits = limits
        self._clock = clock
        self.consumers: list[ConsumerSession] = []
        self.reader = FilteredLog(
            LogReader(log, limits, clock, self.schedule), host, self.schedule
        )
        self.flights = Flights(self._freed)
        self.waiting = Waiting()
        self._bodies = Bodies(
            log, limits, clock, self.waiting, self._bodies_came, self._body_is_gone)
        self.traffic = TrafficCounter(clock.monotonic_s())
        self.returns = Returns(
            host, self.flights, self.waiting, self._bodies, clock, self.schedule)
        self.desk = Desk(
            host, self.reader, self.flights, self.waiting, self._bodies, limits, self.traffic,
            tracked=tracked,
        )
        self.paused = True
        self.beginnings = 0
        """How often it began anew."""
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self.mode = mode
        self._configure(mode)

    def _configure(self, mode: Mode) -> None:
        self.mode = self.desk.mode = mode
        self.desk.choice = choice_of(
            mode, self._limits.failover_drain_s, self.returns.take_all_back, self.schedule)
        self.order: Order | None = None
        if mode.ordered:
            self.order = KeyOrder(sticky=mode.sticky, hold=mode.hold)
        self.returns.order = self.order
        self._plain = PlainTurn(self.desk, self.returns)
        self._ordered = None if self.order is None else OrderedTurn(
            self.desk, self.returns, self.order, self._wake_in)

    def change_mode(self, mode: Mode) -> None:
        """Nobody is attached, and `restart` comes next."""
        self.returns.clear()
        self._configure(mode)

    # --- what it is doing

    @property
    def lost_track(self) -> bool:
        """Some of what is out is not known here: it comes again when the consumer leaves."""
        return self.desk.lost_track

    @property
    def waiting_entries(self) -> int:
        """How many entries wait to be delivered, again or for the first time."""
        return len(self.waiting)

    @property
    def problem(self) -> str | None:
        """Why nothing can be read, if so."""
        return self.reader.problem or self._bodies.problem

    @property
    def switching(self) -> bool:
        """Nobody is served until the former active consumer has settled what it has."""
        return self.desk.choice.switching

    def is_active(self, consumer: ConsumerSession) -> bool:
        """Whether it takes part, or only stands by."""
        return self.desk.choice.is_active(consumer)

    @property
    def delivered_everything(self) -> bool:
        """Nothing stored is still to be delivered, not even again."""
        return (
            not self.waiting and not self.desk.again and not self.desk.spare
            and self.reader.at_end and (self._ordered is None or self._ordered.at_rest)
        )

    # --- consumers

    def join(self, consumer: ConsumerSession) -> None:
        """A consumer more."""
        self.consumers.append(consumer)
        self.desk.choice.join(consumer)
        if self.order is not None:
            self.order.join(consumer)
        self.paused = False

    def leave(self, consumer: ConsumerSession) -> None:
        """It is gone; what it had goes to the others, or waits."""
        self.consumers.remove(consumer)
        if self.order is not None:
            self.order.leave(consumer)
        self.returns.take_all_back(consumer)
        self.desk.leave(consumer)
        if self.consumers:
            self.schedule()
        else:
            self.paused = True

    def offer(self, consumer: ConsumerSession) -> None:
        """It may be able to take more than before."""
        self.desk.choice.offer(consumer)
        self.schedule()

    def offer_all(self) -> None:
        """What they may take has changed."""
        for consumer in self.consumers:
            self.desk.choice.offer(consumer)
        self.schedule()

    def _freed(self, consumer: ConsumerSession) -> None:
        self.desk.choice.offer(consumer)

    # --- work

    def schedule(self) -> None:
        """Hand out what can be handed out, soon and once."""
        if not self._scheduled and self.consumers and not self.paused:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def restart(self, after: Position) -> None:
        """Begin anew after a position: nothing is in flight, nothing waits."""
        self._clear()
        self.beginnings += 1
        self.reader.seek(after)
        for consumer in self.consumers:
            self.desk.choice.offer(consumer)

    def close(self) -> None:
        """For good."""
        self.paused = True
        self.reader.close()
        self.returns.close()
        self._clear()
        self.desk.choice.close()

    def _clear(self) -> None:
        self.returns.clear()
        self._bodies.close()
        self.desk.again.clear()
        self.desk.spare.clear()
        self.desk.lost_track = False
        if self._ordered is not None:
            self._ordered.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pump(self) -> None:
        self._scheduled = False
        if self.paused:
            return
        if not self._host.may_dispatch():
            self._host.turn_ended()
            return
        self.reader.begin_turn()
        self._host.expiry.begin_turn()
        self.returns.look_at_clock()
        self.desk.begin_turn(TURN_BYTES)
        if self._ordered is None:
            self._plain.run()
        else:
            self._ordered.run(self._clock.monotonic_s())
        self.desk.end_turn()
        if self.desk.budget <= 0:
            self.schedule()
        else:
            self._host.turn_ended()

    def _wake_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._woken)

    def _woken(self) -> None:
        self._timer = None
        self.schedule()

    def _bodies_came(self) -> None:
        self.returns.bury()
        self.schedule()

    def _body_is_gone(self, key: Key) -> None:
        self.returns.gone(key)


__all__ = ["DispatchHost", "Dispatcher", "Flight", "Key", "Part"]
