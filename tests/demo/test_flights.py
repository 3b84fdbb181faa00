"""The flights table as the demonstration reads it."""

from __future__ import annotations

import pytest

from demo.flights import parse, row_number

TABLE = "year,tailnum,origin\n2013,N14228,EWR\n2013,NA,LGA\n"


def test_rows_keep_their_line_their_key_and_their_number() -> None:
    first, second = parse(TABLE)

    assert (first.number, first.tail_number, first.payload) == (0, "N14228", b"0,2013,N14228,EWR")
    assert (second.number, second.tail_number) == (1, "NA")


def test_a_payload_tells_its_row() -> None:
    assert [row_number(flight.payload) for flight in parse(TABLE)] == [0, 1]


def test_a_payload_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError):
        row_number(b"no comma")
