"""The ledgers in memory: state, newest entries, and what is on its way to the disk."""

from __future__ import annotations

from collections.abc import Iterator

from bookie.index import Index
from bookie.ledger_state import LedgerState, NodeState
from bookie.log import LogRecord
from bookie.log_files import LogFiles
from magnetar.errors import CorruptRecord
from magnetar.ids import NO_ENTRY_ID, EntryId, LedgerId


class Ledger:
    """One ledger. `recent` holds every entry not indexed yet and the cached ones."""

    __slots__ = (
        "deleted", "fenced", "highest", "in_flight", "known", "last_add_confirmed", "last_entry",
        "ledger_id", "recent", "state", "wanted",
    )

    def __init__(self, ledger_id: LedgerId, state: LedgerState | None) -> None:
        self.ledger_id = ledger_id
        self.state = state if state is not None else LedgerState()
        """What is durable."""
        self.wanted = self.state
        """The newest state on its way to the disk."""
        self.fenced = self.state.fenced or self.state.deleted
        """Whether normal adds are refused: from the arrival of a fence, before it is durable."""
        self.deleted = self.state.deleted
        self.known = state is not None
        """Whether the bookie ever held anything of this ledger."""
        self.recent: dict[EntryId, LogRecord] = {}
        self.highest = NO_ENTRY_ID
        """Highest entry ever accepted: a higher one cannot be a repetition."""
        self.last_entry = NO_ENTRY_ID
        """Highest durable entry."""
        self.last_add_confirmed = NO_ENTRY_ID
        self.in_flight = 0
        """Entries appended and not settled."""


class LedgerTable:
    """Loads ledgers from the index at first touch and forgets idle ones."""

    def __init__(self, index: Index, files: LogFiles, max_ledgers: int) -> None:
        self._index = index
        self._files = files
        self._max_ledgers = max_ledgers
        self._ledgers: dict[LedgerId, Ledger] = {}
        self._pins: dict[LedgerId, int] = {}
        self.node_state = NodeState()

    def __iter__(self) -> Iterator[Ledger]:
        return iter(self._ledgers.values())

    def get(self, ledger_id: LedgerId) -> Ledger:
        """The ledger, made up if it was never seen. Raises CorruptRecord."""
        ledger = self._ledgers.get(ledger_id)
        return ledger if ledger is not None else self._load(ledger_id)

    def loaded(self, ledger_id: LedgerId) -> Ledger | None:
        """The ledger if it is in memory."""
        return self._ledgers.get(ledger_id)

    def in_limbo(self, ledger: Ledger) -> bool:
        """Whether entries of it may have been lost here: a negative is not certain."""
        node = self.node_state
        return (
            ledger.ledger_id <= node.limbo_ceiling
            and ledger.state.limbo_cleared < node.limbo_epoch
        )

    def set_node_state(self, state: NodeState) -> None:
        """Take a new state and fence in memory what it fences."""
        self.node_state = state
        for ledger in self._ledgers.values():
            ledger.fenced = (
                ledger.fenced
                or ledger.state.fenced
                or ledger.ledger_id <= state.fence_ceiling
            )

    def pin(self, ledger_id: LedgerId) -> None:
        """A state of it is on its way: until the index has it, only memory knows the newest."""
        self._pins[ledger_id] = self._pins.get(ledger_id, 0) + 1

    def unpin(self, ledger_id: LedgerId) -> None:
        """The state is in the index, or never will be anywhere."""
        left = self._pins.pop(ledger_id, 1) - 1
        if left:
            self._pins[ledger_id] = left

    def drop(self, ledger_id: LedgerId) -> None:
        """Forget; the next touch loads it anew."""
        self._ledgers.pop(ledger_id, None)

    def _load(self, ledger_id: LedgerId) -> Ledger:
        if len(self._ledgers) >= self._max_ledgers:
            self._evict()
        stored = self._index.state(ledger_id)
        ledger = Ledger(ledger_id, None if stored is None else LedgerState.decode(stored))
        ledger.fenced = ledger.fenced or ledger_id <= self.node_state.fence_ceiling
        last = self._index.last_entry(ledger_id)
        if last != NO_ENTRY_ID:
            ledger.known = True
            ledger.highest = ledger.last_entry = last
            ledger.last_add_confirmed = self._stored_confirmed(ledger_id, last)
        self._ledgers[ledger_id] = ledger
        return ledger

    def _stored_confirmed(self, ledger_id: LedgerId, last: EntryId) -> EntryId:
        """LAC of the last entry. A lower one than was ever seen is safe: it is a hint."""
        try:
            for header, _ in self._files.read(self._index.locate(ledger_id, last, 1, 0)):
                return header.last_add_confirmed
        except CorruptRecord:
            pass
        return NO_ENTRY_ID

    def _evict(self) -> None:
        """Forget the idle ones among the oldest."""
        wanted = max(1, self._max_ledgers // 16)
        idle = [
            ledger for ledger in self._ledgers.values()
            if not ledger.recent and ledger.ledger_id not in self._pins
        ]
        for ledger in idle[:wanted]:
            if ledger.in_flight == 0 and ledger.fenced == (
                ledger.state.fenced
                or ledger.deleted
                or ledger.ledger_id <= self.node_state.fence_ceiling
            ):
                del self._ledgers[ledger.ledger_id]
