"""Which bookies hold an entry (R3), and when enough of them have answered a fence (R8)."""

from __future__ import annotations

from functools import lru_cache

from ledger.quorum import Quorums
from magnetar.ids import EntryId


@lru_cache(maxsize=1024)
def write_sets(ensemble_size: int, write_quorum: int) -> tuple[tuple[int, ...], ...]:
    """The slots of the ensemble an entry is written to, by `entry id mod ensemble size`."""
    return tuple(
        tuple((first + offset) % ensemble_size for offset in range(write_quorum))
        for first in range(ensemble_size)
    )


@lru_cache(maxsize=1024)
def write_masks(ensemble_size: int, write_quorum: int) -> tuple[int, ...]:
    """`write_sets` as bit masks of slots."""
    return tuple(
        sum(1 << slot for slot in slots) for slots in write_sets(ensemble_size, write_quorum)
    )


def write_set(entry_id: EntryId, ensemble_size: int, write_quorum: int) -> tuple[int, ...]:
    """R3: the write quorum's worth of slots from `entry id mod ensemble size` on."""
    return write_sets(ensemble_size, write_quorum)[entry_id % ensemble_size]


class QuorumCoverage:
    """R8: enough has answered when every write set lacks fewer answers than the ack quorum.

    Then no entry can reach its ack quorum any more on bookies that have not answered.
    """

    def __init__(self, quorums: Quorums) -> None:
        self._masks = write_masks(quorums.ensemble_size, quorums.write_quorum)
        self._ack_quorum = quorums.ack_quorum
        self._answered = 0

    def answered(self, slot: int) -> None:
        """The bookie in this slot gave a certain answer."""
        self._answered |= 1 << slot

    @property
    def covered(self) -> bool:
        """Whether it is safe to go on."""
        return all(
            (mask & ~self._answered).bit_count() < self._ack_quorum for mask in self._masks
        )
