"""Blocks of runs from the bookies, and what is looked for in them by name, mark or time."""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from broker.schedule.due import Due
from broker.schedule.runs.blocks import (
    Fate,
    Index,
    MarkBlock,
    Name,
    decode_foot,
    decode_messages,
    decode_names,
    decode_tombs,
)
from broker.schedule.runs.run import Run, block_of, place_behind
from broker.schedule.runs.store import RunStore
from magnetar.entry import ScheduleMark, SchedulePlace
from magnetar.ids import LedgerId
from metadata.topics import ScheduleRun

NAME_BLOCKS: Final = 32
"""Blocks of names kept for those who ask for neighbours."""

Told = TypeVar("Told")


class RunReader:
    """Every method raises what reading raises: EntryUnknown (try again), EntryNotFound,
    LedgerNotFound, CorruptRecord."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._names: OrderedDict[tuple[LedgerId, int], list[Name]] = OrderedDict()

    async def open(self, run: ScheduleRun, after: ScheduleMark) -> Run:
        """A finished run, its cursors behind `after` and `ready`."""
        (foot,) = await self._store.read(run.ledger_id, run.entries - 1, 1, 1)
        opened = Run(run.ledger_id, run.size_bytes, decode_foot(foot), after)
        while not (opened.messages.ready and opened.tombs.ready):
            for number in opened.messages.wanted(_ALWAYS):
                opened.messages.loaded(number, await self.messages(opened, number))
            for number in opened.tombs.wanted(_ALWAYS):
                opened.tombs.loaded(number, await self.tombs(opened, number))
        return opened

    async def messages(self, run: Run, number: int) -> MarkBlock:
        """A block of messages."""
        return decode_messages(await self._entry(run, number))

    async def tombs(self, run: Run, number: int) -> MarkBlock:
        """A block of tombs."""
        return decode_tombs(await self._entry(run, run.first_tombs + number))

    async def names(self, run: Run, number: int) -> list[Name]:
        """A block of names."""
        key = run.ledger_id, number
        names = self._names.get(key)
        if names is None:
            names = decode_names(await self._entry(run, run.first_names + number))
            self._names[key] = names
            while len(self._names) > NAME_BLOCKS:
                self._names.popitem(last=False)
        else:
            self._names.move_to_end(key)
        return names

    async def _entry(self, run: Run, entry_id: int) -> bytes:
        return (await self._store.read(run.ledger_id, entry_id, 1, 1))[0]

    async def find(self, runs: Iterable[Run], place: SchedulePlace) -> Name | None:
        """What the runs know of a message: its newest mark, and whether it was cancelled."""
        found = await asyncio.gather(*(self._find(run, place) for run in runs))
        return resolved([name for name in found if name is not None])

    async def _find(self, run: Run, place: SchedulePlace) -> Name | None:
        number = run.names_block_of(place)
        if number is None:
            return None
        names = await self.names(run, number)
        at = bisect_left(names, place, key=lambda name: name.place)
        return names[at] if at < len(names) and names[at].place == place else None

    async def message(self, runs: Iterable[Run], mark: ScheduleMark) -> Due | None:
        """The message under a mark, buried or not; None when no run has it."""
        before = ScheduleMark(mark.due_ms, mark.sequence - 1)
        for run in runs:
            found = await self.page(run, before, 1, _itself)
            if found and found[0][0] == mark:
                return found[0][1]
        return None

    async def page(
        self, run: Run, after: ScheduleMark, limit: int, tell: Callable[[ScheduleMark, Due], Told]
    ) -> list[tuple[ScheduleMark, Told]]:
        """The run's first messages behind `after`, buried or not: what `tell` says of each, while
        its block is there."""
        found: list[tuple[ScheduleMark, Told]] = []
        index = run.foot.messages
        for number in range(block_of(index, after), len(index)):
            block = await self.messages(run, number)
            view = block.view
            assert view is not None
            for at in range(place_behind(block, after), len(block)):
                if len(found) == limit:
                    return found
                mark = ScheduleMark(block.dues_ms[at], block.sequences[at])
                found.append((mark, tell(mark, Due(view, at, None))))
        return found

    async def buried(
        self, run: Run, after: ScheduleMark, last: ScheduleMark
    ) -> set[ScheduleMark]:
        """Marks behind `after`, up to `last`, for which the run has tombs."""
        found: set[ScheduleMark] = set()
        index = run.foot.tombs
        for number in range(block_of(index, after), len(index)):
            if _first(index, number) > last:
                break
            block = await self.tombs(run, number)
            found.update(map(ScheduleMark, block.dues_ms, block.sequences))
        return found

    async def waiting(
        self, runs: Sequence[Run], after: ScheduleMark, limit: int,
        tell: Callable[[ScheduleMark, Due], Told],
    ) -> tuple[list[tuple[ScheduleMark, Told]], ScheduleMark | None]:
        """What `tell` says of messages of all runs behind `after` that no tomb in a run buries,
        in order; complete up to the mark, behind which there are more; None: there are no
        more."""
        pages = [await self.page(run, after, limit, tell) for run in runs]
        cut = [page[-1][0] for page in pages if len(page) == limit]
        bound = min(cut, default=None)
        found = list(heapq.merge(*pages, key=lambda one: one[0]))
        if bound is not None:
            found = [one for one in found if one[0] <= bound]
        if found:
            buried: set[ScheduleMark] = set()
            for run in runs:
                buried |= await self.buried(run, after, found[-1][0])
            found = [one for one in found if one[0] not in buried]
        return found, bound


_ALWAYS: Final = 2**63 - 1


def _itself(_mark: ScheduleMark, due: Due) -> Due:
    return due


def _first(index: Index, number: int) -> ScheduleMark:
    return ScheduleMark(index.dues_ms[number], index.sequences[number])


def resolved(names: list[Name]) -> Name | None:
    """Of one message in several runs: the newest word."""
    for name in names:
        if name.fate is Fate.CANCELLED:
            return name
    return max(names, key=lambda name: name.mark.sequence, default=None)
