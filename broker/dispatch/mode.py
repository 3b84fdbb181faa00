"""What decides how a subscription's messages are spread; changes only while nobody is attached."""

from __future__ import annotations

from dataclasses import dataclass

from broker.state_records import SubscriptionKind

SHARING = (SubscriptionKind.SHARED, SubscriptionKind.KEY_SHARED)
OF_ONE = (SubscriptionKind.EXCLUSIVE, SubscriptionKind.BROADCAST)


@dataclass(frozen=True, slots=True)
class Mode:
    """`hold`: a message that failed holds back the later ones of its key. `partition`: -1 where
    the topic is none."""

    kind: SubscriptionKind
    hold: bool = False
    partition: int = -1

    @property
    def sharing(self) -> bool:
        """Several consumers at a time, each with no more than it asked for."""
        return self.kind in SHARING

    @property
    def of_one(self) -> bool:
        """One consumer may be attached."""
        return self.kind in OF_ONE

    @property
    def sticky(self) -> bool:
        """A key is at one consumer at a time."""
        return self.kind is SubscriptionKind.KEY_SHARED

    @property
    def ordered(self) -> bool:
        """Keys are looked at."""
        return self.sticky or self.hold

    @property
    def in_order(self) -> bool:
        """One consumer at a time gets everything, in the order of the log."""
        return not self.sharing

    @property
    def cumulative(self) -> bool:
        """Whoever acknowledges a message may mean all before it: nothing is kept from him."""
        return self.in_order and not self.hold

    @property
    def guarded(self) -> bool:
        """Two owners of the topic must not serve it at a time."""
        return self.kind is not SubscriptionKind.SHARED
