"""Which partition a message goes to: hashes as Pulsar publishes them, and the turns of the rest."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnetar.batch import Batch
from magnetar.enums import HashingScheme
from magnetar.errors import InvalidArgument
from magnetar.murmur3 import java_string_hash, murmur3_32
from magnetar.routing import RUN_MESSAGES, OutgoingMessage, RoundRobin, chosen, hash_of
from magnetar.ticket import Ticket

# The values that the tests of Pulsar's Java, C++ and Go clients hold equal.
MURMUR = {
    "k1": 2110152746, "k2": 1479966664, "key1": 462881061, "key2": 1936800180, "key01": 39696932,
    "key02": 751761803, "": 0, "hello": 0x248BFA47, "test": 0x3A6BD213,
}
JAVA = {
    "keykeykeykeykey1": 434058482, "keykeykey2": 42978643, "": 0, "hello": 0x5E918D2,
    "test": 0x364492,
}


@pytest.mark.parametrize(("key", "value"), MURMUR.items())
def test_murmur_gives_what_other_clients_give(key: str, value: int) -> None:
    assert murmur3_32(key) == value


@pytest.mark.parametrize(("key", "value"), JAVA.items())
def test_the_java_hash_gives_what_other_clients_give(key: str, value: int) -> None:
    assert java_string_hash(key) == value


def _java(text: str) -> int:
    """By the definition in Java's documentation, over UTF-16 code units."""
    units = text.encode("utf-16-be")
    numbers = [units[at] << 8 | units[at + 1] for at in range(0, len(units), 2)]
    return sum(unit * 31 ** (len(numbers) - 1 - at) for at, unit in enumerate(numbers)) % 2**32


@given(st.text())
def test_hashes_are_of_31_bits_for_any_text(text: str) -> None:
    if any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        return
    assert java_string_hash(text) == _java(text) & 0x7FFFFFFF
    assert 0 <= murmur3_32(text) < 2**31


@pytest.mark.parametrize("scheme", HashingScheme)
def test_a_key_that_is_no_text_is_refused(scheme: HashingScheme) -> None:
    with pytest.raises(InvalidArgument, match="Unicode"):
        hash_of(scheme)("\ud800")


@pytest.mark.parametrize("answer", [-1, 3, "1", None, True])
def test_a_router_that_misses_is_told_so(answer: object) -> None:
    with pytest.raises(InvalidArgument, match="partitions 0 to 2"):
        chosen(lambda _message, _count: answer, OutgoingMessage(b""), 3)  # type: ignore[arg-type,return-value]


def _collecting() -> Ticket:
    return Ticket(Batch(0, 0.0), 0, 0)


def _gone() -> Ticket:
    batch = Batch(0, 0.0)
    batch.count = 1
    return Ticket(batch, 0, 0)


def _partitions(turns: RoundRobin, messages: int, ticket: Ticket, size: int = 100) -> list[int]:
    found = []
    for _ in range(messages):
        found.append(turns.partition(4))
        turns.sent(size, ticket)
    return found


def test_a_burst_goes_round_in_runs_and_stays_even() -> None:
    went = _partitions(RoundRobin(), 10 * 4 * RUN_MESSAGES, _collecting())

    assert went[:RUN_MESSAGES] == [0] * RUN_MESSAGES
    assert went[RUN_MESSAGES] == 1
    assert set(Counter(went).values()) == {10 * RUN_MESSAGES}


def test_messages_that_leave_one_by_one_go_round_one_by_one() -> None:
    assert _partitions(RoundRobin(2), 6, _gone()) == [2, 3, 0, 1, 2, 3]


def test_large_messages_end_a_run_early() -> None:
    assert _partitions(RoundRobin(), 5, _collecting(), 100_000) == [0, 0, 1, 1, 2]


def test_what_is_to_be_repeatable_depends_on_the_count_only() -> None:
    count = 4 * RUN_MESSAGES
    one = _partitions(RoundRobin(even=True), count, _gone(), 10**6)
    other = _partitions(RoundRobin(even=True), count, _collecting(), 1)

    assert one == other == [number // RUN_MESSAGES for number in range(count)]


def test_asking_twice_changes_nothing() -> None:
    turns = RoundRobin()

    assert [turns.partition(4) for _ in range(2 * RUN_MESSAGES)] == [0] * 2 * RUN_MESSAGES


@pytest.mark.parametrize("even", [False, True])
def test_columns_are_split_into_equal_runs(even: bool) -> None:
    turns, counts = RoundRobin(even=even), Counter[int]()
    for many in (80_000, 1, 512, 40_000):
        left, run = many, turns.begin_many(many, 8)
        while left:
            number, most = turns.run(run, 8)
            taken = min(left, most)
            turns.sent_many(taken)
            counts[number] += taken
            left -= taken

    assert sum(counts.values()) == 120_513
    assert max(counts.values()) - min(counts.values()) < 2 * RUN_MESSAGES
