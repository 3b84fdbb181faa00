"""Patterns over topic names: what they match, and what they may not cost."""

from __future__ import annotations

import pytest

from broker.topic_pattern import MAX_PATTERN_BYTES, TopicPattern
from magnetar.errors import InvalidArgument


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("persistent://t/ns/orders-.*", "persistent://t/ns/orders-1", True),
        ("persistent://t/ns/orders-.*", "persistent://t/ns/orders-", True),
        ("persistent://t/ns/orders-.*", "persistent://t/ns/new-orders-1", False),
        ("persistent://t/ns/(a|b)[0-9]+", "persistent://t/ns/b17", True),
        ("persistent://t/ns/(a|b)[0-9]+", "persistent://t/ns/b17x", False),
        ("(?i)persistent://t/ns/ORDERS", "persistent://t/ns/orders", True),
        ("persistent://t/ns/.", "persistent://t/ns/ü", True),
    ],
)
def test_the_whole_name_has_to_match(pattern: str, name: str, expected: bool) -> None:
    assert TopicPattern(pattern).matches(name) is expected


@pytest.mark.parametrize(
    "pattern", ["(a", "[", "a{1000}{1000}", r"(a)\1", "(?=a)b", "x" * (MAX_PATTERN_BYTES + 1)]
)
def test_what_cannot_be_bounded_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidArgument, match="pattern"):
        TopicPattern(pattern)


def test_no_pattern_takes_more_time_than_the_name_is_long() -> None:
    evil = TopicPattern("(a+)+(a*)*(a|aa)+$")

    assert not evil.matches("a" * 5_000 + "b")
