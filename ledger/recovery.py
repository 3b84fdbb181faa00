"""Finding where a ledger ends after its writer is gone, as a state machine without I/O.

    BEGUN ─ CAS to IN_RECOVERY ─▶ FENCING ─ coverage (R8) ─▶ READING ─ end found ─▶ ENDING
      │                              │                          │                      │ CAS
      └── found CLOSED ──────────────┴──▶ CLOSED ◀──────────────┼──────────────────────┘
                                     too few answers ──▶ ABORTED ◀── another recovery took over

READING asks the write set of the ensemble as it was when recovery started, always fencing (R11):
one copy proves an entry, Qw - Qa + 1 certain "no" prove the end, and anything less proves
nothing. Each entry found is added again, in order, to the ack quorum before the end is written
(R12). Replaced bookies stay local until that last write (R13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Final, NamedTuple

from ledger import ensemble_change
from ledger.ack_tracker import AckTracker
from ledger.distribution import QuorumCoverage, write_set
from ledger.invariant import invariant
from ledger.placement import Candidate, Placement
from ledger.quorum import Quorums
from ledger.wire import (
    NEGATIVES,
    AddRequest,
    ReadLacReply,
    ReadLacRequest,
    ReadReply,
    ReadRequest,
    Status,
)
from ledger.writer import SendAdd, Target, WriteMetadata
from magnetar.errors import LedgerError, RecoveryAborted
from magnetar.ids import BookieId, EntryId
from metadata.ledgers import LedgerMetadata, LedgerState

READ_AHEAD_ENTRIES: Final = 64
READ_AHEAD_BYTES: Final = 4 << 20
MAX_UNSTORED_BYTES: Final = 32 << 20


class RecoveryState(Enum):
    """See the picture above."""

    BEGUN = "begun"
    FENCING = "fencing"
    READING = "reading"
    ENDING = "ending"
    CLOSED = "closed"
    ABORTED = "aborted"


class RecoveryEvent(Enum):
    """What moves a recovery between states."""

    MARKED = "marked"
    COVERED = "covered"
    END_FOUND = "end found"
    END_WRITTEN = "end written"
    FOUND_CLOSED = "found closed"
    GIVEN_UP = "given up"


TRANSITIONS: Final = {
    (RecoveryState.BEGUN, RecoveryEvent.MARKED): RecoveryState.FENCING,
    (RecoveryState.BEGUN, RecoveryEvent.FOUND_CLOSED): RecoveryState.CLOSED,
    (RecoveryState.FENCING, RecoveryEvent.COVERED): RecoveryState.READING,
    (RecoveryState.READING, RecoveryEvent.END_FOUND): RecoveryState.ENDING,
    (RecoveryState.ENDING, RecoveryEvent.END_WRITTEN): RecoveryState.CLOSED,
    (RecoveryState.ENDING, RecoveryEvent.FOUND_CLOSED): RecoveryState.CLOSED,
    (RecoveryState.BEGUN, RecoveryEvent.GIVEN_UP): RecoveryState.ABORTED,
    (RecoveryState.FENCING, RecoveryEvent.GIVEN_UP): RecoveryState.ABORTED,
    (RecoveryState.READING, RecoveryEvent.GIVEN_UP): RecoveryState.ABORTED,
    (RecoveryState.ENDING, RecoveryEvent.GIVEN_UP): RecoveryState.ABORTED,
}


class SendReadLac(NamedTuple):
    """Ask the bookie in a slot of the starting ensemble; tell by `lac_reply`."""

    slot: int
    bookie: BookieId
    request: ReadLacRequest


class SendRead(NamedTuple):
    """Ask a bookie of the starting ensemble; tell by `read_reply`."""

    bookie: BookieId
    request: ReadRequest


class Closed(NamedTuple):
    """The ledger is closed, as this record says."""

    metadata: LedgerMetadata
    version: int


class Aborted(NamedTuple):
    """The ledger stays in recovery; try again later."""

    error: LedgerError


Effect = SendReadLac | SendRead | SendAdd | WriteMetadata | Closed | Aborted
Effects = Sequence[Effect]
NOTHING: Final[Effects] = ()


class LedgerRecovery:
    """Protocol core of one attempt. `candidates` may stand in for bookies that fail."""

    def __init__(
        self,
        metadata: LedgerMetadata,
        version: int,
        placement: Placement,
        candidates: Sequence[Candidate],
    ) -> None:
        self.metadata = metadata
        self.version = version
        self.state = RecoveryState.BEGUN
        self._placement = placement
        self._candidates = [*candidates]
        self._quorums = Quorums(
            metadata.ensemble_size, metadata.write_quorum, metadata.ack_quorum
        )
        self._ledger_id = metadata.ledger_id
        self._start_ensemble = metadata.fragments[-1].ensemble
        self._coverage = QuorumCoverage(self._quorums)
        self._fence_answers = 0
        self._max_lac = -1
        self._told_lac = EntryId(-1)
        self._acks = AckTracker(self._quorums)
        self._next_read = 0
        self._found: dict[int, bytes] = {}
        self._denied = 0
        self._asked = 0
        self._unstored: dict[int, AddRequest] = {}
        self._end: int | None = None
        self._generations = [0] * metadata.ensemble_size
        self._failed = 0
        self._shunned: set[BookieId] = set()
        self._known_length_bytes = 0
        self._length_known = False

    # -- R8: mark, then fence ------------------------------------------------------------------

    def begin(self) -> Effects:
        """First event."""
        if self.metadata.state is LedgerState.CLOSED:
            self._move(RecoveryEvent.FOUND_CLOSED)
            return (Closed(self.metadata, self.version),)
        # A record already in recovery is written again: its new version fails the CAS of
        # whoever recovers beside us.
        marked = replace(self.metadata, state=LedgerState.IN_RECOVERY)
        return (WriteMetadata(marked, self.version),)

    def metadata_written(self, written: LedgerMetadata, version: int) -> Effects:
        """Our WriteMetadata won."""
        self.metadata, self.version = written, version
        if self.state is RecoveryState.ENDING:
            self._move(RecoveryEvent.END_WRITTEN)
            return (Closed(written, version),)
        self._move(RecoveryEvent.MARKED)
        self._start_ensemble = written.fragments[-1].ensemble
        request = ReadLacRequest(self._ledger_id, fence=True)
        return tuple(
            SendReadLac(slot, bookie, request) for slot, bookie in enumerate(self._start_ensemble)
        )

    def metadata_conflict(self, metadata: LedgerMetadata, version: int) -> Effects:
        """Our WriteMetadata certainly did not apply; this is the record now."""
        if metadata.state is LedgerState.CLOSED:
            self.metadata, self.version = metadata, version
            self._move(RecoveryEvent.FOUND_CLOSED)
            return (Closed(metadata, version),)
        if self.state is RecoveryState.BEGUN:
            self.metadata, self.version = metadata, version
            return self.begin()
        return self._abort("the record changed meanwhile, as by another recovery")

    def lac_reply(self, slot: int, reply: ReadLacReply) -> Effects:
        """A bookie answered the fencing LAC read, or did not in time (UNKNOWN)."""
        if self.state is not RecoveryState.FENCING:
            return NOTHING
        self._fence_answers += 1
        if reply.status is Status.OK or reply.status in NEGATIVES:
            self._coverage.answered(slot)
            if reply.status is Status.OK:
                self._max_lac = max(self._max_lac, reply.last_add_confirmed)
        if self._coverage.covered:
            return self._begin_reading()
        if self._fence_answers == len(self._start_ensemble):
            return self._abort("too few bookies answered the fence")
        return NOTHING

    # -- R10-R12: read on from the LAC, add again ----------------------------------------------

    def _begin_reading(self) -> Effects:
        self._move(RecoveryEvent.COVERED)
        last = self.metadata.fragments[-1]
        # R10: a fresh last fragment may know no LAC, and older fragments are immutable.
        start = max(self._max_lac, last.first_entry - 1)
        self._told_lac = EntryId(start)
        self._length_known = start < 0
        self._acks = AckTracker(self._quorums, EntryId(start))
        self._next_read = start + 1
        return self._ask_next()

    def _ask_next(self) -> Effects:
        """Ask for the next entry, or go on at once when an earlier range brought it."""
        effects: list[Effect] = []
        while (body := self._found.pop(self._next_read, None)) is not None:
            effects.extend(self._add_again(body))
        if self._end is None and self._acks.pending_bytes < MAX_UNSTORED_BYTES:
            effects.extend(self._reads())
        return effects

    def _reads(self) -> Effects:
        if self._asked:
            return NOTHING
        entry_id = EntryId(self._next_read)
        request = ReadRequest(
            self._ledger_id, entry_id, READ_AHEAD_ENTRIES, READ_AHEAD_BYTES, fence=True
        )
        self._denied = 0
        slots = write_set(entry_id, self._quorums.ensemble_size, self._quorums.write_quorum)
        self._asked = len(slots)
        return tuple(SendRead(self._start_ensemble[slot], request) for slot in slots)

    def read_reply(self, first_entry: int, reply: ReadReply) -> Effects:
        """A bookie answered a recovery read, or did not in time (UNKNOWN)."""
        if self.state is not RecoveryState.READING or self._end is not None:
            return NOTHING
        for entry in reply.entries:
            if entry.entry_id >= self._next_read:
                self._found.setdefault(entry.entry_id, entry.body)
        if first_entry != self._next_read:
            return NOTHING
        self._asked -= 1
        if self._next_read in self._found:
            self._asked = 0
            return self._ask_next()
        if reply.status in NEGATIVES and not reply.entries:
            self._denied += 1
        if self._denied >= self._quorums.negatives_needed:
            self._end = self._next_read - 1
            return self._end_if_stored()
        if not self._asked:
            return self._abort(f"too few bookies know whether entry {self._next_read} exists")
        return NOTHING

    def _add_again(self, body: bytes) -> Effects:
        entry_id = self._acks.push(len(body))
        invariant(entry_id == self._next_read, "R12", f"{entry_id} is not LAP + 1")
        self._next_read += 1
        self._known_length_bytes += len(body)
        # Not how far this recovery came: its acknowledgements may be of bookies that only it
        # knows (R13), and another one begins behind the LAC it is told (R10).
        request = AddRequest.make(
            self._ledger_id, entry_id, self._told_lac, body, recovery=True
        )
        self._unstored[entry_id] = request
        return (SendAdd(request, self._targets(entry_id)),)

    def add_reply(self, slot: int, generation: int, entry_id: int, status: Status) -> Effects:
        """A bookie answered a recovery add, or did not in time (UNKNOWN)."""
        if self.state is not RecoveryState.READING or generation != self._generations[slot]:
            return NOTHING
        if status is not Status.OK:
            return self._replace(slot)
        was_full = self._acks.pending_bytes >= MAX_UNSTORED_BYTES
        if self._acks.acknowledge(slot, entry_id):
            before = self._acks.last_add_confirmed
            for stored in range(before + 1, self._acks.advance() + 1):
                del self._unstored[stored]
            if self._end is not None:
                return self._end_if_stored()
            if was_full:
                return self._ask_next()
        return NOTHING

    # -- R13: another bookie, locally ----------------------------------------------------------

    def _replace(self, slot: int) -> Effects:
        if self._failed >> slot & 1:
            return NOTHING
        ensemble = self.metadata.fragments[-1].ensemble
        self._shunned.add(ensemble[slot])
        chosen = self._placement.extend(
            [Candidate(bookie) for bookie in ensemble],
            [one for one in self._candidates if one.bookie_id not in self._shunned], 1,
        )
        if not chosen:
            return self._go_without(slot)
        acks = self._acks
        self.metadata = ensemble_change.with_replacements(
            self.metadata, EntryId(acks.last_add_confirmed), {slot: chosen[0].bookie_id},
            old_lacks_copies=acks.behind_bytes[slot] > 0, new_lacks_copies=self._failed != 0,
        )
        self._generations[slot] += 1
        acks.frozen = True
        acks.replace_slot(slot)
        acks.frozen = False
        target = Target(slot, self._generations[slot], chosen[0].bookie_id)
        return tuple(
            SendAdd(request, (target,)) for entry_id, request in self._unstored.items()
            if slot in self._write_set(entry_id)
        )

    def _go_without(self, slot: int) -> Effects:
        self._failed |= 1 << slot
        self._acks.give_up(slot)
        self.metadata = ensemble_change.marked_under_replicated(self.metadata)
        if not self._acks.reachable(self._failed):
            return self._abort("too few bookies take the recovered entries")
        return NOTHING

    # -- R14: the end --------------------------------------------------------------------------

    def _end_if_stored(self) -> Effects:
        end = self._end
        assert end is not None
        if self._acks.last_add_confirmed < end:
            return NOTHING
        invariant(
            end == self._acks.last_add_pushed == self._acks.last_add_confirmed, "R14",
            "a ledger ends at its last recovered entry",
        )
        self._move(RecoveryEvent.END_FOUND)
        length = self._known_length_bytes if self._length_known else 0
        ended = ensemble_change.closed(
            self.metadata, EntryId(end), length, lacks_copies=self._failed != 0
        )
        return (WriteMetadata(ended, self.version),)

    def _abort(self, reason: str) -> Effects:
        self._move(RecoveryEvent.GIVEN_UP)
        return (Aborted(RecoveryAborted(f"recovery of ledger {self._ledger_id}: {reason}")),)

    def _write_set(self, entry_id: int) -> tuple[int, ...]:
        quorums = self._quorums
        return write_set(EntryId(entry_id), quorums.ensemble_size, quorums.write_quorum)

    def _targets(self, entry_id: int) -> tuple[Target, ...]:
        ensemble = self.metadata.fragments[-1].ensemble
        return tuple(
            Target(slot, self._generations[slot], ensemble[slot])
            for slot in self._write_set(entry_id) if not self._failed >> slot & 1
        )

    def _move(self, event: RecoveryEvent) -> None:
        following = TRANSITIONS.get((self.state, event))
        invariant(following is not None, "R8", f"{event.value} while {self.state.value}")
        assert following is not None
        self.state = following
