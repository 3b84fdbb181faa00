"""Recognises batches that were stored before: one map from source to its last positions.

A source is a producer name. For each the newest batches are kept with their ids, so that a
resend of any batch that could still have been in flight is answered with the id it got first.
Batches of a source arrive in order within one stream, hence the last sequence id alone tells new
from old; the remembered batches tell a resend from an overlap.

A topic has one such map for its log and one for its schedule (a lane each), because order holds
only within one chain of ledgers. Who a producer is, and since when it is gone, the log's knows.

The map is written to the state ledger piecewise (`take_changes`) and after a change of owner is
read back and brought up to date with the log's tail (`replay`), before anything is published.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from broker.state_records import SourceProgress, StoredBatch
from ledger.position import Position
from magnetar.errors import InvalidArgument, ProducerFenced, SequenceOverlap

CERTAIN_BATCHES = 1_024
"""With fewer batches read back from the state ledger than this, none was ever left out."""
AUTOMATIC_PREFIX = "~"
"""Names given by brokers begin so; names that do are not to be chosen."""


class BatchInFlight:
    """A batch on its way to the bookies; `waiting` hear where it is stored."""

    __slots__ = ("first", "last", "waiting")

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last
        self.waiting: list[Callable[[Position], None]] = []


class Source:
    """What is known of one producer name."""

    __slots__ = (
        "automatic", "changed", "confirmed", "epoch", "forgetful", "idle_since_ms", "in_flight",
        "last_pushed", "last_stored", "name",
    )

    def __init__(self, name: str, automatic: bool) -> None:
        self.name = name
        self.automatic = automatic
        self.epoch = 0
        self.last_pushed = -1
        self.last_stored = -1
        self.in_flight: deque[BatchInFlight] = deque()
        self.confirmed: deque[StoredBatch] = deque()
        self.changed: list[StoredBatch] = []
        self.idle_since_ms = 0
        self.forgetful = False
        """There were batches before the first of `confirmed`, no longer remembered."""

    def check(
        self, first: int, last: int, ids: Iterable[int] | None = None
    ) -> BatchInFlight | StoredBatch | None:
        """None for a new batch, else where an equal or covering one stands.

        A batch stored so long ago that its id is forgotten comes back with entry id -1. `ids` are
        the batch's own where they do not follow each other. Raises SequenceOverlap when only its
        first part is stored, InvalidArgument when later batches are stored and this is not: it
        was refused, and is not to be taken for one that was stored.
        """
        pushed = self.last_pushed
        if first > pushed:
            return None
        if last > pushed:
            self._expect_all(range(first, pushed + 1) if ids is None else ids)
            raise SequenceOverlap(pushed)
        for flying in self.in_flight:
            if flying.first <= first and last <= flying.last:
                return flying
        for stored in reversed(self.confirmed):
            if stored.first_sequence_id <= first and last <= stored.last_sequence_id:
                return stored
        self._expect_all(range(first, last + 1) if ids is None else ids)
        if self.in_flight and last >= self.in_flight[0].first:
            # Cut differently than the first time and partly in flight: it counts as stored only
            # once its last part is, so that a lost owner cannot make the receipt a lie.
            return next(flying for flying in self.in_flight if last <= flying.last)
        return StoredBatch(first, last, 0, -1)

    def _expect_all(self, ids: Iterable[int]) -> None:
        """Raise unless all of these up to the last one pushed stand in some batch."""
        ranges = sorted([
            *((one.first_sequence_id, one.last_sequence_id) for one in self.confirmed),
            *((one.first, one.last) for one in self.in_flight),
        ])
        at = 0
        for number in ids:
            if number > self.last_pushed or not ranges:
                return
            if number < ranges[0][0] and self.forgetful:
                continue
            while at < len(ranges) and ranges[at][1] < number:
                at += 1
            if at == len(ranges) or number < ranges[at][0]:
                raise InvalidArgument(
                    f"sequence id {number} of {self.name!r} is not stored, while later ones are: it"
                    " was refused when it came first; send it under a new one"
                )

    def push(self, first: int, last: int) -> BatchInFlight:
        """A new batch goes to the log."""
        self.last_pushed = last
        flying = BatchInFlight(first, last)
        self.in_flight.append(flying)
        return flying

    def store(self, first: int, last: int, ledger_id: int, entry_id: int, keep: int) -> None:
        """The oldest batch in flight, or one read back from the log, stands at this entry."""
        batch = StoredBatch(first, last, ledger_id, entry_id)
        self.confirmed.append(batch)
        self.changed.append(batch)
        self.last_stored = last
        if len(self.confirmed) > keep:
            self.confirmed.popleft()
            self.forgetful = True
        if len(self.changed) > keep:
            del self.changed[0]


class Deduplication:
    """All sources of one topic, in one lane."""

    def __init__(self, remembered_batches: int, automatic_sources: int) -> None:
        self._keep = remembered_batches
        self._automatic_limit = automatic_sources
        self._sources: dict[str, Source] = {}
        self._dirty: dict[str, Source] = {}
        self.forgotten_total = 0

    def __len__(self) -> int:
        return len(self._sources)

    def open(self, name: str, epoch: int, *, new_name: bool = False) -> Source:
        """A producer opens: the source, with the epoch this producer is to use.

        `epoch` 0 is a first open, which takes the name over; a higher one is a reconnect. Raises
        ProducerFenced when a newer producer has the name, InvalidArgument for reserved names.
        """
        automatic = name.startswith(AUTOMATIC_PREFIX)
        if automatic and epoch == 0 and not new_name:
            raise InvalidArgument(
                f"producer names beginning with {AUTOMATIC_PREFIX!r} are given by brokers;"
                " choose another"
            )
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = Source(name, automatic)
        if epoch and epoch < source.epoch:
            raise ProducerFenced(f"a newer producer took over the name {name!r}")
        source.epoch = epoch or source.epoch + 1
        source.idle_since_ms = 0
        self._dirty[name] = source
        return source

    def get(self, name: str) -> Source | None:
        """The source, if something is known of it."""
        return self._sources.get(name)

    def lane(self, of: Source) -> Source:
        """This lane's positions of a producer that is open in the topic's log."""
        source = self._sources.get(of.name)
        if source is None:
            source = self._sources[of.name] = Source(of.name, of.automatic)
        return source

    def know(self, names: Iterable[str]) -> None:
        """These producers have positions in another lane: forget them here, and there, in time."""
        for name in names:
            if name not in self._sources:
                self._sources[name] = Source(name, name.startswith(AUTOMATIC_PREFIX))

    @property
    def names(self) -> list[str]:
        """Of all sources."""
        return [*self._sources]

    def closed(self, source: Source, now_ms: int) -> None:
        """The producer's session ended; automatic names are on their way to be forgotten."""
        if self._sources.get(source.name) is source:
            source.idle_since_ms = max(now_ms, 1)
            self._dirty[source.name] = source

    def stored(self, source: Source, batch: BatchInFlight, ledger_id: int, entry_id: int) -> None:
        """The log holds the oldest batch in flight of `source`."""
        assert source.in_flight.popleft() is batch, "a source's batches are stored in order"
        source.store(batch.first, batch.last, ledger_id, entry_id, self._keep)
        self._dirty[source.name] = source

    def replay(self, name: str, first: int, last: int, ledger_id: int, entry_id: int) -> None:
        """An entry read back from the log; harmless when the source knows it already."""
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = Source(name, name.startswith(AUTOMATIC_PREFIX))
        if last > source.last_stored:
            source.store(first, last, ledger_id, entry_id, self._keep)
            source.last_pushed = last
            self._dirty[name] = source

    def restore(self, progress: SourceProgress) -> None:
        """A record of the state ledger, in order."""
        source = self._sources.get(progress.name)
        if source is None:
            source = self._sources[progress.name] = Source(progress.name, progress.automatic)
        source.epoch = max(source.epoch, progress.epoch)
        source.idle_since_ms = progress.idle_since_ms
        for batch in progress.batches:
            if batch.last_sequence_id > source.last_stored:
                source.store(
                    batch.first_sequence_id, batch.last_sequence_id, batch.ledger_id,
                    batch.entry_id, self._keep,
                )
        if len(source.confirmed) >= min(self._keep, CERTAIN_BATCHES):
            source.forgetful = True
        source.last_stored = max(source.last_stored, progress.last_sequence_id)
        source.last_pushed = source.last_stored
        source.changed.clear()

    def nobody_is_connected(self, now_ms: int) -> None:
        """After a change of owner: sessions that ended with the last one, unrecorded, end now."""
        for source in self._sources.values():
            if source.automatic and not source.idle_since_ms:
                self.closed(source, now_ms)

    def forget(self, names: Iterable[str]) -> None:
        """As a record of the state ledger says."""
        for name in names:
            self._sources.pop(name, None)
            self._dirty.pop(name, None)

    def expire(self, now_ms: int, idle_ms: int) -> tuple[str, ...]:
        """Forget automatic names idle for too long, and the oldest above the limit."""
        idle = sorted(
            (source.idle_since_ms, source.name)
            for source in self._sources.values()
            if source.automatic and source.idle_since_ms and not source.in_flight
        )
        automatic = sum(1 for source in self._sources.values() if source.automatic)
        too_many = max(0, automatic - self._automatic_limit)
        names = tuple(
            name for rank, (since, name) in enumerate(idle)
            if rank < too_many or now_ms - since >= idle_ms
        )
        self.forget(names)
        self.forgotten_total += len(names)
        return names

    def take_changes(self) -> list[SourceProgress]:
        """What is stored and changed since the last call."""
        changes = [self._progress(source, source.changed) for source in self._dirty.values()]
        for source in self._dirty.values():
            source.changed = []
        self._dirty.clear()
        return changes

    def snapshot(self) -> list[SourceProgress]:
        """Everything that is stored."""
        return [self._progress(source, source.confirmed) for source in self._sources.values()]

    @staticmethod
    def _progress(source: Source, batches: Iterable[StoredBatch]) -> SourceProgress:
        return SourceProgress(
            source.name, source.automatic, source.epoch, source.last_stored,
            source.idle_since_ms, tuple(batches),
        )
