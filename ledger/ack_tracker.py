"""Counts acknowledgements and says how far a ledger is confirmed (R5).

    LAC, last add confirmed   the highest entry such that it and all below it have their ack
                              quorum from bookies of the current ensemble
    LAP, last add pushed      the highest entry handed out; LAP - LAC are in flight

An entry at or below LAC may still lack answers of some of its write set. Those are followed
too: `behind_bytes` is how much a slot lacks of what is confirmed, the measure of a slow bookie.
While frozen, answers are counted and nothing is confirmed (R6). Of a slot that was given up
only the bytes are counted, so that a bookie missing for hours costs no memory.
"""

from __future__ import annotations

from ledger.distribution import write_masks
from ledger.invariant import invariant
from ledger.quorum import Quorums
from magnetar.ids import NO_ENTRY_ID, EntryId


class AckTracker:
    """For one ledger and its writer; slots are indexes into the current ensemble."""

    __slots__ = (
        "_acked", "_followed", "_late", "_masks", "_sizes", "ack_quorum", "behind_bytes",
        "ensemble_size", "frozen", "last_add_confirmed", "last_add_pushed", "pending_bytes",
    )

    def __init__(self, quorums: Quorums, last_add_confirmed: EntryId = NO_ENTRY_ID) -> None:
        self._masks = write_masks(quorums.ensemble_size, quorums.write_quorum)
        self.ensemble_size = quorums.ensemble_size
        self.ack_quorum = quorums.ack_quorum
        self.last_add_confirmed: int = last_add_confirmed
        self.last_add_pushed: int = last_add_confirmed
        self.frozen = False
        self.pending_bytes = 0
        self.behind_bytes = [0] * quorums.ensemble_size
        self._followed = (1 << quorums.ensemble_size) - 1
        self._acked: dict[int, int] = {}
        self._late: dict[int, int] = {}
        self._sizes: dict[int, int] = {}

    def push(self, size_bytes: int) -> EntryId:
        """Hand out the next entry id."""
        entry_id = self.last_add_pushed + 1
        self.last_add_pushed = entry_id
        self._acked[entry_id] = 0
        self._sizes[entry_id] = size_bytes
        self.pending_bytes += size_bytes
        return EntryId(entry_id)

    def acknowledge(self, slot: int, entry_id: int) -> bool:
        """Count an answer; true when `advance` may confirm something by it."""
        acked = self._acked.get(entry_id)
        bit = 1 << slot
        if acked is None:
            self._acknowledge_late(slot, bit, entry_id)
            return False
        self._acked[entry_id] = acked = acked | bit
        return (
            entry_id == self.last_add_confirmed + 1
            and (acked & self._masks[entry_id % self.ensemble_size]).bit_count()
            >= self.ack_quorum
        )

    def _acknowledge_late(self, slot: int, bit: int, entry_id: int) -> None:
        missing = self._late.get(entry_id)
        if missing is None or not missing & bit:
            return
        self.behind_bytes[slot] -= self._sizes[entry_id]
        if missing == bit:
            del self._late[entry_id], self._sizes[entry_id]
        else:
            self._late[entry_id] = missing ^ bit

    def advance(self) -> int:
        """Confirm in order all that has its ack quorum; answers the LAC."""
        if self.frozen:
            return self.last_add_confirmed
        masks, size, quorum, acked = self._masks, self.ensemble_size, self.ack_quorum, self._acked
        entry_id = self.last_add_confirmed + 1
        while (answers := acked.get(entry_id)) is not None:
            mask = masks[entry_id % size]
            if (answers & mask).bit_count() < quorum:
                break
            del acked[entry_id]
            self._confirm(entry_id, mask & ~answers)
            entry_id += 1
        self.last_add_confirmed = entry_id - 1
        return self.last_add_confirmed

    def _confirm(self, entry_id: int, missing: int) -> None:
        length = self._sizes[entry_id]
        self.pending_bytes -= length
        followed = missing & self._followed
        if followed:
            self._late[entry_id] = followed
        else:
            del self._sizes[entry_id]
        behind = self.behind_bytes
        slot = 0
        while missing:
            if missing & 1:
                behind[slot] += length
            missing >>= 1
            slot += 1

    def replace_slot(self, slot: int) -> None:
        """The slot has another bookie from LAC + 1 on: its answers above LAC count no more (R6),
        and what it lacks below is the business of re-replication."""
        invariant(self.frozen, "R6", "an ensemble changes only while completions are frozen")
        keep = ~(1 << slot)
        for entry_id, acked in self._acked.items():
            self._acked[entry_id] = acked & keep
        self.give_up(slot)
        self._followed |= ~keep
        self.behind_bytes[slot] = 0

    def give_up(self, slot: int) -> None:
        """The slot's bookie failed: what it lacks is not waited for, and may only grow until
        the slot is replaced."""
        keep = ~(1 << slot)
        self._followed &= keep
        for entry_id, missing in list(self._late.items()):
            if missing & keep:
                self._late[entry_id] = missing & keep
            else:
                del self._late[entry_id], self._sizes[entry_id]

    def reachable(self, failed_mask: int) -> bool:
        """Whether every write set could still gather its ack quorum without these slots."""
        return all((mask & ~failed_mask).bit_count() >= self.ack_quorum for mask in self._masks)
