"""Both indexes give the same answers; RocksDB's loses at most what was not flushed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bookie.index import Index, IndexBatch, MemoryIndex
from bookie.record import FileId, Location, LogPosition
from bookie.rocks_index import RocksIndex
from magnetar.ids import EntryId, LedgerId

Make = Callable[[], Index]


@pytest.fixture(params=["memory", "rocks"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    return MemoryIndex() if request.param == "memory" else RocksIndex(tmp_path / "index")


def place(offset: int, length: int = 10) -> Location:
    return Location(FileId(2), offset, length)


def add(ledger: int, entry: int, location: Location) -> tuple[LedgerId, EntryId, Location]:
    return LedgerId(ledger), EntryId(entry), location


def test_ranges_are_contiguous_and_limited(index: Index) -> None:
    index.write(IndexBatch(locations=[add(7, n, place(n)) for n in (0, 1, 2, 4, 5)]))
    index.write(IndexBatch(locations=[add(8, 3, place(99))]))
    locate = index.locate
    assert locate(LedgerId(7), EntryId(0), 10, 1000) == [place(0), place(1), place(2)]
    assert locate(LedgerId(7), EntryId(4), 10, 1000) == [place(4), place(5)]
    assert locate(LedgerId(7), EntryId(0), 2, 1000) == [place(0), place(1)]
    assert locate(LedgerId(7), EntryId(0), 10, 5) == [place(0)]
    assert locate(LedgerId(7), EntryId(3), 10, 1000) == []
    assert locate(LedgerId(7), EntryId(0), 1, 0) == [place(0)]
    assert index.last_entry(LedgerId(7)) == 5
    assert index.last_entry(LedgerId(6)) == -1
    assert index.last_entry(LedgerId(9)) == -1
    assert list(index.ledgers()) == [7, 8]


def test_states_usage_and_position(index: Index) -> None:
    assert index.position() is None
    index.write(
        IndexBatch(
            states={LedgerId(7): b"a", LedgerId(300): b"b"},
            usage={(FileId(2), LedgerId(7)): 100, (FileId(4), LedgerId(7)): 5},
            node_state=b"n", files=b"f", position=LogPosition(FileId(2), 1234),
        )
    )
    index.write(IndexBatch(usage={(FileId(2), LedgerId(7)): 0}))
    assert index.state(LedgerId(7)) == b"a"
    assert index.state(LedgerId(8)) is None
    assert list(index.states()) == [(7, b"a"), (300, b"b")]
    assert list(index.usage()) == [(4, 7, 5)]
    assert (index.node_state(), index.files()) == (b"n", b"f")
    assert index.position() == LogPosition(FileId(2), 1234)


def test_forgetting_a_ledger_leaves_its_neighbours_and_its_tombstone(index: Index) -> None:
    for ledger in (6, 7, 8):
        index.write(
            IndexBatch(
                locations=[add(ledger, n, place(n)) for n in range(3)],
                states={LedgerId(ledger): b"s"},
            )
        )
    index.write(IndexBatch(forgotten=[LedgerId(7)]))
    assert list(index.ledgers()) == [6, 8]
    assert index.locate(LedgerId(7), EntryId(0), 1, 0) == []
    assert index.state(LedgerId(7)) == b"s"
    index.write(IndexBatch(pruned=[LedgerId(7)]))
    assert index.state(LedgerId(7)) is None


def test_random_operations_agree(tmp_path: Path) -> None:
    chance = random.Random(5)
    memory, rocks = MemoryIndex(), RocksIndex(tmp_path / "index")
    for _ in range(200):
        batch = IndexBatch()
        for _ in range(chance.randrange(5)):
            batch.locations.append(
                add(chance.randrange(4), chance.randrange(20), place(chance.randrange(999)))
            )
        if chance.random() < 0.05:
            batch.forgotten.append(LedgerId(chance.randrange(4)))
        for one in (memory, rocks):
            one.write(batch)
    rocks.close()
    rocks = RocksIndex(tmp_path / "index")
    for ledger in range(5):
        lid = LedgerId(ledger)
        assert memory.last_entry(lid) == rocks.last_entry(lid)
        for first in range(21):
            arguments = (lid, EntryId(first), 6, 50)
            assert memory.locate(*arguments) == rocks.locate(*arguments)
    assert [*memory.ledgers()] == [*rocks.ledgers()]
    rocks.close()


def test_a_damaged_rocks_index_is_set_aside(tmp_path: Path) -> None:
    index = RocksIndex(tmp_path / "index")
    index.write(IndexBatch(position=LogPosition(FileId(2), 1)))
    index.close()
    (tmp_path / "index" / "CURRENT").write_bytes(b"garbage")
    again = RocksIndex(tmp_path / "index")
    assert again.position() is None
    assert (tmp_path / "index.damaged").is_dir()
    again.close()


def test_a_memory_crash_keeps_a_prefix_of_the_unflushed_batches() -> None:
    index = MemoryIndex()
    for offset in range(4):
        index.write(IndexBatch(position=LogPosition(FileId(2), offset)))
        if offset == 0:
            index.flush()
    assert index.unflushed_batches == 3
    assert index.crash(0).position() == (2, 0)
    assert index.crash(2).position() == (2, 2)
