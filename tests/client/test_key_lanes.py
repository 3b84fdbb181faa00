"""The order in which messages may be handled."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from magnetar.key_lanes import KeyLanes

NAMES = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=40)


def lanes_of(keys: list[str | None]) -> tuple[KeyLanes, list[Any]]:
    """Messages are pairs of key and number here."""
    lanes = KeyLanes(lambda message: message[0])  # type: ignore[index]
    messages: list[Any] = list(zip(keys, range(len(keys)), strict=True))
    for message in messages:
        lanes.add(message)
    return lanes, messages


@given(NAMES, st.randoms(use_true_random=False))
def test_each_once_and_of_a_key_one_at_a_time_in_order(keys: Any, chance: Any) -> None:
    lanes, messages = lanes_of(keys)
    begun: list[Any] = []
    running: list[Any] = []
    while len(begun) < len(messages):
        assert lanes.count == len(messages) - len(begun)
        message = lanes.next() if chance.random() < 0.6 or not running else None
        if message is not None:
            assert message[0] is None or message[0] not in [key for key, _ in running]
            begun.append(message)
            running.append(message)
        elif running:
            lanes.handled(running.pop(chance.randrange(len(running))))

    for key in "abc":
        assert [one for one in begun if one[0] == key] == [
            one for one in messages if one[0] == key]
    assert sorted(number for _, number in begun) == list(range(len(messages)))


def test_a_failure_takes_those_behind_it_along() -> None:
    lanes, messages = lanes_of(["a", "b", "a", "a"])
    first, second = lanes.next(), lanes.next()

    assert (first, second) == (messages[0], messages[1])
    assert lanes.failed(messages[0]) == messages[2:]
    assert (lanes.count, lanes.next()) == (0, None)
    lanes.add(messages[0])
    assert lanes.next() == messages[0]
    assert lanes.failed(messages[1]) == []


def test_what_is_left_is_everything_not_begun() -> None:
    lanes, messages = lanes_of(["a", "b", None, "a", None])
    lanes.next()

    assert sorted(lanes.drain(), key=lambda message: message[1]) == messages[1:]  # type: ignore
    assert (lanes.count, lanes.next()) == (0, None)
    lanes.handled(messages[0])
