"""LIKE without backtracking: the pieces between % are found from left to right, once each."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_WILDCARD_TEXT = 8_192
"""Characters of a text in which a piece with _ is looked for; a longer text is unknown."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Text without %, of a fixed length; `pattern` when it has _ in it."""

    text: str
    length: int
    pattern: re.Pattern[str] | None

    def at(self, text: str, start: int) -> bool:
        if start < 0:
            return False
        if self.pattern is None:
            return text.startswith(self.text, start)
        return self.pattern.match(text, start) is not None

    def find(self, text: str, start: int, end: int) -> int:
        """Where it ends, or -1."""
        if self.pattern is None:
            at = text.find(self.text, start, end)
            return -1 if at < 0 else at + self.length
        found = self.pattern.search(text, start, end)
        return -1 if found is None else found.end()


class LikePattern:
    """% is any text, _ any one character, the escape character takes their meaning away."""

    __slots__ = ("_pieces", "_wildcards")

    def __init__(self, pattern: str, escape: str = "") -> None:
        self._pieces = [_piece(characters) for characters in _split(pattern, escape)]
        self._wildcards = any(piece.pattern is not None for piece in self._pieces)

    def matches(self, text: str) -> bool | None:
        """None: the text is too long to look at."""
        if self._wildcards and len(text) > MAX_WILDCARD_TEXT:
            return None
        first, last = self._pieces[0], self._pieces[-1]
        if len(self._pieces) == 1:
            return len(text) == first.length and first.at(text, 0)
        end = len(text) - last.length
        at = first.length
        if at > end or not first.at(text, 0) or not last.at(text, end):
            return False
        for piece in self._pieces[1:-1]:
            at = piece.find(text, at, end)
            if at < 0:
                return False
        return True


def _split(pattern: str, escape: str) -> list[list[str | None]]:
    """The pieces as characters, None for any."""
    pieces: list[list[str | None]] = [[]]
    at = 0
    while at < len(pattern):
        one = pattern[at]
        if escape and one == escape:
            at += 1
            pieces[-1].append(pattern[at:at + 1] or None)
        elif one == "%":
            pieces.append([])
        else:
            pieces[-1].append(None if one == "_" else one)
        at += 1
    return [piece for number, piece in enumerate(pieces)
            if piece or number in (0, len(pieces) - 1)]


def _piece(characters: list[str | None]) -> _Piece:
    text = "".join(one or "_" for one in characters)
    if None not in characters:
        return _Piece(text, len(characters), None)
    source = "".join("." if one is None else re.escape(one) for one in characters)
    return _Piece(text, len(characters), re.compile(source, re.DOTALL))
