"""Which member of a failover subscription is served, and how that changes hands."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)


class Failover(Generic[C]):
    """One member is active, the others stand by.

    Without a partition the active one stays until it leaves; then comes the next in order of
    joining. Of a partition the number modulo the members, sorted by name, is the active one, so
    that members share partitions out among them. When a join moves that to another one, the old
    one is given nothing more, and stays active until `switch()`: once what it has is settled.
    """

    def __init__(self, partition: int = -1) -> None:
        self._partition = partition
        self._members: dict[C, tuple[str, int]] = {}
        self._joins = 0
        self.active: C | None = None
        self.successor: C | None = None
        """Who is to be active, while the active one still has messages."""

    def __len__(self) -> int:
        return len(self._members)

    @property
    def served(self) -> C | None:
        """Whom new messages may go to; None while nobody may get any."""
        return self.active if self.successor is None else None

    def join(self, consumer: C, name: str) -> None:
        """A member more. Two of the same name keep the order in which they joined."""
        self._joins += 1
        self._members[consumer] = (name, self._joins)
        self._choose()

    def leave(self, consumer: C) -> None:
        """A member less; what it had is taken back, so nothing is to be waited for."""
        self._members.pop(consumer, None)
        if self.active is consumer:
            self.active = self.successor = None
        self._choose()

    def switch(self) -> None:
        """What the active member had is settled or taken back: the successor takes over."""
        if self.successor is not None:
            self.active, self.successor = self.successor, None

    def _choose(self) -> None:
        wanted = self._wanted()
        if self.active is None:
            self.active, self.successor = wanted, None
        else:
            self.successor = None if wanted is self.active else wanted

    def _wanted(self) -> C | None:
        if not self._members:
            return None
        if self._partition < 0:
            return self.active if self.active is not None else next(iter(self._members))
        ordered = sorted(self._members, key=self._members.__getitem__)
        return ordered[self._partition % len(ordered)]
