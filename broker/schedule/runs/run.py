"""A run as it is read: where its blocks begin, and a cursor on the next mark of each kind.

Blocks are loaded by whoever drives; a cursor says which one it needs. What a cursor has passed
is not kept.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from broker.schedule.due import Due
from broker.schedule.runs.blocks import Foot, Index, MarkBlock, NameIndex
from magnetar.entry import ScheduleMark, SchedulePlace
from magnetar.ids import LedgerId

BLOCKS_AHEAD: Final = 2
"""Loaded of one cursor: the one it is in, and the next."""


class MarkCursor:
    """The marks of a run behind some mark, in their order."""

    __slots__ = ("_after", "_at", "_blocks", "_index", "_number")

    def __init__(self, index: Index, after: ScheduleMark) -> None:
        self._index = index
        self._after = after
        self._number = block_of(index, after)
        self._at = -1
        """Within the block; -1: not looked for yet."""
        self._blocks: dict[int, MarkBlock] = {}
        self._settle()

    @property
    def head(self) -> tuple[int, int] | None:
        """The next mark; while `ready` is false it may also be a later one. None: no more."""
        if self._number >= len(self._index):
            return None
        block = self._blocks.get(self._number)
        if block is not None and self._at >= 0:
            return block.dues_ms[self._at], block.sequences[self._at]
        return max(_first(self._index, self._number), (*self._after,))

    @property
    def ready(self) -> bool:
        """The next mark's block is loaded; also when there is none."""
        return self._number >= len(self._index) or self._at >= 0

    @property
    def left(self) -> int:
        """Marks that are still to come; exact while `ready`."""
        if self._number >= len(self._index):
            return 0
        return self._index.count - self._index.before[self._number] - max(self._at, 0)

    def wanted(self, until_ms: int) -> list[int]:
        """Numbers of the blocks that are needed for what is due until then."""
        head = self.head
        if head is None or head[0] > until_ms:
            return []
        following = self._number + 1
        found = [] if self._number in self._blocks else [self._number]
        if (
            following < len(self._index) and following not in self._blocks
            and self._index.dues_ms[following] <= until_ms
        ):
            found.append(following)
        return found

    def loaded(self, number: int, block: MarkBlock) -> None:
        """A block that was wanted."""
        if self._number <= number < self._number + BLOCKS_AHEAD:
            self._blocks[number] = block
            self._settle()

    def current(self) -> tuple[MarkBlock, int]:
        """The block and place of the head; only while `ready` and there is one."""
        return self._blocks[self._number], self._at

    def advance(self) -> None:
        """Past the head; only while `ready`."""
        block = self._blocks[self._number]
        self._at += 1
        if self._at >= len(block):
            self._next_block()
            self._settle()

    def _next_block(self) -> None:
        self._blocks.pop(self._number, None)
        self._number += 1
        self._at = -1

    def _settle(self) -> None:
        """Find the place in the block, once it is there."""
        while self._at < 0:
            block = self._blocks.get(self._number)
            if block is None:
                return
            self._at = place_behind(block, self._after)
            if self._at >= len(block):
                self._next_block()


def block_of(index: Index, mark: ScheduleMark) -> int:
    """The block in which the first mark behind `mark` is looked for."""
    at = bisect_right(range(len(index)), (*mark,), key=lambda number: _first(index, number))
    return max(at - 1, 0)


def _first(index: Index, number: int) -> tuple[int, int]:
    return index.dues_ms[number], index.sequences[number]


def place_behind(block: MarkBlock, mark: ScheduleMark) -> int:
    """The place of the block's first mark behind `mark`."""
    return bisect_right(
        range(len(block)), (*mark,), key=lambda at: (block.dues_ms[at], block.sequences[at])
    )


class Run:
    """A finished run and its two cursors, behind what has fired."""

    __slots__ = ("_retired", "foot", "ledger_id", "messages", "size_bytes", "tombs")

    def __init__(
        self, ledger_id: LedgerId, size_bytes: int, foot: Foot, after: ScheduleMark
    ) -> None:
        self.ledger_id = ledger_id
        self.size_bytes = size_bytes
        self.foot = foot
        self.messages = MarkCursor(foot.messages, after)
        self.tombs = MarkCursor(foot.tombs, after)
        self._retired = False

    def retire(self) -> None:
        """Nothing fires from here any more."""
        self._retired = True

    # As a source of messages that fire.

    @property
    def head(self) -> tuple[int, int] | None:
        """The next mark, or less while not `ready`; None: no more."""
        return None if self._retired else self.messages.head

    @property
    def ready(self) -> bool:
        """The next message is at hand, or there is none."""
        return self.messages.ready

    def current(self) -> Due:
        """The next message; only while `ready` and there is one."""
        block, at = self.messages.current()
        assert block.view is not None
        return Due(block.view, at, None)

    def advance(self) -> None:
        """Past it."""
        self.messages.advance()

    # Where things are in the ledger.

    @property
    def first_tombs(self) -> int:
        """The entry of the first block of tombs."""
        return len(self.foot.messages)

    @property
    def first_names(self) -> int:
        """The entry of the first block of names."""
        return len(self.foot.messages) + len(self.foot.tombs)

    def names_block_of(self, place: SchedulePlace) -> int | None:
        """Which block of names may hold this one; None: none does."""
        number = last_not_behind(self.foot.names, place)
        return number if number >= 0 else None


def last_not_behind(names: NameIndex, place: SchedulePlace) -> int:
    """The last block that does not begin behind `place`; -1: all do."""
    return bisect_right(
        range(len(names)), (*place,), key=lambda number: (
            names.ledger_ids[number], names.entry_ids[number], names.batch_indexes[number]
        ),
    ) - 1
