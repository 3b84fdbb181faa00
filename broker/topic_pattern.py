"""Regular expressions over topic names, matched in time that grows with the name only.

Patterns come from clients, and the standard library's engine can be made to search for hours by
a pattern of twenty characters. RE2 cannot: it has no backreferences and no look-around, and says
so when one is asked for.
"""

from __future__ import annotations

from typing import Final

import re2

from magnetar.errors import InvalidArgument

MAX_PATTERN_BYTES: Final = 4_096
MAX_COMPILED_BYTES: Final = 1 << 20
"""Memory that a pattern may take; RE2 refuses what needs more."""


class TopicPattern:
    """A pattern for whole full names; raises InvalidArgument when it cannot be used."""

    __slots__ = ("_compiled", "text")

    def __init__(self, text: str) -> None:
        if len(text.encode()) > MAX_PATTERN_BYTES:
            raise InvalidArgument(f"a pattern has at most {MAX_PATTERN_BYTES} bytes")
        options = re2.Options()
        options.max_mem = MAX_COMPILED_BYTES
        options.log_errors = False
        try:
            self._compiled = re2.compile(text, options)
        except re2.error as error:
            raise InvalidArgument(
                f"the pattern {text!r} cannot be used: {_told(error)} (RE2 syntax: no"
                " backreferences, no look-around)"
            ) from None
        self.text = text

    def matches(self, full_name: str) -> bool:
        """Whether the pattern is that of the whole name."""
        return self._compiled.fullmatch(full_name) is not None


def _told(error: re2.error) -> str:
    reason = error.args[0] if error.args else ""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
