"""What subscriptions give up: copied to their dead-letter topics, then acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from broker.forwarding.lane import ForwardLane, LaneHost
from broker.forwarding.lanes import TopicLanes
from broker.forwarding.parcel import Piece
from broker.forwarding.partitions import is_partition_of, planned
from broker.stored_entry import StoredEntry
from broker.subscription_name import group_of
from magnetar.dead_letter import REDRIVE, DeadLetter
from magnetar.entry import EntryView
from magnetar.errors import MagnetarError
from magnetar.message_id import MessageId
from magnetar.topic import TopicName


class GivingSubscription(LaneHost, Protocol):
    """What dead letters need of a subscription."""

    dead_lettered_messages: int
    """Counted here, since the topic was loaded."""

    @property
    def dead_letter_target(self) -> str:
        """The dead-letter topic's full name; it may change."""


class DeadLetterHost(Protocol):
    """What dead letters need of their topic."""

    @property
    def name(self) -> str: ...

    def lane_hosts(self) -> Mapping[str, GivingSubscription]:
        """The subscriptions, by name."""


@dataclass(frozen=True, slots=True)
class DeadLetterLabels:
    """The properties of a dead letter; see `magnetar.dead_letter`."""

    topic: str
    partition: int
    subscription: str
    attempts: int
    reason: str
    failed_at_ms: int
    withdrawn: bool = False

    def properties(self, view: EntryView, entry: StoredEntry, index: int) -> dict[str, str]:
        """The message's own, and what makes it a dead letter."""
        producer_name, sequence_id, time_ms, _ = view.origin(index)
        message_id = MessageId(self.partition, entry.ledger_id, entry.entry_id, index)
        told = DeadLetter(
            self.topic, self.subscription, str(message_id), self.attempts, self.reason,
            self.failed_at_ms, time_ms, producer_name, sequence_id,
        )
        return view.properties(index) | told.properties()


class TopicDeadLetters:
    """See `DeadLetters`, which this is."""

    def __init__(self, host: DeadLetterHost, lanes: TopicLanes) -> None:
        self._host = host
        self._lanes = lanes

    def give(
        self, subscription: str, entry: StoredEntry, mask: int, attempts: int, reason: str,
        done: Callable[[MagnetarError | None], None],
    ) -> None:
        """See `DeadLetters.give`."""
        left = mask

        def settled(settled: int) -> None:
            nonlocal left
            host = self._host.lane_hosts().get(subscription)
            if host is not None:
                host.dead_lettered_messages += (left & settled).bit_count()
            left &= ~settled
            if not left:
                done(None)

        host = self._host.lane_hosts().get(subscription)
        if not mask or host is None:
            return
        topic, target = TopicName.parse(self._host.name), host.dead_letter_target
        labels = DeadLetterLabels(
            topic.full, topic.partition, group_of(subscription), attempts, reason,
            self._lanes.office.clock.wall_ms(),
        )
        # Only a former target that a plan names can tell whether it has a message.
        former = planned(
            host.forward_plans, entry, mask, lambda other: not _belongs(other, target))
        for other, part in former.items():
            self._lane_to(subscription, other).give(entry, part, labels, settled)
            mask &= ~part
        if mask:
            self._lane(subscription).give(entry, mask, labels, settled)

    def _lane(self, subscription: str) -> ForwardLane:
        """The lane to the present target; what waits in a lane to a former one comes along."""
        target = self._host.lane_hosts()[subscription].dead_letter_target
        known = target in self._lanes.of(subscription)
        lane = self._lane_to(subscription, target)
        if not known:
            for other in self._former(subscription, target):
                lane.add(other.take_all())
        return lane

    def _lane_to(self, subscription: str, target: str) -> ForwardLane:
        def pass_on(partition: str, piece: Piece) -> None:
            self._lane_to(subscription, partition).add([piece])

        is_partition = TopicName.parse(target).partition >= 0
        return self._lanes.lane(
            subscription, target, lambda: self._in_trouble(subscription), REDRIVE,
            None if is_partition else pass_on)

    def _former(self, subscription: str, target: str) -> list[ForwardLane]:
        """The lanes to other targets than that one and its partitions."""
        return [
            lane for other, lane in self._lanes.of(subscription).items()
            if not _belongs(other, target)
        ]

    def _in_trouble(self, subscription: str) -> None:
        """A lane fails: it may be that its target is no longer the one that is wanted."""
        host = self._host.lane_hosts().get(subscription)
        if host is None:
            return
        for other in self._former(subscription, host.dead_letter_target):
            pieces = other.take_all()
            if pieces:
                self._lane(subscription).add(pieces)


def _belongs(target: str, topic: str) -> bool:
    """It is the topic, or a partition of it."""
    return target == topic or is_partition_of(target, topic)
