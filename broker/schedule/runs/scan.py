"""Reads whole runs from front to back, merged: for making one run of several."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Sequence

from broker.schedule.due import Due
from broker.schedule.runs.blocks import MarkBlock, Name
from broker.schedule.runs.reader import RunReader, resolved
from broker.schedule.runs.run import Run, block_of, place_behind
from magnetar.entry import ScheduleMark


class _Scan:
    """One run's marks of one kind behind some mark."""

    def __init__(self, reader: RunReader, run: Run, after: ScheduleMark, tombs: bool) -> None:
        self._reader = reader
        self._run = run
        self._after = after
        self._tombs = tombs
        index = run.foot.tombs if tombs else run.foot.messages
        self._blocks = iter(range(block_of(index, after), len(index)))
        self._at = 0
        self.block: MarkBlock | None = None

    async def next(self) -> tuple[int, int] | None:
        """The next mark; `due` is its message."""
        self._at += 1
        while self.block is None or self._at >= len(self.block):
            number = next(self._blocks, None)
            if number is None:
                return None
            read = self._reader.tombs if self._tombs else self._reader.messages
            self.block = await read(self._run, number)
            self._at = place_behind(self.block, self._after)
        return self.block.dues_ms[self._at], self.block.sequences[self._at]

    @property
    def due(self) -> Due:
        assert self.block is not None and self.block.view is not None
        return Due(self.block.view, self._at, None)


async def _merged(
    reader: RunReader, runs: Sequence[Run], after: ScheduleMark, tombs: bool
) -> AsyncIterator[tuple[ScheduleMark, _Scan]]:
    heap: list[tuple[int, int, int, _Scan]] = []
    for number, run in enumerate(runs):
        scan = _Scan(reader, run, after, tombs)
        if (mark := await scan.next()) is not None:
            heap.append((*mark, number, scan))
    heapq.heapify(heap)
    while heap:
        due_ms, sequence, number, scan = heap[0]
        yield ScheduleMark(due_ms, sequence), scan
        if (mark := await scan.next()) is not None:
            heapq.heapreplace(heap, (*mark, number, scan))
        else:
            heapq.heappop(heap)


async def messages_and_tombs(
    reader: RunReader, runs: Sequence[Run], after: ScheduleMark
) -> AsyncIterator[tuple[ScheduleMark, Due | None]]:
    """All behind `after`, in order: messages, and tombs (None) of messages in other runs. Where
    both are here they are gone."""
    tombs = _merged(reader, runs, after, tombs=True)
    tomb = await anext(tombs, None)
    async for mark, scan in _merged(reader, runs, after, tombs=False):
        while tomb is not None and tomb[0] < mark:
            yield tomb[0], None
            tomb = await _beyond(tombs, tomb[0])
        if tomb is not None and tomb[0] == mark:
            tomb = await _beyond(tombs, mark)
        else:
            yield mark, scan.due
    while tomb is not None:
        yield tomb[0], None
        tomb = await _beyond(tombs, tomb[0])


async def _beyond(
    tombs: AsyncIterator[tuple[ScheduleMark, _Scan]], mark: ScheduleMark
) -> tuple[ScheduleMark, _Scan] | None:
    """The next tomb; two runs may have one for the same mark."""
    async for tomb in tombs:
        if tomb[0] > mark:
            return tomb
    return None


async def names(reader: RunReader, runs: Sequence[Run]) -> AsyncIterator[Name]:
    """All names of the runs, each once with the newest word, in order."""
    heap: list[tuple[Name, int, AsyncIterator[Name]]] = []
    for number, run in enumerate(runs):
        stream = _names_of(reader, run)
        if (name := await anext(stream, None)) is not None:
            heap.append((name, number, stream))
    heapq.heapify(heap)
    same: list[Name] = []
    while heap:
        name, number, stream = heap[0]
        if same and name.place != same[0].place:
            newest = resolved(same)
            assert newest is not None
            yield newest
            same = []
        same.append(name)
        if (following := await anext(stream, None)) is not None:
            heapq.heapreplace(heap, (following, number, stream))
        else:
            heapq.heappop(heap)
    newest = resolved(same)
    if newest is not None:
        yield newest


async def _names_of(reader: RunReader, run: Run) -> AsyncIterator[Name]:
    for number in range(len(run.foot.names)):
        for name in await reader.names(run, number):
            yield name
