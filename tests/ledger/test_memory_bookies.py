"""The fake bookies keep the rules a real one keeps (R9, R16)."""

from __future__ import annotations

from ledger.wire import AddRequest, ReadLacRequest, ReadRequest, Status
from magnetar.ids import EntryId, LedgerId
from tests.ledger.memory_bookies import MemoryBookie

LEDGER = LedgerId(1)


def add(entry: int, body: bytes = b"x", recovery: bool = False) -> AddRequest:
    return AddRequest.make(LEDGER, EntryId(entry), EntryId(entry - 1), body, recovery)


def test_a_fence_holds_also_for_a_ledger_never_seen() -> None:
    bookie = MemoryBookie()
    assert bookie.read_lac(ReadLacRequest(LEDGER, fence=True)).status is Status.NO_LEDGER
    assert bookie.add(add(0)) is Status.FENCED
    assert bookie.add(add(0, recovery=True)) is Status.OK


def test_a_denied_entry_is_never_taken_from_the_writer() -> None:
    bookie = MemoryBookie()
    bookie.add(add(0))
    assert bookie.read(ReadRequest(LEDGER, EntryId(1), 1, 9, fence=True)).status is Status.NO_ENTRY
    assert bookie.add(add(1)) is Status.FENCED


def test_the_same_body_again_is_fine_and_another_is_not() -> None:
    bookie = MemoryBookie()
    assert bookie.add(add(0)) is bookie.add(add(0)) is Status.OK
    assert bookie.add(add(0, b"other")) is Status.BODY_CONFLICT


def test_limbo_denies_nothing() -> None:
    bookie = MemoryBookie(limbo=True)
    assert bookie.read(ReadRequest(LEDGER, EntryId(0), 1, 9)).status is Status.UNKNOWN


def test_ranges_are_contiguous_and_bounded() -> None:
    bookie = MemoryBookie()
    for entry in (0, 1, 2, 4):
        bookie.add(add(entry))
    ids = [one.entry_id for one in bookie.read(ReadRequest(LEDGER, EntryId(0), 9, 99)).entries]
    assert ids == [0, 1, 2]
    assert len(bookie.read(ReadRequest(LEDGER, EntryId(0), 9, 2)).entries) == 2
