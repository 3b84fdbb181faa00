"""Makes the blocks of a run of what comes in order: messages, then tombs, then names."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from typing import Final

from broker.schedule.due import Due
from broker.schedule.runs.blocks import (
    NO_NAMES,
    Fate,
    Foot,
    Index,
    Name,
    NameIndex,
    NameRange,
    encode_foot,
    encode_messages,
    encode_names,
    encode_tombs,
)
from magnetar.entry import Codec, ScheduleMark, SchedulePlace, gather


@dataclass(frozen=True, slots=True)
class BlockLimits:
    """Where a block ends."""

    message_bytes: int = 64 * 1024
    """Unless one message alone is larger."""
    messages: int = 512
    tombs: int = 4_096
    names: int = 512


BLOCK_LIMITS: Final = BlockLimits()


class _Marks:
    """The index of one kind of blocks, as it grows."""

    def __init__(self) -> None:
        self.dues_ms = array("q")
        self.sequences = array("q")
        self.before = array("q")
        self.count = 0

    def block(self, first: ScheduleMark, count: int) -> None:
        self.dues_ms.append(first.due_ms)
        self.sequences.append(first.sequence)
        self.before.append(self.count)
        self.count += count

    def index(self) -> Index:
        return Index(self.dues_ms, self.sequences, self.before, self.count)


class RunBuilder:
    """Every `add` may give back a block to be written; each `end` gives the rest."""

    def __init__(self, limits: BlockLimits = BLOCK_LIMITS) -> None:
        self._limits = limits
        self._messages: list[tuple[ScheduleMark, Due]] = []
        self._message_bytes = 0
        self._codec = Codec.NONE
        self._message_index = _Marks()
        self._stored_bytes = 0
        self._tombs: list[ScheduleMark] = []
        self._tomb_index = _Marks()
        self._names: list[Name] = []
        self._name_index = NameIndex(array("q"), array("q"), array("I"), NO_NAMES, NO_NAMES)
        self._last = ScheduleMark(-1, -1)

    def add(self, mark: ScheduleMark, due: Due) -> bytes | None:
        """A message behind all others."""
        codec, size = due.view.header.codec, due.view.message_bytes(due.batch_index)
        block = None
        if self._messages and (
            codec is not self._codec or len(self._messages) >= self._limits.messages
            or self._message_bytes + size > self._limits.message_bytes
        ):
            block = self.end_messages()
        self._codec = codec
        self._messages.append((mark, due))
        self._message_bytes += size
        return block

    def end_messages(self) -> bytes | None:
        """No more messages come, or none that fits."""
        if not self._messages:
            return None
        marks = [mark for mark, _ in self._messages]
        batch = gather(
            [(due.view, due.batch_index) for _, due in self._messages],
            [due.place for _, due in self._messages],
            deliver_at_ms=[mark.due_ms for mark in marks],
        )
        self._message_index.block(marks[0], len(marks))
        self._last = max(self._last, marks[-1])
        self._messages, self._message_bytes = [], 0
        block = encode_messages(array("q", [mark.sequence for mark in marks]), batch)
        self._stored_bytes += len(block)
        return block

    def add_tomb(self, mark: ScheduleMark) -> bytes | None:
        """A mark behind all others, under which a message in another run does not fire."""
        block = self.end_tombs() if len(self._tombs) >= self._limits.tombs else None
        self._tombs.append(mark)
        return block

    def end_tombs(self) -> bytes | None:
        """No more tombs come."""
        if not self._tombs:
            return None
        marks, self._tombs = self._tombs, []
        self._tomb_index.block(marks[0], len(marks))
        self._last = max(self._last, marks[-1])
        return encode_tombs(marks)

    def add_name(self, name: Name) -> bytes | None:
        """A name behind all others."""
        block = self.end_names() if len(self._names) >= self._limits.names else None
        self._names.append(name)
        every, changed = self._name_index.every, self._name_index.changed
        every = _with(every, name.place)
        if name.fate is not Fate.SCHEDULED:
            changed = _with(changed, name.place)
        self._name_index = replace(self._name_index, every=every, changed=changed)
        return block

    def end_names(self) -> bytes | None:
        """No more names come."""
        if not self._names:
            return None
        names, self._names = self._names, []
        first = names[0].place
        self._name_index.ledger_ids.append(first.ledger_id)
        self._name_index.entry_ids.append(first.entry_id)
        self._name_index.batch_indexes.append(first.batch_index)
        return encode_names(names)

    def foot(self) -> tuple[Foot, bytes]:
        """Everything was added."""
        foot = Foot(
            self._message_index.index(), self._tomb_index.index(), self._name_index, self._last,
            self._stored_bytes,
        )
        return foot, encode_foot(foot)


def _with(names: NameRange, place: SchedulePlace) -> NameRange:
    """The range with a name behind all others."""
    return NameRange(place if names.is_empty else names.first, place)
