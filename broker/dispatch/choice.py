"""Whom to serve next: the only consumer, the next in turn, or the active one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from broker.consumer_session import ConsumerSession
from broker.conversation import ConsumerEvent
from broker.dispatch.failover import Failover
from broker.dispatch.mode import Mode
from broker.dispatch.ring import Ring
from broker.state_records import SubscriptionKind

Able = Callable[[ConsumerSession], bool]


class Choice(Protocol):
    """Among the consumers of one subscription."""

    def join(self, consumer: ConsumerSession) -> None: ...

    def leave(self, consumer: ConsumerSession) -> None: ...

    def offer(self, consumer: ConsumerSession) -> None:
        """It may be able to take more than before."""

    def first(self, able: Able) -> ConsumerSession | None:
        """Whose turn it is."""

    def served(self, consumer: ConsumerSession) -> None:
        """It had its turn."""

    def is_active(self, consumer: ConsumerSession) -> bool:
        """Whether it takes part, or only stands by."""

    @property
    def switching(self) -> bool:
        """Nobody is served until the active one has settled what it has."""

    def close(self) -> None: ...


class Sole:
    """There is one consumer at most."""

    switching = False

    def __init__(self) -> None:
        self._consumer: ConsumerSession | None = None

    def join(self, consumer: ConsumerSession) -> None:
        self._consumer = consumer

    def leave(self, consumer: ConsumerSession) -> None:
        if self._consumer is consumer:
            self._consumer = None

    def offer(self, consumer: ConsumerSession) -> None:
        pass

    def first(self, able: Able) -> ConsumerSession | None:
        consumer = self._consumer
        return consumer if consumer is not None and able(consumer) else None

    def served(self, consumer: ConsumerSession) -> None:
        pass

    def is_active(self, consumer: ConsumerSession) -> bool:
        return True

    def close(self) -> None:
        pass


class InTurn:
    """Each gets its turn before anyone gets two; see Ring."""

    switching = False

    def __init__(self) -> None:
        self._ring: Ring[ConsumerSession] = Ring()

    def join(self, consumer: ConsumerSession) -> None:
        self._ring.offer(consumer)

    def leave(self, consumer: ConsumerSession) -> None:
        self._ring.leave(consumer)
        consumer.parked = False

    def offer(self, consumer: ConsumerSession) -> None:
        if not consumer.closed:
            consumer.parked = False
            self._ring.offer(consumer)

    def first(self, able: Able) -> ConsumerSession | None:
        def checked(consumer: ConsumerSession) -> bool:
            consumer.parked = not able(consumer)
            return not consumer.parked

        return self._ring.first(checked)

    def served(self, consumer: ConsumerSession) -> None:
        self._ring.served(consumer)

    def is_active(self, consumer: ConsumerSession) -> bool:
        return True

    def close(self) -> None:
        pass


class ActiveOne:
    """The active member of a failover subscription; see Failover. Members are told when they
    become active or stand by. A switch waits for what the active one has, `drain_s` at most;
    then `take_back` takes it back, and `wake` goes on."""

    def __init__(
        self, partition: int, drain_s: float, take_back: Callable[[ConsumerSession], None],
        wake: Callable[[], None],
    ) -> None:
        self._group: Failover[ConsumerSession] = Failover(partition)
        self._drain_s = drain_s
        self._take_back = take_back
        self._wake = wake
        self._told: ConsumerSession | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def switching(self) -> bool:
        return self._group.successor is not None

    def join(self, consumer: ConsumerSession) -> None:
        self._group.join(consumer, consumer.name)
        if self._group.active is not consumer:
            consumer.tell(ConsumerEvent.STANDS_BY)
        self._changed()

    def leave(self, consumer: ConsumerSession) -> None:
        self._group.leave(consumer)
        if self._told is consumer:
            self._told = None
        self._changed()

    def offer(self, consumer: ConsumerSession) -> None:
        pass

    def first(self, able: Able) -> ConsumerSession | None:
        if self.switching:
            self._changed()
        served = self._group.served
        return served if served is not None and able(served) else None

    def served(self, consumer: ConsumerSession) -> None:
        pass

    def is_active(self, consumer: ConsumerSession) -> bool:
        return self._group.active is consumer

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _changed(self) -> None:
        group = self._group
        if self.switching and group.active is not None and not group.active.unacknowledged:
            group.switch()
        if not self.switching:
            self.close()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._drain_s, self._give_up)
        if self._told is not group.active:
            was, self._told = self._told, group.active
            if was is not None:
                was.tell(ConsumerEvent.STANDS_BY)
            if self._told is not None:
                self._told.tell(ConsumerEvent.BECAME_ACTIVE)

    def _give_up(self) -> None:
        """The active member took too long."""
        self._timer = None
        if self.switching and self._group.active is not None:
            self._take_back(self._group.active)
            self._changed()
            self._wake()


def choice_of(
    mode: Mode, drain_s: float, take_back: Callable[[ConsumerSession], None],
    wake: Callable[[], None],
) -> Choice:
    """What suits the mode."""
    match mode.kind:
        case SubscriptionKind.EXCLUSIVE | SubscriptionKind.BROADCAST:
            return Sole()
        case SubscriptionKind.SHARED | SubscriptionKind.KEY_SHARED:
            return InTurn()
        case SubscriptionKind.FAILOVER:
            return ActiveOne(mode.partition, drain_s, take_back, wake)
