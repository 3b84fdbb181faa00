"""Blocks of runs: stored once, read for ever."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from broker.schedule.due import Due
from broker.schedule.runs.blocks import (
    Fate,
    Foot,
    Name,
    decode_foot,
    decode_messages,
    decode_names,
    decode_tombs,
    encode_messages,
    encode_names,
    encode_tombs,
)
from broker.schedule.runs.builder import BlockLimits, RunBuilder
from broker.schedule.runs.run import MarkCursor, Run
from magnetar.entry import Columns, EntryView, ScheduleMark, SchedulePlace, encode_batch, gather
from magnetar.errors import CorruptRecord
from magnetar.ids import LedgerId

GOLDEN = Path(__file__).parent / "golden"
VIEW = EntryView(encode_batch(
    "p", 4, [b"a", b"bc", b"d"], publish_time_ms=1, columns=Columns(deliver_at_ms=[9, 8, 9])
))
MARKS = [ScheduleMark(8, 6), ScheduleMark(9, 5), ScheduleMark(9, 7)]
NAMES = [
    Name(SchedulePlace(3, 4, 0), ScheduleMark(9, 5), Fate.SCHEDULED),
    Name(SchedulePlace(3, 4, 1), ScheduleMark(8, 6), Fate.MOVED),
    Name(SchedulePlace(3, 4, 2), ScheduleMark(-1, -1), Fate.CANCELLED),
]


def messages() -> bytes:
    batch = gather(
        [(VIEW, 1), (VIEW, 0)], [SchedulePlace(3, 4, 1), SchedulePlace(3, 4, 0)],
        deliver_at_ms=[8, 9],
    )
    return encode_messages(array("q", [6, 5]), batch)


def build() -> tuple[list[bytes], Foot]:
    """A run with several blocks of each kind, as its ledger would hold it."""
    builder = RunBuilder(BlockLimits(messages=2, tombs=2, names=2))
    blocks: list[bytes | None] = []
    for mark, index in zip(MARKS, (1, 0, 2), strict=True):
        blocks.append(builder.add(mark, Due(VIEW, index, SchedulePlace(3, 4, index))))
    blocks.append(builder.end_messages())
    blocks += [builder.add_tomb(ScheduleMark(20 + n, n)) for n in range(3)]
    blocks.append(builder.end_tombs())
    blocks += [builder.add_name(name) for name in NAMES]
    blocks.append(builder.end_names())
    foot, body = builder.foot()
    return [*(block for block in blocks if block is not None), body], foot


BLOCKS = {
    "run_messages": messages,
    "run_tombs": lambda: encode_tombs(MARKS),
    "run_foot": lambda: build()[0][-1],
}


@pytest.mark.parametrize("name", BLOCKS)
def test_golden_blocks_are_written_as_ever(name: str) -> None:
    assert BLOCKS[name]().hex() == (GOLDEN / f"{name}.v1.hex").read_text()


def test_golden_blocks_are_read_as_ever() -> None:
    def stored(name: str) -> bytes:
        return bytes.fromhex((GOLDEN / f"{name}.v1.hex").read_text())

    block = decode_messages(stored("run_messages"))
    tombs = decode_tombs(stored("run_tombs"))

    assert block.view is not None and block.view.payloads() == [b"bc", b"a"]
    assert ([*block.dues_ms], [*block.sequences]) == ([8, 9], [6, 5])
    assert block.view.origin(0).scheduled == SchedulePlace(3, 4, 1)
    assert [*map(ScheduleMark, tombs.dues_ms, tombs.sequences)] == MARKS
    assert decode_names(stored("run_names")) == NAMES
    assert decode_foot(stored("run_foot")) == build()[1]


def test_names_come_back() -> None:
    assert decode_names(encode_names(NAMES)) == NAMES


@pytest.mark.parametrize("name", BLOCKS)
def test_damaged_blocks_are_refused(name: str) -> None:
    stored = BLOCKS[name]()
    decode = {
        "run_messages": decode_messages, "run_tombs": decode_tombs, "run_foot": decode_foot
    }[name]
    damaged = [b"", stored[:7], stored[:-1], stored + b"\0", BLOCKS["run_tombs"]()[:5] + b"\4"]
    damaged += [stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1:] for at in (0, 4, 5, 20)]
    for data in damaged:
        with pytest.raises(CorruptRecord):
            decode(data)


def test_a_foot_tells_where_everything_is() -> None:
    bodies, foot = build()

    run = Run(LedgerId(1), 0, foot, ScheduleMark(-1, -1))

    assert (len(foot.messages), len(foot.tombs), len(foot.names)) == (2, 2, 2)
    assert (foot.messages.count, foot.tombs.count, foot.last) == (3, 3, ScheduleMark(22, 2))
    assert decode_tombs(bodies[run.first_tombs]).dues_ms[0] == 20
    assert decode_names(bodies[run.first_names])[0] == NAMES[0]
    assert run.names_block_of(SchedulePlace(3, 4, 2)) == 1
    assert run.names_block_of(SchedulePlace(3, 3, 9)) is None
    assert foot.names.changed.holds(SchedulePlace(3, 4, 1))
    assert not foot.names.changed.holds(SchedulePlace(3, 4, 0))


@pytest.mark.parametrize(("after", "left"), [
    (ScheduleMark(-1, -1), 3), (MARKS[0], 2), (ScheduleMark(9, 4), 2), (MARKS[1], 1),
    (MARKS[2], 0), (ScheduleMark(99, 0), 0),
])
def test_a_cursor_finds_what_comes_behind_a_mark(after: ScheduleMark, left: int) -> None:
    bodies, foot = build()
    cursor = MarkCursor(foot.messages, after)
    seen = []

    while cursor.head is not None:
        for number in cursor.wanted(2**63 - 1):
            cursor.loaded(number, decode_messages(bodies[number]))
        if not seen:
            assert cursor.left == left
        if cursor.head is not None:
            seen.append(cursor.head)
            cursor.advance()

    assert seen == [mark for mark in MARKS if mark > after] and len(seen) == left


def test_blocks_are_wanted_when_what_is_in_them_is_due() -> None:
    _, foot = build()
    cursor = MarkCursor(foot.messages, ScheduleMark(-1, -1))

    assert cursor.wanted(7) == [] and cursor.wanted(8) == [0] and cursor.wanted(9) == [0, 1]
