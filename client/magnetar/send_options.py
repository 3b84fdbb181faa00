"""What may be said of a message when it is sent: checked, and as its batch keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta

from magnetar.batch import Options
from magnetar.errors import InvalidArgument
from magnetar.runtime.clock import Clock


def options_of(
    clock: Clock, properties: Mapping[str, str] | None = None, partition_key: str | None = None,
    ordering_key: str | None = None, event_timestamp: int | None = None,
    deliver_at: int | None = None, deliver_after: timedelta | float | None = None,
    tag: str | None = None, time_to_live: timedelta | float | None = None,
) -> Options:
    """As `Producer.send` takes them; raises InvalidArgument."""
    if tag is not None and not _is_tag(tag):
        raise InvalidArgument(f"{tag!r} is no tag: some text without blanks, | and *")
    copied = dict(properties) if properties else None
    size_bytes = 0
    for text in (partition_key, ordering_key, tag):
        if text is not None:
            size_bytes += _text_bytes(text)
    if copied:
        for key, value in copied.items():
            size_bytes += _text_bytes(key) + _text_bytes(value) + 8
    return Options(
        copied, partition_key, ordering_key,
        None if event_timestamp is None else _time_ms(event_timestamp),
        due_ms(clock, deliver_at, deliver_after), tag,
        None if time_to_live is None else _time_to_live_ms(time_to_live), size_bytes)


def due_ms(
    clock: Clock, deliver_at: int | None, deliver_after: timedelta | float | None
) -> int | None:
    """When a message is to be delivered; None: at once. Raises InvalidArgument."""
    if deliver_after is not None:
        if deliver_at is not None:
            raise InvalidArgument("give deliver_at or deliver_after, not both")
        deliver_at = clock.wall_ms() + _milliseconds(deliver_after)
    # In an entry 0 stands for "at once".
    return None if deliver_at is None else max(_time_ms(deliver_at), 1)


def _is_tag(text: object) -> bool:
    """Whether a consumer can ask for it."""
    return isinstance(text, str) and bool(text) and "|" not in text and text != "*" and not any(
        map(str.isspace, text))


def _time_ms(time_ms: int) -> int:
    if not isinstance(time_ms, int) or not 0 <= time_ms < 2**63:
        raise InvalidArgument(
            f"{time_ms!r} is no time: give whole milliseconds since the epoch")
    return time_ms


def _milliseconds(span: timedelta | float) -> int:
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise InvalidArgument(f"{span!r} is no span of time: give a timedelta or seconds")
    return round(seconds * 1000)


def _time_to_live_ms(span: timedelta | float) -> int:
    found = _milliseconds(span)
    if not 0 < found < 2**63:
        raise InvalidArgument(f"a time_to_live of {span!r} is not at least a millisecond")
    return found


def _text_bytes(text: object) -> int:
    if not isinstance(text, str):
        raise InvalidArgument(f"keys and properties are str, not {type(text).__name__}")
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{text!r} is not valid Unicode") from error
