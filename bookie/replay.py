"""What a start finds in the log, and what it makes of it.

The highest durable mark M divides the log. A mark is the one in any valid commit header, or the
position the index reached, for both are written only after the log was synced up to there.

    before M   everything was on the disk once: what cannot be read is corruption.
               A record whose header holds is known by name: that entry alone is not served.
               A region that cannot be told puts the bookie in limbo.
    after M    a crash may have torn it: what cannot be read was never acknowledged and is
               dropped; what can be read may have been acknowledged and is carried into a new
               file and synced before the port opens.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

from bookie.index import Index, IndexBatch
from bookie.ledger_state import LedgerState, NodeState
from bookie.log import LogRecord
from bookie.log_files import LogFiles, file_name, is_run
from bookie.record import (
    LOG_START,
    RECORD_HEADER_BYTES,
    FileId,
    Location,
    LogPosition,
    RecordKind,
    encode_files,
    parse_files,
)
from bookie.scan import Damage, FoundCommit, FoundRecord, scan_file
from magnetar.errors import CorruptRecord, InvalidFrame
from magnetar.ids import EntryId, LedgerId

_BATCH_RECORDS: Final = 512

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ReplayOutcome:
    """Everything `BookieStorage` needs to go on."""

    mark: LogPosition = LOG_START
    next_sequence: int = 0
    node_state: NodeState = field(default_factory=NodeState)
    carried: list[LogRecord] = field(default_factory=list)
    """Records behind the mark, to be written again."""
    torn: list[Damage] = field(default_factory=list)
    corrupt: list[Damage] = field(default_factory=list)
    corrupt_entries: list[tuple[LedgerId, EntryId]] = field(default_factory=list)
    lost_files: list[FileId] = field(default_factory=list)
    leftovers: list[FileId] = field(default_factory=list)
    """Files to unlink once the carried records are safe."""
    index_rebuilt: bool = False

    @property
    def limbo(self) -> bool:
        """Whether something of unknown extent is missing that no limbo has answered yet."""
        known = self.node_state.known_damage
        return bool(self.lost_files or any(d.start not in known for d in self.corrupt))


class Replay:
    """One pass over what the index does not have yet."""

    def __init__(self, files: LogFiles, index: Index) -> None:
        self._files = files
        self._index = index
        self._outcome = ReplayOutcome()
        self._batch = IndexBatch()
        self._reached: LogPosition | None = None
        self._deleted: set[LedgerId] = set()
        self._listed: tuple[FileId, ...] | None = None
        self._tail: list[FoundCommit] = []
        self._damages: list[Damage] = []
        self._marks: dict[FileId, int] = {}

    async def run(self) -> ReplayOutcome:
        """Bring the index up to the mark. The files are open; none is changed here."""
        outcome = self._outcome
        self._begin()
        start = outcome.mark
        logs = [file_id for file_id in self._files.ids() if not is_run(file_id)]
        turn = 0
        for file_id in logs:
            if file_id < start.file_id:
                continue
            first = start.offset if file_id == start.file_id else 0
            for found in scan_file(self._files[file_id], file_id, first):
                self._take(found)
                turn += 1
                if turn % 64 == 0:
                    await asyncio.sleep(0)  # sessions and health checks must live meanwhile
        self._end_of_logs(logs)
        if outcome.index_rebuilt:
            for file_id in sorted(self._files.listed):
                if is_run(file_id):
                    await self._take_run(file_id)
        if not outcome.limbo:
            # With a loss to tell, the index stays before it until the limbo is recorded: a crash
            # until then must find the damage again.
            self._batch.position = self._reached
        self._write()
        return outcome

    def _begin(self) -> None:
        outcome, index = self._outcome, self._index
        position = index.position()
        if position is None:
            outcome.index_rebuilt = True
            return
        outcome.mark = position
        node_state = index.node_state()
        if node_state is not None:
            outcome.node_state = NodeState.decode(node_state)
        files = index.files()
        if files is not None:
            self._listed = parse_files(files)
        for ledger_id, state in index.states():
            if LedgerState.decode(state).deleted:
                self._deleted.add(ledger_id)
        for file_id, ledger_id, size in index.usage():
            if file_id not in self._files:
                self._batch.usage[file_id, ledger_id] = 0  # unlinked, and then a crash
                continue
            self._files.usage.set(file_id, ledger_id, size)

    def _take(self, found: FoundCommit | Damage) -> None:
        if isinstance(found, Damage):
            self._damages.append(found)
            return
        outcome, header = self._outcome, found.header
        outcome.next_sequence = max(outcome.next_sequence, header.sequence + 1)
        file_id, offset = header.mark
        self._marks[file_id] = max(self._marks.get(file_id, 0), offset)
        outcome.mark = max(outcome.mark, header.mark)
        if found.damaged_at is not None:
            start = LogPosition(found.file_id, found.damaged_at)
            self._damages.append(Damage(start, header.end))
        self._tail.append(found)
        while self._tail and self._tail[0].end <= outcome.mark:
            self._apply(self._tail.pop(0))

    def _end_of_logs(self, logs: list[FileId]) -> None:
        """Now the mark is final: judge the damages and what lies behind it."""
        outcome = self._outcome
        for file_id, offset in sorted(self._marks.items()):
            if file_id in self._files and self._files[file_id].size_bytes < offset:
                size = self._files[file_id].size_bytes
                self._damages.append(Damage(LogPosition(file_id, size), offset))
        mark_file = outcome.mark.file_id
        if mark_file in self._files and self._files[mark_file].size_bytes < outcome.mark.offset:
            start = LogPosition(mark_file, self._files[mark_file].size_bytes)
            self._damages.append(Damage(start, outcome.mark.offset))
        for damage in self._damages:
            (outcome.corrupt if damage.start < outcome.mark else outcome.torn).append(damage)
        for commit in self._tail:
            self._carry(commit)
        self._judge_files(logs)
        for damage in outcome.corrupt:
            name = file_name(damage.start.file_id)
            _log.error("%s is damaged from %d to %d", name, damage.start.offset, damage.end)

    def _carry(self, commit: FoundCommit) -> None:
        for record in commit.records:
            header = record.header
            if not record.body_holds:
                start = LogPosition(commit.file_id, record.offset)
                end = record.offset + RECORD_HEADER_BYTES + header.length
                self._outcome.torn.append(Damage(start, end))
            elif header.kind == RecordKind.FILES:
                self._listed = self._parse_files(record)
            else:
                self._outcome.carried.append(
                    LogRecord(
                        header.kind, header.ledger_id, header.entry_id,
                        header.last_add_confirmed, header.digest, record.body,
                    )
                )

    def _judge_files(self, logs: list[FileId]) -> None:
        outcome = self._outcome
        present = set(self._files.ids())
        # Files begun behind the mark: their records are carried, so they go.
        behind = {file_id for file_id in logs if file_id > outcome.mark.file_id}
        listed = present if self._listed is None else set(self._listed)
        outcome.lost_files = sorted(listed - present)
        for file_id in outcome.lost_files:
            _log.error("%s is lost", file_name(file_id))
        leftovers = behind
        if not outcome.limbo:
            # Unlinking was decided and recorded, or compaction did not finish. In doubt, when
            # the newest list may be among what was lost, every file stays.
            leftovers = behind | (present - listed)
        outcome.leftovers = sorted(leftovers)
        self._files.listed = present - leftovers

    # index

    def _apply(self, commit: FoundCommit) -> None:
        for record in commit.records:
            kind = record.header.kind
            if kind == RecordKind.ADD:
                self._apply_add(commit.file_id, record)
            elif not record.body_holds:
                place = LogPosition(commit.file_id, record.offset)
                self._damages.append(Damage(place, commit.header.end))
            elif kind == RecordKind.LEDGER_STATE:
                self._apply_ledger_state(record)
            elif kind == RecordKind.NODE_STATE:
                state = NodeState.decode(record.body)
                self._outcome.node_state = self._outcome.node_state.merged(state)
                self._batch.node_state = self._outcome.node_state.encode()
            elif kind == RecordKind.FILES:
                self._listed = self._parse_files(record)
                if self._listed is not None:
                    self._batch.files = encode_files(self._listed)
        self._reached = commit.end
        if len(self._batch.locations) >= _BATCH_RECORDS:
            self._write()

    def _apply_add(self, file_id: FileId, record: FoundRecord) -> None:
        header = record.header
        ledger_id = header.ledger_id
        if ledger_id in self._deleted:
            return
        if not record.body_holds:
            self._outcome.corrupt_entries.append((ledger_id, header.entry_id))
            if self._index.locate(ledger_id, header.entry_id, 1, 0):
                return  # a good copy is known already
        location = Location(file_id, record.offset, header.length)
        self._batch.locations.append((ledger_id, header.entry_id, location))
        usage = self._files.usage
        size = usage.get(file_id, ledger_id) + RECORD_HEADER_BYTES + header.length
        usage.set(file_id, ledger_id, size)
        self._batch.usage[file_id, ledger_id] = size

    def _apply_ledger_state(self, record: FoundRecord) -> None:
        ledger_id = record.header.ledger_id
        state = LedgerState.decode(record.body)
        known = self._batch.states.get(ledger_id) or self._index.state(ledger_id)
        if known is not None:
            state = state.merged(LedgerState.decode(known))
        self._batch.states[ledger_id] = state.encode()
        if state.deleted and ledger_id not in self._deleted:
            self._deleted.add(ledger_id)
            for file_id in self._files.usage.files_of(ledger_id):
                self._batch.usage[file_id, ledger_id] = 0
            self._files.usage.drop_ledger(ledger_id)
            self._batch.forgotten.append(ledger_id)

    async def _take_run(self, file_id: FileId) -> None:
        """Runs are complete when they are listed: whatever is unreadable is corruption."""
        self._write()
        for found in scan_file(self._files[file_id], file_id):
            if isinstance(found, Damage):
                self._outcome.corrupt.append(found)
                continue
            if found.damaged_at is not None:
                start = LogPosition(file_id, found.damaged_at)
                self._outcome.corrupt.append(Damage(start, found.header.end))
            for record in found.records:
                if record.header.kind == RecordKind.ADD:
                    self._apply_add(file_id, record)
            await asyncio.sleep(0)

    def _write(self) -> None:
        self._index.write(self._batch)
        self._batch = IndexBatch()

    def _parse_files(self, record: FoundRecord) -> tuple[FileId, ...] | None:
        try:
            return parse_files(record.body)
        except InvalidFrame as error:
            raise CorruptRecord(f"a list of files cannot be read: {error}") from error

