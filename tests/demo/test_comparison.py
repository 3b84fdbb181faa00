"""What the demonstration calls lost, duplicated and out of order."""

from __future__ import annotations

import pytest

from demo.comparison import Reading
from demo.flights import Flight

FLIGHTS = [
    Flight(0, "N1", b"a,N1"),
    Flight(1, "N2", b"b,N2"),
    Flight(2, "N1", b"c,N1"),
    Flight(3, "N2", b"d,N2"),
]
ONE_PRODUCER = ("p", "p", "p", "p")
A_PRODUCER_A_KEY = ("p", "q", "p", "q")


def read(order: list[int], producers: tuple[str, ...] = ONE_PRODUCER) -> Reading:
    reading = Reading(FLIGHTS)
    for number in order:
        flight = FLIGHTS[number]
        reading.add(producers[number], flight.tail_number, flight.payload)
    return reading


def test_the_whole_file_in_its_order_is_clean() -> None:
    reading = read([0, 1, 2, 3])

    assert reading.complete
    assert reading.verdict().clean


def test_a_missing_row_is_lost_and_named() -> None:
    verdict = read([0, 1, 3]).verdict()

    assert (verdict.lost, verdict.lost_rows) == (1, (2,))
    assert not verdict.clean


def test_a_second_sighting_is_a_duplicate_and_not_out_of_order() -> None:
    verdict = read([0, 1, 2, 0, 3]).verdict()

    assert (verdict.duplicated, verdict.out_of_order, verdict.lost) == (1, 0, 0)


def test_order_is_held_within_one_producer() -> None:
    assert read([1, 0, 2, 3]).verdict().out_of_order == 1


def test_rows_of_different_producers_and_keys_may_interleave() -> None:
    assert read([1, 0, 3, 2], A_PRODUCER_A_KEY).verdict().clean


def test_order_is_held_within_one_key_across_producers() -> None:
    verdict = read([2, 0, 1, 3], ("p", "q", "r", "s")).verdict()

    assert verdict.out_of_order == 1


@pytest.mark.parametrize(
    ("key", "payload"),
    [
        ("N1", b"0,altered"),
        ("N2", b"0,a,N1"),
        (None, b"0,a,N1"),
        ("N1", b"9,a,N1"),
        ("N1", b"no number"),
    ],
)
def test_what_is_not_a_row_of_the_file_is_foreign_and_its_row_lost(
    key: str | None, payload: bytes
) -> None:
    reading = read([1, 2, 3])
    reading.add("p", key, payload)

    verdict = reading.verdict()
    assert (verdict.foreign, verdict.lost) == (1, 1)


def test_a_forgotten_row_is_lost() -> None:
    reading = read([0, 1, 2, 3])
    reading.forget(2)

    assert reading.verdict().lost_rows == (2,)
