"""A subscription's walk through the log, past what its consumers' filter does not want.

What is passed over counts as acknowledged, so it never holds back the backlog or comes again.
Deciding is bounded: a turn looks at `TURN_STEPS` steps of filters, then lets others run, in the
middle of a batch if it must.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from broker.cursor import Cursor, full_mask
from broker.log_reader import LogReader
from broker.selector import MessageFilter
from broker.stored_entry import StoredEntry
from ledger.position import Position
from magnetar.entry import EntryView, parse_prefix
from magnetar.errors import InvalidFrame

TURN_STEPS = 5_000
"""A step is one value or operator of an expression at one message, or some bytes of its
properties, and costs about 1 µs on a busy core."""
PROPERTY_BYTES_A_STEP = 16
COMPARISONS_A_STEP = 1_600
"""Characters of a text held against those of a pattern with `_`."""
ENTRY_COST_BYTES = 100
"""What handing out an entry costs beside its bytes."""


class FilterHost(Protocol):
    """What a filter needs of its subscription."""

    cursor: Cursor

    def passed_over(self, entry: StoredEntry, mask: int) -> None:
        """These messages of the entry are not wanted, and so need not be delivered."""


class FilteredLog:
    """Reads as LogReader does; `filter` None lets everything pass."""

    def __init__(self, reader: LogReader, host: FilterHost, wake: Callable[[], None]) -> None:
        self._reader = reader
        self._host = host
        self._wake = wake
        self.filter: MessageFilter | None = None
        self._steps = TURN_STEPS
        self._entry: StoredEntry | None = None
        self._view: EntryView | None = None
        self._index = 0
        self._unwanted = 0

    @property
    def problem(self) -> str | None:
        """Why nothing can be read, if so."""
        return self._reader.problem

    @problem.setter
    def problem(self, problem: str | None) -> None:
        self._reader.problem = problem

    def seek(self, after: Position) -> None:
        """Go on with what comes after `after`."""
        self._forget()
        self._reader.seek(after)

    def close(self) -> None:
        """Stop reading and drop what was read ahead."""
        self._forget()
        self._reader.close()

    @property
    def at_end(self) -> bool:
        """Everything stored was handed out."""
        return self._entry is None and self._reader.at_end

    def begin_turn(self) -> None:
        """So much may be looked at before others run."""
        self._steps = TURN_STEPS

    def next(self) -> StoredEntry | None:
        """The next entry of which something is wanted, or None; see LogReader.next."""
        if self.filter is None:
            return self._reader.next()
        while True:
            if self._entry is None and not self._open():
                return None
            if not self._decide(self.filter):
                self._wake()
                return None
            entry, unwanted = self._entry, self._unwanted
            assert entry is not None
            self._forget()
            self._host.passed_over(entry, unwanted)
            if unwanted != full_mask(entry.count):
                return entry

    def _forget(self) -> None:
        self._entry = self._view = None
        self._index = self._unwanted = 0

    def _open(self) -> bool:
        self._entry = self._reader.next()
        if self._entry is None:
            return False
        _, batch = parse_prefix(self._entry.body)
        self._view = EntryView(batch, verify=False)
        return True

    def _decide(self, wanted: MessageFilter) -> bool:
        """Go through the entry; False when the turn ended before it did."""
        entry, view = self._entry, self._view
        assert entry is not None and view is not None
        if self._steps <= 0:
            return False
        cost = wanted.steps + _texts_cost(view, wanted) // entry.count
        start = self._index
        stop = min(entry.count, start + max(self._steps // cost, 1))
        unwanted = bytearray(b"0") * (stop - start)
        try:
            for index in range(start, stop):
                if not wanted.wants(view, index):
                    unwanted[index - start] = 49
        except InvalidFrame:
            # Texts that cannot be read: the consumer is told, as it would be without a filter.
            self._unwanted = 0
            self._index = entry.count
            return True
        self._unwanted |= int(bytes(reversed(unwanted)), 2) << start
        self._steps -= (stop - start + 1) * cost
        self._index = stop
        return stop == entry.count


def _texts_cost(view: EntryView, wanted: MessageFilter) -> int:
    """Steps, for all messages of the entry."""
    header = view.header
    texts_bytes = header.properties_bytes + header.columns_bytes
    return (
        header.properties_bytes // PROPERTY_BYTES_A_STEP
        + texts_bytes * wanted.wildcards // COMPARISONS_A_STEP)
