"""The cursor against a plain set of ordinals."""

from __future__ import annotations

import random

import pytest

from broker.cursor import CHUNK_ORDINALS, Cursor, OrdinalBitmap, full_mask


def acknowledged(cursor: Cursor, size: int) -> set[int]:
    return {ordinal for ordinal in range(size) if cursor.mask(ordinal, 1)}


@pytest.mark.parametrize("seed", range(20))
def test_a_cursor_holds_exactly_what_was_acknowledged(seed: int) -> None:
    chance = random.Random(seed)
    size = 3 * CHUNK_ORDINALS
    cursor, model = Cursor(), set[int]()
    for _ in range(120):
        kind, first = chance.randrange(3), chance.randrange(size - 600)
        count = chance.choice((1, 7, 100, 500))
        if kind == 0:
            cursor.add_range(first, first + count)
            model |= set(range(first, first + count))
        elif kind == 1:
            mask = chance.getrandbits(count)
            cursor.add_mask(first, mask)
            model |= {first + bit for bit in range(count) if mask >> bit & 1}
        elif chance.random() < 0.1:
            cursor.advance(first)
            model |= set(range(first))
    floor = next(ordinal for ordinal in range(size + 1) if ordinal not in model)

    assert acknowledged(cursor, size) == model
    assert cursor.floor == floor
    assert cursor.acknowledged_above_floor == len([one for one in model if one > floor])
    at = chance.randrange(size - 600)
    expected = sum(1 << bit for bit in range(600) if at + bit in model)
    assert cursor.mask(at, 600) == expected


def test_its_records_make_it_again() -> None:
    cursor, delta = Cursor(), OrdinalBitmap()
    for first in range(0, 20_000, 3):
        cursor.add_range(first, first + 1)
        delta.add_range(first, first + 1)

    again = Cursor(cursor.floor)
    again.add_chunks(delta.above(cursor.floor))

    assert again.chunks() == cursor.chunks()
    assert again.floor == cursor.floor == 1


def test_the_floor_passes_whole_chunks_when_a_hole_is_filled() -> None:
    cursor = Cursor()
    cursor.add_range(1, 5 * CHUNK_ORDINALS)
    assert cursor.floor == 0

    cursor.add_mask(0, 1)

    assert cursor.floor == 5 * CHUNK_ORDINALS
    assert cursor.chunk_count == 0
    assert cursor.acknowledged_above_floor == 0


def test_a_million_holes_cost_little() -> None:
    cursor = Cursor()
    for first in range(0, 2_000_000, CHUNK_ORDINALS):
        cursor.add_mask(first + 1, full_mask(CHUNK_ORDINALS) // 3)

    assert cursor.floor == 0
    held = sum(bits.bit_length() // 8 for _, bits in cursor.chunks())
    assert held < 400_000


def test_a_seek_forgets_what_was_acknowledged() -> None:
    cursor = Cursor(10)
    cursor.add_range(20, 30)

    cursor.reset(5)

    assert cursor.floor == 5
    assert cursor.mask(0, 40) == full_mask(5)
