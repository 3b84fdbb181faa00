"""The lanes of one topic: one for each subscription and target, made when first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from broker.forwarding.lane import EntrySource, ForwardLane, LaneHost, LaneOffice
from broker.forwarding.parcel import Piece
from broker.forwarding.partitions import PartitionRoutes


class LanesHost(Protocol):
    """What lanes need of their topic."""

    @property
    def name(self) -> str: ...

    def lane_hosts(self) -> Mapping[str, LaneHost]:
        """The subscriptions, by name."""


class TopicLanes:
    """Closed with its topic."""

    def __init__(self, host: LanesHost, entries: EntrySource, office: LaneOffice) -> None:
        self._host = host
        self._entries = entries
        self._office = office
        self._lanes: dict[str, dict[str, ForwardLane]] = {}
        self._closed = False

    @property
    def office(self) -> LaneOffice:
        return self._office

    def lane(
        self, subscription: str, target: str, in_trouble: Callable[[], None] | None = None,
        keep_for: str = "", pass_on: Callable[[str, Piece], None] | None = None,
    ) -> ForwardLane:
        """The one lane, made or, after `resume`, completed now. `pass_on`: see PartitionRoutes."""
        lanes = self._lanes.setdefault(subscription, {})
        host, office = self._host.lane_hosts()[subscription], self._office
        lane = lanes.get(target)
        if lane is None:
            lane = lanes[target] = ForwardLane(host, target, self._entries, office)
            if self._closed:
                lane.close()
        if in_trouble is not None:
            lane.in_trouble, lane.keep_for = in_trouble, keep_for
        if pass_on is not None and lane.routes is None:
            lane.routes = PartitionRoutes(
                target, host.forward_plans, office.forwarder, office.clock, pass_on)
        return lane

    def of(self, subscription: str) -> Mapping[str, ForwardLane]:
        """All lanes of a subscription, by target."""
        return self._lanes.get(subscription, {})

    def resume(self) -> None:
        """After a change of owner: find out what became of the parcels on their way then."""
        for name, host in self._host.lane_hosts().items():
            for target, plan in list(host.forward_plans.items()):
                open_parts = any(
                    part.mask & ~host.cursor.mask(part.first_ordinal, part.mask.bit_length())
                    for part in plan.parts
                )
                if open_parts:
                    self.lane(name, target).resume()
                else:
                    del host.forward_plans[target]

    def forget(self, subscription: str) -> None:
        """The subscription is deleted: what it gave is nobody's any more."""
        for lane in self._lanes.pop(subscription, {}).values():
            lane.close()

    def drop_idle(self, subscription: str) -> None:
        """Forget the lanes that have nothing to do, for one that had many."""
        lanes = self._lanes.get(subscription, {})
        for target in [target for target, lane in lanes.items() if lane.idle]:
            lanes.pop(target).close()

    def close(self) -> None:
        """The topic ends here."""
        self._closed = True
        for lanes in self._lanes.values():
            for lane in lanes.values():
                lane.close()

    @property
    def waiting_messages(self) -> int:
        """Given, and not yet durable in their targets."""
        return sum(
            lane.waiting_messages for lanes in self._lanes.values() for lane in lanes.values()
        )

    @property
    def problems(self) -> dict[str, str]:
        """What keeps messages from going out, by subscription."""
        return {
            name: problem for name, lanes in self._lanes.items()
            for lane in lanes.values()
            if (problem := lane.problem or lane.problem_aside) is not None
        }
