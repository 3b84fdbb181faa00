"""The dead letters of a broker's topics: a lane for each subscription that gives messages up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Protocol

from broker.dead_letter_lane import (
    DeadLetterCounters,
    DeadLetterLane,
    DeadLetterLimits,
    EntrySource,
    LaneHost,
)
from broker.forwarding.byte_budget import ByteBudget
from broker.forwarding.port import Forwarder
from broker.stored_entry import StoredEntry
from magnetar.errors import MagnetarError
from magnetar.runtime.clock import Clock

COPYING_BYTES = 32 << 20
"""Payloads of dead letters that a broker has in hand at a time, over all its topics."""


class DeadLetterHost(Protocol):
    """What dead letters need of their topic."""

    @property
    def name(self) -> str: ...

    def dead_letter_hosts(self) -> Mapping[str, LaneHost]:
        """The subscriptions, by name."""


class DeadLetterOffice:
    """What the lanes of one broker share."""

    def __init__(
        self, forwarder: Forwarder, clock: Clock, random: Random,
        limits: DeadLetterLimits | None = None,
    ) -> None:
        self.forwarder = forwarder
        self.clock = clock
        self.random = random
        self.limits = limits or DeadLetterLimits()
        self.budget = ByteBudget(COPYING_BYTES)
        self.counters = DeadLetterCounters()

    def of_topic(self, host: DeadLetterHost, entries: EntrySource) -> TopicDeadLetters:
        """For one loaded topic."""
        return TopicDeadLetters(self, host, entries)


class TopicDeadLetters:
    """See `DeadLetters`, which this is."""

    def __init__(
        self, office: DeadLetterOffice, host: DeadLetterHost, entries: EntrySource
    ) -> None:
        self._office = office
        self._host = host
        self._entries = entries
        self._lanes: dict[str, DeadLetterLane] = {}
        self._closed = False

    def give(
        self, subscription: str, entry: StoredEntry, mask: int, attempts: int, reason: str,
        done: Callable[[MagnetarError | None], None],
    ) -> None:
        """See `DeadLetters.give`."""
        if mask and not self._closed:
            self._lane(subscription).give(entry, mask, attempts, reason, done)

    def resume(self, subscription: str) -> None:
        """Find out what became of a parcel that the last owner of the topic had on its way."""
        host = self._host.dead_letter_hosts().get(subscription)
        if host is not None and host.dead_letter_plan is not None and not self._closed:
            self._lane(subscription).resume()

    def forget(self, subscription: str) -> None:
        """The subscription is deleted: what it gave up is nobody's any more."""
        lane = self._lanes.pop(subscription, None)
        if lane is not None:
            lane.close()

    def close(self) -> None:
        """The topic ends here."""
        self._closed = True
        for lane in self._lanes.values():
            lane.close()

    def lane(self, subscription: str) -> DeadLetterLane | None:
        """To be looked at; None while nothing was ever given up."""
        return self._lanes.get(subscription)

    @property
    def waiting_messages(self) -> int:
        """Given up, and not yet durable in a dead-letter topic."""
        return sum(lane.waiting_messages for lane in self._lanes.values())

    @property
    def problems(self) -> dict[str, str]:
        """What keeps dead letters from going out, by subscription."""
        found = {
            name: lane.problem or lane.problem_aside for name, lane in self._lanes.items()
        }
        return {name: problem for name, problem in found.items() if problem is not None}

    def _lane(self, subscription: str) -> DeadLetterLane:
        lane = self._lanes.get(subscription)
        if lane is None:
            office = self._office
            lane = self._lanes[subscription] = DeadLetterLane(
                self._host.dead_letter_hosts()[subscription], self._entries, office.forwarder,
                office.budget, office.clock, office.random, office.counters, office.limits,
            )
        return lane
