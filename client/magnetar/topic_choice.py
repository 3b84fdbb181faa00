"""What a user may subscribe to: a topic, several, or all that match a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from magnetar.errors import InvalidArgument
from magnetar.topic import DEFAULT_NAMESPACE, DEFAULT_TENANT, TopicName, check_name

MAX_TOPICS: Final = 10_000
SCHEME: Final = "persistent://"

Topics = str | Sequence[str] | re.Pattern[str]


@dataclass(frozen=True, slots=True)
class TopicPattern:
    """A regular expression over the full names of one namespace's topics."""

    namespace: str
    expression: str
    text: str
    """As it was given."""

    @classmethod
    def parse(cls, given: str | re.Pattern[str]) -> TopicPattern:
        """From `persistent://tenant/namespace/EXPRESSION` or a short form; tenant and namespace
        are plain names. The expression is one of RE2; raises InvalidArgument."""
        text, flags = (given, "") if isinstance(given, str) else (given.pattern, _flags(given))
        if "://" in text and not text.startswith(SCHEME):
            raise InvalidArgument(f"the pattern {text!r} is not for {SCHEME}tenant/namespace/...")
        parts = text.removeprefix(SCHEME).split("/", 2)
        if len(parts) == 1 and not text.startswith(SCHEME):
            parts = [DEFAULT_TENANT, DEFAULT_NAMESPACE, text]
        if len(parts) != 3 or not parts[2] or "://" in parts[2]:
            raise InvalidArgument(
                f"the pattern {text!r} is not {SCHEME}tenant/namespace/EXPRESSION; a pattern is"
                " for the topics of one namespace")
        tenant, namespace, local = parts
        check_name(tenant, "tenant")
        check_name(namespace, "namespace")
        start = re.escape(f"{SCHEME}{tenant}/{namespace}/")
        return cls(f"{tenant}/{namespace}", f"{flags}{start}(?:{local})", text)


def _flags(given: re.Pattern[str]) -> str:
    known = re.IGNORECASE | re.UNICODE
    if not isinstance(given.pattern, str) or given.flags & ~known:
        raise InvalidArgument("a pattern for topics may have the flag re.IGNORECASE, no other")
    return "(?i)" if given.flags & re.IGNORECASE else ""


def chosen_topics(
    topic: Topics | None, pattern: str | re.Pattern[str] | None
) -> tuple[TopicName, ...] | TopicPattern:
    """What was asked for; raises InvalidArgument and InvalidTopicName."""
    if (topic is None) == (pattern is None):
        raise InvalidArgument("give a topic, a list of topics, or a pattern: one of them")
    if pattern is not None:
        return TopicPattern.parse(pattern)
    if isinstance(topic, re.Pattern):
        return TopicPattern.parse(topic)
    if isinstance(topic, str):
        return (TopicName.parse(topic),)
    if not isinstance(topic, Iterable):
        raise InvalidArgument(f"a topic is a str, not {type(topic).__name__}")
    names = tuple(dict.fromkeys(TopicName.parse(one) for one in topic))
    if not 1 <= len(names) <= MAX_TOPICS:
        raise InvalidArgument(f"subscribe to 1 to {MAX_TOPICS:,} topics at once, not {len(names)}")
    return names


def expanded(partitions: dict[str, int]) -> list[TopicName]:
    """The topics that are logs: each plain one, and each partition of the others."""
    found: dict[TopicName, None] = {}
    for text, count in partitions.items():
        name = TopicName.parse(text)
        if count:
            found |= dict.fromkeys(name.with_partition(number) for number in range(count))
        else:
            found[name] = None
    return list(found)
