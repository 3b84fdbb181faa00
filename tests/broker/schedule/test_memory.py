"""The memory that all schedules of a broker take together, and whom it holds back."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from broker.schedule.core import ScheduleCore
from broker.schedule.memory import ScheduleMemory
from magnetar.entry import Codec, Columns, encode_batch
from tests.broker.world import TestClock


@dataclass(eq=False)
class Schedule:
    """Of one topic; it never writes a run."""

    memory_bytes: int = 0
    is_reducing: bool = False
    told: int = 0

    def reduce(self) -> None:
        self.is_reducing = True

    def room_again(self) -> None:
        self.told += 1


def test_topics_with_delayed_messages_are_held_while_there_are_too_many() -> None:
    memory, one, two, idle = ScheduleMemory(100, TestClock()), Schedule(), Schedule(), Schedule()
    memory.changed(idle)
    for schedule, size_bytes in ((one, 150), (two, 50)):
        schedule.memory_bytes = size_bytes
        memory.changed(schedule)
    assert memory.held_topics == 0

    two.memory_bytes = 51
    memory.changed(two)

    assert memory.held_topics == 2
    memory.left(one)
    assert memory.held_topics == 0


def test_that_producers_are_held_back_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture
) -> None:
    clock, schedule = TestClock(), Schedule()
    memory = ScheduleMemory(100, clock)

    def fill() -> None:
        for size_bytes in (201, 0, 300):
            schedule.memory_bytes = size_bytes
            memory.changed(schedule)
        memory.left(schedule)

    fill()
    assert caplog.messages == [
        "producers of delayed messages are held back until runs of these are written: 201 bytes"
        " wait in memory, more than twice schedule_memory_bytes (100)"
    ]
    clock.ahead_s += 61
    fill()

    assert len(caplog.messages) == 2


def test_producers_go_on_where_nothing_is_in_memory_though_others_fill_it() -> None:
    memory, large, small = ScheduleMemory(100, TestClock()), Schedule(), Schedule()
    for schedule, size_bytes in ((large, 300), (small, 10)):
        schedule.memory_bytes = size_bytes
        memory.changed(schedule)

    small.memory_bytes = 0
    memory.changed(small)

    assert memory.full and (small.told, large.told) == (1, 0)


def test_of_compressed_batches_what_comes_out_of_them_counts_as_well() -> None:
    def waiting_bytes(codec: Codec) -> int:
        core = ScheduleCore()
        due_ms = [1_000] * 20
        core.admit(encode_batch(
            "p", 0, [b"x" * 1_000] * 20, publish_time_ms=1, codec=codec,
            columns=Columns(deliver_at_ms=due_ms)), due_ms)
        core.stored(1, 0)
        return core.memory_bytes

    assert waiting_bytes(Codec.NONE) < waiting_bytes(Codec.ZSTD) < 2 * waiting_bytes(Codec.NONE)
