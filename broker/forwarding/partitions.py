"""Where messages go whose target has partitions: by key, as those of a producer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from broker.forwarding.parcel import Piece
from broker.forwarding.port import Forwarder
from broker.state_records import ForwardPlanned
from broker.stored_entry import StoredEntry
from magnetar.entry import EntryView, indexes_of
from magnetar.errors import InvalidFrame
from magnetar.murmur3 import murmur3_32
from magnetar.runtime.clock import Clock
from magnetar.topic import TopicName

ASK_AGAIN_S = 60.0
"""More partitions than before are used after so long at the latest."""


def partition_of(view: EntryView, entry: StoredEntry, index: int, partitions: int) -> int:
    """The one for a message: its key's, or the next in turn. Raises InvalidFrame."""
    key = view.partition_key(index)
    return (entry.first_ordinal + index if key is None else murmur3_32(key)) % partitions


def is_partition_of(target: str, topic: str) -> bool:
    """By their full names."""
    return target.startswith(f"{topic}-partition-")


def planned(
    plans: Mapping[str, ForwardPlanned], entry: StoredEntry, mask: int,
    wanted: Callable[[str], bool],
) -> dict[str, int]:
    """Those of these messages that may be in one of the wanted targets, as the plans say."""
    return {
        target: mask & part.mask
        for target, plan in plans.items() if wanted(target)
        for part in plan.parts
        if (part.ledger_id, part.entry_id) == (entry.ledger_id, entry.entry_id)
        and mask & part.mask
    }


class PartitionRoutes:
    """Of one lane. `pass_on` gives a piece to the lane of another target; what may be in one of
    them already, since a plan says so, goes to that."""

    def __init__(
        self, target: str, plans: Mapping[str, ForwardPlanned], forwarder: Forwarder,
        clock: Clock, pass_on: Callable[[str, Piece], None],
    ) -> None:
        self._topic = TopicName.parse(target)
        self._plans = plans
        self._forwarder = forwarder
        self._clock = clock
        self.pass_on = pass_on
        self._count = 0
        self._known_until_s = 0.0

    async def count(self) -> int:
        """How many partitions there are; 0: the target is none of that kind."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._known_until_s:
            self._count = await self._forwarder.partitions(self._topic.full)
            self._known_until_s = now_s + ASK_AGAIN_S
        return self._count

    def split(
        self, view: EntryView, entry: StoredEntry, mask: int, partitions: int
    ) -> dict[str, int]:
        """The messages of an entry by their targets; one that does not read goes in turn."""
        topic = self._topic.full
        masks = planned(
            self._plans, entry, mask, lambda target: is_partition_of(target, topic))
        for part in masks.values():
            mask &= ~part
        for index in indexes_of(mask):
            try:
                number = partition_of(view, entry, index, partitions)
            except InvalidFrame:
                number = (entry.first_ordinal + index) % partitions
            target = self._topic.with_partition(number).full
            masks[target] = masks.get(target, 0) | 1 << index
        return masks
