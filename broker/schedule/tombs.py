"""Which messages in runs do not fire there: tombs of all runs, as one ordered stream."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from broker.schedule.runs.run import Run


class TombStream:
    """Asked of marks that grow."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Run]] = []

    def follow(self, runs: Iterable[Run]) -> None:
        """From now on these are the runs."""
        self._heap = [
            (*head, run.ledger_id, run) for run in runs if (head := run.tombs.head) is not None
        ]
        heapq.heapify(self._heap)

    def holds(self, mark: tuple[int, int]) -> bool | None:
        """Whether there is a tomb for the mark; None: a block must be loaded to know."""
        heap = self._heap
        while heap and heap[0][:2] <= mark:
            due_ms, sequence, ledger_id, run = heap[0]
            head = run.tombs.head
            if head is not None and head <= mark and not run.tombs.ready:
                return None  # one that is behind the mark for certain need not be loaded
            if head == mark:
                return True
            if head == (due_ms, sequence):
                run.tombs.advance()
                head = run.tombs.head
            if head is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (*head, ledger_id, run))
        return False
