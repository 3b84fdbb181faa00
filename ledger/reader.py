"""Reading a range of entries, as a state machine without I/O: asks out, replies in.

An entry is looked for on the bookies of its write set, one after the other, until one has it.
Where a ledger is striped over more bookies than the write quorum, a bookie holds runs of
Qw entries, so the range is cut into such runs, asked at the same time. Only certain answers of
a whole write set make EntryNotFound; anything less is EntryUnknown (R16). The caller bounds the
range by what is confirmed (R15).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ledger.distribution import write_set
from ledger.invariant import invariant
from ledger.wire import NEGATIVES, ReadReply, ReadRequest, StoredEntry
from magnetar.errors import EntryNotFound, EntryUnknown, LedgerError
from magnetar.ids import BookieId, EntryId
from metadata.ledgers import Fragment, LedgerMetadata

MAX_PARALLEL_RUNS: Final = 16


class Ask(NamedTuple):
    """One request to one bookie; its reply comes back with the run."""

    run: int
    bookie: BookieId
    request: ReadRequest


@dataclass(slots=True)
class _Run:
    """Entries `first` to `last` that one bookie can hold, and how the search for them goes."""

    first: int
    last: int
    fragment: Fragment
    tried: list[BookieId] = field(default_factory=list)
    denied: int = 0
    entries: tuple[StoredEntry, ...] = ()
    settled: bool = False


class RangeRead:
    """One range of one ledger. `suspects` are bookies to ask last."""

    def __init__(
        self,
        metadata: LedgerMetadata,
        first_entry: EntryId,
        last_entry: EntryId,
        max_entries: int,
        max_bytes: int,
        suspects: Collection[BookieId] = (),
    ) -> None:
        invariant(0 <= first_entry <= last_entry, "R15", "a range begins at or before its end")
        self._metadata = metadata
        self._max_bytes = max_bytes
        self._suspects = suspects
        wanted_last = min(last_entry, first_entry + max(1, max_entries) - 1)
        self._runs = self._cut(first_entry, wanted_last)

    def _cut(self, first_entry: int, last_entry: int) -> list[_Run]:
        metadata, at = self._metadata, first_entry
        runs: list[_Run] = []
        fragments = metadata.fragments
        striped = metadata.ensemble_size > metadata.write_quorum
        index = fragments.index(metadata.fragment_for(EntryId(at)))
        while at <= last_entry and len(runs) < (MAX_PARALLEL_RUNS if striped else 1):
            following = fragments[index + 1] if index + 1 < len(fragments) else None
            last = last_entry
            if following is not None:
                last = min(last, following.first_entry - 1)
            if striped:
                last = min(last, at + metadata.write_quorum - 1)
            runs.append(_Run(at, last, fragments[index]))
            at = last + 1
            if following is not None and at >= following.first_entry:
                index += 1
        return runs

    def begin(self) -> list[Ask]:
        """The first requests."""
        return [ask for number in range(len(self._runs)) if (ask := self._next_ask(number))]

    def _preferred(self, run: _Run) -> list[BookieId]:
        """The write set of the run's first entry; the bookie that holds all the run first."""
        metadata = self._metadata
        slots = write_set(EntryId(run.first), metadata.ensemble_size, metadata.write_quorum)
        bookies = [run.fragment.ensemble[slot] for slot in reversed(slots)]
        return sorted(bookies, key=lambda bookie: bookie in self._suspects)

    def _next_ask(self, number: int) -> Ask | None:
        run = self._runs[number]
        for bookie in self._preferred(run):
            if bookie not in run.tried:
                run.tried.append(bookie)
                request = ReadRequest(
                    self._metadata.ledger_id, EntryId(run.first), run.last - run.first + 1,
                    self._max_bytes,
                )
                return Ask(number, bookie, request)
        run.settled = True
        return None

    def on_reply(self, number: int, reply: ReadReply) -> list[Ask]:
        """A bookie answered for a run; what to ask now."""
        run = self._runs[number]
        if reply.entries and reply.entries[0].entry_id == run.first:
            wanted = run.last - run.first + 1
            run.entries = reply.entries[:wanted]
            run.settled = True
            return []
        if reply.status in NEGATIVES:
            run.denied += 1
        ask = self._next_ask(number)
        return [ask] if ask is not None else []

    @property
    def finished(self) -> bool:
        """Whether `result` is known: all up to the first run that ended early or failed."""
        for run in self._runs:
            if not run.settled:
                return False
            if run.entries == () or run.entries[-1].entry_id != run.last:
                return True
        return True

    def result(self) -> list[StoredEntry]:
        """Contiguous entries from the first, at least one; raises EntryNotFound, EntryUnknown."""
        found: list[StoredEntry] = []
        size_bytes = 0
        for run in self._runs:
            for entry in run.entries:
                size_bytes += len(entry.body)
                if found and size_bytes > self._max_bytes:
                    return found
                found.append(entry)
            if not run.entries or run.entries[-1].entry_id != run.last:
                break
        if not found:
            raise self._failure(self._runs[0])
        return found

    def _failure(self, run: _Run) -> LedgerError:
        place = f"entry {run.first} of ledger {self._metadata.ledger_id}"
        if run.denied == self._metadata.write_quorum:
            return EntryNotFound(f"{place} is on none of {', '.join(run.tried)}")
        return EntryUnknown(f"none of {', '.join(run.tried)} could say where {place} is")


