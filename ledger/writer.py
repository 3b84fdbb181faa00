"""The one writer of a ledger (R2), as a state machine: events in, effects out, no I/O.

    OPEN ── replacements found ──▶ CHANGING ── CAS won, or lost to a harmless change ──▶ OPEN
      │                               │
      ├── close ──▶ CLOSING ── CAS ──▶ CLOSED      (what was in flight is certainly not stored)
      └──────────────┴──── fenced, or another wrote the end ──▶ STOPPED  (in flight: unknown)

In CHANGING and CLOSING nothing is confirmed, because both write LAC + 1 or LAC into the metadata
(R6, R14). A failed bookie with no replacement at hand stays in its slot: the fragment is marked
under-replicated once, entries complete on the ack quorum of the others, and the slot is filled
when a bookie appears, be it the same one come back. Answers carry the generation of their slot,
so that those of a bookie replaced meanwhile do not count.

The caller owns all metadata traffic and does one thing at a time: it reads the record, calls
`repair` or `begin_close`, executes the WriteMetadata it gets, and tells the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from ledger import ensemble_change
from ledger.ack_tracker import AckTracker
from ledger.distribution import write_sets
from ledger.invariant import invariant
from ledger.placement import Candidate, Placement
from ledger.quorum import Quorums
from ledger.wire import AddRequest, Status
from magnetar.errors import LedgerClosed, LedgerError, LedgerFenced
from magnetar.ids import BookieId, EntryId
from magnetar.runtime.network import Buffer
from metadata.ledgers import LedgerMetadata, LedgerState


class WriterState(Enum):
    """See the picture above."""

    OPEN = "open"
    CHANGING = "changing its ensemble"
    CLOSING = "closing"
    CLOSED = "closed"
    STOPPED = "stopped"


class WriterEvent(Enum):
    """What moves a writer between states."""

    CHANGE_BEGUN = "change begun"
    CHANGE_WRITTEN = "change written"
    CHANGE_LOST = "change lost"
    CLOSE_BEGUN = "close begun"
    CLOSE_WRITTEN = "close written"
    FENCED = "fenced"


TRANSITIONS: Final = {
    (WriterState.OPEN, WriterEvent.CHANGE_BEGUN): WriterState.CHANGING,
    (WriterState.CHANGING, WriterEvent.CHANGE_WRITTEN): WriterState.OPEN,
    (WriterState.CHANGING, WriterEvent.CHANGE_LOST): WriterState.OPEN,
    (WriterState.OPEN, WriterEvent.CLOSE_BEGUN): WriterState.CLOSING,
    (WriterState.CLOSING, WriterEvent.CLOSE_WRITTEN): WriterState.CLOSED,
    (WriterState.OPEN, WriterEvent.FENCED): WriterState.STOPPED,
    (WriterState.CHANGING, WriterEvent.FENCED): WriterState.STOPPED,
    (WriterState.CLOSING, WriterEvent.FENCED): WriterState.STOPPED,
}


class Target(NamedTuple):
    """Where an add goes; its answer comes back with the slot and the generation."""

    slot: int
    generation: int
    bookie: BookieId


class SendAdd(NamedTuple):
    """Send one entry to these bookies."""

    request: AddRequest
    targets: tuple[Target, ...]


class Complete(NamedTuple):
    """All entries up to this one are stored."""

    last_entry: EntryId


class WriteMetadata(NamedTuple):
    """Replace the ledger's record if it still has this version, and tell the outcome."""

    metadata: LedgerMetadata
    version: int


class SlotFailed(NamedTuple):
    """A bookie failed; read the metadata and call `repair`."""

    slot: int
    bookie: BookieId
    status: Status


class Stop(NamedTuple):
    """The writer is done: every entry above LAC ends with this error, in order."""

    error: LedgerError


Effect = SendAdd | Complete | WriteMetadata | SlotFailed | Stop
Effects = Sequence[Effect]
NOTHING: Final[Effects] = ()


@dataclass(frozen=True, slots=True)
class _Change:
    """An ensemble change whose CAS is in flight."""

    metadata: LedgerMetadata
    replaced: tuple[tuple[int, BookieId], ...]


class LedgerWriter:
    """Protocol core of the writer. `slow_limit_bytes`: so far behind LAC a bookie counts as
    failed."""

    def __init__(
        self, metadata: LedgerMetadata, version: int, placement: Placement, slow_limit_bytes: int
    ) -> None:
        invariant(
            metadata.state is LedgerState.OPEN and len(metadata.fragments) == 1, "R2",
            "only the creator of a ledger writes to it",
        )
        self.metadata = metadata
        self.version = version
        self.state = WriterState.OPEN
        self.length_bytes = 0
        self._quorums = Quorums(
            metadata.ensemble_size, metadata.write_quorum, metadata.ack_quorum
        )
        self._acks = AckTracker(self._quorums)
        self._placement = placement
        self._slow_limit_bytes = slow_limit_bytes
        self._unstored: dict[int, AddRequest] = {}
        self._generations = [0] * metadata.ensemble_size
        self._failed = 0
        self._banned: set[BookieId] = set()
        self._change: _Change | None = None
        self._closing: LedgerMetadata | None = None
        self._targets = self._compute_targets()

    # -- what is known -------------------------------------------------------------------------

    @property
    def last_add_confirmed(self) -> EntryId:
        """Highest entry stored with all below it; -1 for none."""
        return EntryId(self._acks.last_add_confirmed)

    @property
    def last_add_pushed(self) -> EntryId:
        """Highest entry handed out."""
        return EntryId(self._acks.last_add_pushed)

    @property
    def pending_bytes(self) -> int:
        """Bytes of entries in flight."""
        return self._acks.pending_bytes

    @property
    def ensemble(self) -> tuple[BookieId, ...]:
        """The bookies entries are sent to."""
        return self.metadata.fragments[-1].ensemble

    @property
    def failed_slots(self) -> tuple[int, ...]:
        """Slots of bookies that failed and are not replaced yet."""
        return tuple(
            slot for slot in range(self.metadata.ensemble_size) if self._failed >> slot & 1
        )

    @property
    def reaches_quorum(self) -> bool:
        """Whether the bookies that did not fail can make every entry stored."""
        return self._acks.reachable(self._failed)

    @property
    def banned(self) -> frozenset[BookieId]:
        """Bookies that can never serve this ledger again."""
        return frozenset(self._banned)

    # -- entries -------------------------------------------------------------------------------

    def add(self, body: Buffer) -> SendAdd:
        """Take the next entry. Raises LedgerClosed unless OPEN or CHANGING."""
        if self.state is not WriterState.OPEN and self.state is not WriterState.CHANGING:
            raise LedgerClosed(f"ledger {self.metadata.ledger_id} is {self.state.value}")
        acks = self._acks
        length = len(body)
        confirmed = acks.last_add_confirmed
        entry_id = acks.push(length)
        request = AddRequest.make(self.metadata.ledger_id, entry_id, EntryId(confirmed), body)
        self._unstored[entry_id] = request
        return SendAdd(request, self._targets[entry_id % acks.ensemble_size])

    def add_reply(self, slot: int, generation: int, entry_id: int, status: Status) -> Effects:
        """A bookie answered, or its answer is UNKNOWN by deadline or a lost link."""
        if generation != self._generations[slot]:
            return NOTHING
        if status is Status.OK:
            if self._acks.acknowledge(slot, entry_id):
                return self._advance()
            return NOTHING
        if self.state is WriterState.STOPPED or self.state is WriterState.CLOSED:
            return NOTHING
        if status is Status.FENCED:
            return self._stop("a bookie was told that another recovers this ledger")
        return self._fail_slot(slot, status)

    def expects(self, target: Target) -> bool:
        """Whether an answer for this slot and generation would still count."""
        return (
            target.generation == self._generations[target.slot]
            and not self._failed >> target.slot & 1
            and self.state not in (WriterState.STOPPED, WriterState.CLOSED)
        )

    def _advance(self) -> Effects:
        acks = self._acks
        before = acks.last_add_confirmed
        confirmed = acks.advance()
        if confirmed == before:
            return NOTHING
        unstored = self._unstored
        for entry_id in range(before + 1, confirmed + 1):
            self.length_bytes += len(unstored.pop(entry_id).body)
        complete = Complete(EntryId(confirmed))
        limit = self._slow_limit_bytes
        if max(acks.behind_bytes) <= limit:
            return (complete,)
        effects: list[Effect] = [complete]
        for slot, behind in enumerate(acks.behind_bytes):
            if behind > limit:
                effects.extend(self._fail_slot(slot, Status.UNKNOWN))
        return effects

    # -- bookies that failed -------------------------------------------------------------------

    def _fail_slot(self, slot: int, status: Status) -> Effects:
        bit = 1 << slot
        bookie = self.ensemble[slot]
        if status is Status.BODY_CONFLICT:
            self._banned.add(bookie)
        if self._failed & bit:
            return NOTHING
        self._failed |= bit
        self._acks.give_up(slot)
        self._targets = self._compute_targets()
        return (SlotFailed(slot, bookie, status),)

    def can_be_repaired(self, candidates: Sequence[Candidate]) -> bool:
        """Whether `repair` would write something."""
        if self.state is not WriterState.OPEN or not self._failed:
            return False
        return bool(self._replacements(candidates)) or not (
            self.metadata.fragments[-1].under_replicated
        )

    def repair(
        self, metadata: LedgerMetadata, version: int, candidates: Sequence[Candidate]
    ) -> Effects:
        """Fill failed slots from the candidates, given the record as just read.

        With none to fill, marks the fragment under-replicated, once. Freezes completions only
        if there is a change to write.
        """
        if self.state is not WriterState.OPEN:
            return NOTHING
        if stopped := self.metadata_seen(metadata, version):
            return stopped
        replaced = self._replacements(candidates)
        if replaced:
            return self._begin_change(replaced)
        if self._failed and not self.metadata.fragments[-1].under_replicated:
            marked = ensemble_change.marked_under_replicated(self.metadata)
            return (WriteMetadata(marked, self.version),)
        return NOTHING

    def _replacements(self, candidates: Sequence[Candidate]) -> tuple[tuple[int, BookieId], ...]:
        failed = self.failed_slots
        if not failed or not candidates:
            return ()
        racks = {candidate.bookie_id: candidate.rack for candidate in candidates}
        kept = [
            Candidate(bookie, racks.get(bookie, ""))
            for slot, bookie in enumerate(self.ensemble) if slot not in failed
        ]
        usable = [
            candidate for candidate in candidates if candidate.bookie_id not in self._banned
        ]
        chosen = self._placement.extend(kept, usable, len(failed))
        chosen_ids = [candidate.bookie_id for candidate in chosen]
        return self._assign(failed, chosen_ids)

    def _assign(
        self, failed: tuple[int, ...], chosen: list[BookieId]
    ) -> tuple[tuple[int, BookieId], ...]:
        """A bookie come back goes to its own slot; no bookie may stand in two."""
        ensemble = self.ensemble
        own = [(slot, ensemble[slot]) for slot in failed if ensemble[slot] in chosen]
        taken = {bookie for _, bookie in own}
        others = [bookie for bookie in chosen if bookie not in taken]
        open_slots = [slot for slot in failed if ensemble[slot] not in taken]
        return tuple(sorted(own + list(zip(open_slots, others, strict=False))))

    def _begin_change(self, replaced: tuple[tuple[int, BookieId], ...]) -> Effects:
        left = self._failed
        for slot, _ in replaced:
            left &= ~(1 << slot)
        behind = any(self._acks.behind_bytes[slot] for slot in self.failed_slots)
        self._move(WriterEvent.CHANGE_BEGUN)
        self._acks.frozen = True
        changed = ensemble_change.with_replacements(
            self.metadata, self.last_add_confirmed, dict(replaced),
            old_lacks_copies=behind, new_lacks_copies=bool(left),
        )
        self._change = _Change(changed, replaced)
        return (WriteMetadata(changed, self.version),)

    # -- the record ----------------------------------------------------------------------------

    def metadata_seen(self, metadata: LedgerMetadata, version: int) -> Effects:
        """The record as read outside any write of ours: take over what re-replication changed
        in older fragments; stop if another ends the ledger."""
        if self.state is not WriterState.OPEN or version < self.version:
            return NOTHING
        if metadata.state is not LedgerState.OPEN:
            return self._stop(f"its record says {metadata.state.value}")
        if not _same_ensemble(metadata, self.metadata):
            return self._stop("another changed the ensemble that entries are written to")
        self.metadata, self.version = metadata, version
        return NOTHING

    def metadata_written(self, written: LedgerMetadata, version: int) -> Effects:
        """Our WriteMetadata won."""
        if self.state is WriterState.STOPPED:
            return NOTHING
        self.metadata, self.version = written, version
        if self.state is WriterState.CHANGING:
            return self._change_written()
        if self.state is WriterState.CLOSING:
            self._move(WriterEvent.CLOSE_WRITTEN)
            return (Stop(LedgerClosed(f"ledger {written.ledger_id} was closed")),)
        return NOTHING

    def _change_written(self) -> Effects:
        change, self._change = self._change, None
        invariant(change is not None, "R6", "a change was written that was not begun")
        assert change is not None
        for slot, _ in change.replaced:
            self._acks.replace_slot(slot)
            self._generations[slot] += 1
            self._failed &= ~(1 << slot)
        self._acks.frozen = False
        self._move(WriterEvent.CHANGE_WRITTEN)
        self._targets = self._compute_targets()
        effects: list[Effect] = []
        replaced = {slot for slot, _ in change.replaced}
        # Also those that the others confirm right now: the new fragment says that they are here.
        for entry_id, request in self._unstored.items():
            targets = self._targets[entry_id % self._acks.ensemble_size]
            again = tuple(target for target in targets if target.slot in replaced)
            if again:
                effects.append(SendAdd(request, again))
        effects.extend(self._advance())
        return effects

    def metadata_conflict(self, metadata: LedgerMetadata, version: int) -> Effects:
        """Our WriteMetadata certainly did not apply as written; this is the record now."""
        if self.state is WriterState.CLOSING:
            return self._close_conflict(metadata, version)
        if self.state is not WriterState.CHANGING:
            return self.metadata_seen(metadata, version)
        assert self._change is not None
        if metadata.state is not LedgerState.OPEN:
            return self._stop(f"its record says {metadata.state.value}")
        if _same_ensemble(metadata, self._change.metadata):
            return self.metadata_written(metadata, version)
        self._change = None
        self._acks.frozen = False
        self._move(WriterEvent.CHANGE_LOST)
        return self.metadata_seen(metadata, version) or self._advance()

    # -- the end -------------------------------------------------------------------------------

    def begin_close(self, metadata: LedgerMetadata, version: int) -> Effects:
        """End the ledger at LAC; entries in flight will not be part of it (R14)."""
        if self.state is not WriterState.OPEN:
            return NOTHING
        if stopped := self.metadata_seen(metadata, version):
            return stopped
        self._move(WriterEvent.CLOSE_BEGUN)
        self._acks.frozen = True
        return self._write_end()

    def _write_end(self) -> Effects:
        behind = any(self._acks.behind_bytes[slot] for slot in self.failed_slots)
        self._closing = ensemble_change.closed(
            self.metadata, self.last_add_confirmed, self.length_bytes, lacks_copies=behind
        )
        return (WriteMetadata(self._closing, self.version),)

    def _close_conflict(self, metadata: LedgerMetadata, version: int) -> Effects:
        if metadata.state is LedgerState.OPEN and _same_ensemble(metadata, self.metadata):
            self.metadata, self.version = metadata, version
            return self._write_end()
        same_end = metadata.last_entry == self.last_add_confirmed
        if metadata.state is LedgerState.CLOSED and same_end and (
            metadata.length_bytes in (0, self.length_bytes)
        ):
            return self.metadata_written(metadata, version)
        return self._stop(f"its record says {metadata.state.value}, not as closed by its writer")

    def fence(self, reason: str) -> Effects:
        """Stop for good, as when the session that owns the ledger is lost."""
        if self.state in (WriterState.STOPPED, WriterState.CLOSED):
            return NOTHING
        return self._stop(reason)

    def _stop(self, reason: str) -> Effects:
        """R7: what is in flight is unknown, neither stored nor failed."""
        self._move(WriterEvent.FENCED)
        self._acks.frozen = True
        ledger_id = self.metadata.ledger_id
        return (Stop(LedgerFenced(f"ledger {ledger_id} takes no more entries: {reason}")),)

    def _move(self, event: WriterEvent) -> None:
        following = TRANSITIONS.get((self.state, event))
        invariant(following is not None, "R2", f"{event.value} while {self.state.value}")
        assert following is not None
        self.state = following

    def _compute_targets(self) -> tuple[tuple[Target, ...], ...]:
        ensemble = self.ensemble
        return tuple(
            tuple(
                Target(slot, self._generations[slot], ensemble[slot])
                for slot in slots if not self._failed >> slot & 1
            )
            for slots in write_sets(self.metadata.ensemble_size, self.metadata.write_quorum)
        )


def _same_ensemble(one: LedgerMetadata, other: LedgerMetadata) -> bool:
    """Whether new entries would go to the same bookies by both."""
    last, wanted = one.fragments[-1], other.fragments[-1]
    return (last.first_entry, last.ensemble) == (wanted.first_entry, wanted.ensemble)
