"""The log of a non-persistent topic: positions, segments, and what goes first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.memory_log import ENTRY_OVERHEAD_BYTES, MemoryLog
from ledger.managed_log import LogPolicy
from ledger.position import BEFORE_FIRST, Position
from magnetar.errors import LedgerClosed, LedgerError, LedgerFenced
from magnetar.ids import BrokerId, EntryId, LedgerId
from magnetar.runtime.clock import SystemClock
from metadata.topics import Owner

FIRST = 7_000


class Kept:
    """A log, and what it told."""

    def __init__(self, segment_bytes: int = 2 * (5 + ENTRY_OVERHEAD_BYTES)) -> None:
        self.begun = 0
        self.held_bytes = 0
        self.done: list[Position | LedgerError] = []
        self.log = MemoryLog(
            "non-persistent://public/default/x", Owner(BrokerId("b1"), "i", 5), LedgerId(FIRST),
            segment_bytes, SystemClock(), LogPolicy(), self._begun, self._added,
        )

    def _begun(self) -> None:
        self.begun += 1

    def _added(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes

    def fill(self, count: int, body: Callable[[int], bytes] = lambda number: b"%05d" % number
             ) -> None:
        for number in range(count):
            self.log.append(body(number), self.done.append)

    async def read(self, start: Position = BEFORE_FIRST, most: int = 1_000,
                   size_bytes: int = 1 << 20) -> list[bytes]:
        return [one.body for one in await self.log.read(start, most, size_bytes)]


def at(segment: int, entry: int) -> Position:
    return Position(LedgerId(FIRST + segment), EntryId(entry))


async def test_an_append_is_confirmed_at_once_and_segments_follow_each_other() -> None:
    kept = Kept()

    kept.fill(5)

    assert kept.done == [at(0, 0), at(0, 1), at(1, 0), at(1, 1), at(2, 0)]
    assert kept.log.last_confirmed == at(2, 0) and kept.begun == 3
    assert [(one.entries, one.size_bytes) for one in kept.log.record.ledgers] == [
        (2, 10), (2, 10), (-1, 0)]
    assert (kept.log.entries, kept.log.size_bytes) == (5, 25)
    assert kept.held_bytes == kept.log.held_bytes == 25 + 5 * ENTRY_OVERHEAD_BYTES


async def test_reading_goes_across_segments_within_its_bounds() -> None:
    kept = Kept()
    kept.fill(5)

    assert await kept.read() == [b"%05d" % number for number in range(5)]
    assert await kept.read(at(0, 1), most=3) == [b"00001", b"00002", b"00003"]
    assert await kept.read(at(0, 2), size_bytes=1) == [b"00002"]
    assert await kept.read(at(2, 1)) == [] == await kept.read(at(9, 0))
    assert await Kept().read() == []


async def test_what_is_dropped_is_passed_over() -> None:
    kept = Kept()
    kept.fill(5)

    assert kept.log.drop_oldest()

    assert await kept.read() == [b"00002", b"00003", b"00004"]
    assert kept.log.first_position == at(1, 0) and kept.log.size_bytes == 15
    assert kept.log.drop_oldest() and kept.log.drop_oldest() and not kept.log.drop_oldest()
    assert kept.log.record.ledgers == () and kept.held_bytes == 0
    kept.fill(1)
    assert kept.done[-1] == at(3, 0), "the numbers go on"
    assert await kept.read() == [b"00000"]


async def test_trimming_spares_what_is_open() -> None:
    kept = Kept()
    kept.fill(5)

    assert await kept.log.trim(at(1, 1)) == 1
    assert await kept.log.trim(at(9, 0)) == 1
    assert [one.ledger_id for one in kept.log.record.ledgers] == [FIRST + 2]
    await kept.log.roll()
    assert await kept.log.trim(at(2, 1)) == 1
    assert kept.log.record.trimmed_ledgers == 3


async def test_after_the_end_nothing_is_taken() -> None:
    kept = Kept()
    kept.fill(1)
    await kept.log.close()
    kept.fill(1)
    kept.log.abandon("it moves")
    kept.fill(1)
    kept.log.state.append(b"", kept.done.append)
    await asyncio.sleep(0)

    assert [type(one) for one in kept.done] == [
        Position, LedgerClosed, LedgerFenced, LedgerFenced]
    assert kept.held_bytes == kept.log.held_bytes == 0
