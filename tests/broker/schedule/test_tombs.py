"""Tombs of several runs as one stream."""

from __future__ import annotations

from broker.schedule.runs.blocks import decode_tombs
from broker.schedule.runs.builder import BlockLimits, RunBuilder
from broker.schedule.runs.run import Run
from broker.schedule.tombs import TombStream
from magnetar.entry import ScheduleMark
from magnetar.ids import LedgerId


def test_what_fires_before_the_next_tomb_does_not_wait_for_its_block() -> None:
    """That may not be loaded for a year."""
    builder = RunBuilder(BlockLimits(tombs=2))
    blocks = [builder.add_tomb(ScheduleMark(due_ms, due_ms)) for due_ms in (1, 2, 9_000)]
    passed = next(block for block in [*blocks, builder.end_tombs()] if block is not None)
    run = Run(LedgerId(1), 0, builder.foot()[0], ScheduleMark(5, 5))
    stream = TombStream()
    stream.follow([run])
    before = stream.holds((10, 10))
    run.tombs.loaded(0, decode_tombs(passed))

    assert before is None and stream.holds((10, 10)) is False
    assert stream.holds((9_000, 9_000)) is None
