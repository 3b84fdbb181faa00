"""Small builders for tests of the cores without any I/O."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ledger.placement import Candidate, Placement
from ledger.quorum import Quorums
from ledger.wire import Status, StoredEntry, entry_digest
from ledger.writer import Complete, LedgerWriter, SendAdd, SlotFailed, Stop, WriteMetadata
from magnetar.ids import BookieId, EntryId, LedgerId
from metadata.ledgers import Fragment, LedgerMetadata, LedgerState

LEDGER = LedgerId(7)


def bookies(*names: str) -> tuple[BookieId, ...]:
    return tuple(BookieId(name) for name in names)


def candidates(*names: str) -> list[Candidate]:
    return [Candidate(BookieId(name)) for name in names]


def metadata(
    *names: str, sizes: Quorums | None = None, state: LedgerState = LedgerState.OPEN,
    fragments: Sequence[Fragment] = (),
) -> LedgerMetadata:
    sizes = sizes or Quorums(len(names), len(names), len(names) // 2 + 1)
    return LedgerMetadata(
        LEDGER, sizes.ensemble_size, sizes.write_quorum, sizes.ack_quorum, state,
        tuple(fragments) or (Fragment(EntryId(0), bookies(*names)),),
    )


def placement() -> Placement:
    return Placement(random.Random(1))


def writer(*names: str, slow_limit_bytes: int = 1 << 20) -> LedgerWriter:
    return LedgerWriter(metadata(*names or ("a", "b", "c")), 0, placement(), slow_limit_bytes)


def stored(entry_id: int, body: bytes = b"x", lac: int = -1) -> StoredEntry:
    digest = entry_digest(LEDGER, EntryId(entry_id), EntryId(lac), body)
    return StoredEntry(EntryId(entry_id), EntryId(lac), body, digest)


class WriterRun:
    """A writer with its effects collected; slots answer for a generation as told."""

    def __init__(self, core: LedgerWriter) -> None:
        self.core = core
        self.version = core.version
        self.completed = -1
        self.failed: list[SlotFailed] = []
        self.stopped: Stop | None = None
        self.sent: list[SendAdd] = []
        self.write: WriteMetadata | None = None

    def take(self, effects: Sequence[object]) -> None:
        for effect in effects:
            if isinstance(effect, Complete):
                assert effect.last_entry > self.completed
                self.completed = effect.last_entry
            elif isinstance(effect, SlotFailed):
                self.failed.append(effect)
            elif isinstance(effect, Stop):
                self.stopped = effect
            elif isinstance(effect, SendAdd):
                self.sent.append(effect)
            elif isinstance(effect, WriteMetadata):
                assert self.write is None
                self.write = effect

    def add(self, *bodies: bytes) -> None:
        for body in bodies:
            self.take([self.core.add(body)])

    def reply(
        self, slot: int, entry: int, status: Status = Status.OK, generation: int | None = None
    ) -> None:
        if generation is None:
            generation = self.generation(slot)
        self.take(self.core.add_reply(slot, generation, entry, status))

    def generation(self, slot: int) -> int:
        """The newest the slot was sent anything with."""
        return max(
            (target.generation for send in self.sent for target in send.targets
             if target.slot == slot), default=0,
        )

    def repair(self, *names: str) -> WriteMetadata | None:
        """Read the record as it is, and offer these bookies."""
        self.take(self.core.repair(self.core.metadata, self.version, candidates(*names)))
        return self.write

    def win(self) -> None:
        """The write in flight succeeds."""
        write, self.write = self.write, None
        assert write is not None and write.version == self.version
        self.version += 1
        self.take(self.core.metadata_written(write.metadata, self.version))

    def lose(self, found: LedgerMetadata, version: int) -> None:
        """The write in flight fails; this is what is there."""
        self.write = None
        self.version = version
        self.take(self.core.metadata_conflict(found, version))
