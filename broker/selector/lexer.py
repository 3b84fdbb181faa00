"""Text to tokens, and errors that point at their place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from magnetar.errors import InvalidArgument

MAX_FILTER_CHARACTERS = 4_096
MAX_NUMBER_CHARACTERS = 40
SHOWN_CHARACTERS = 60
"""Of the line with the mistake, to each side of it."""


class FilterSyntaxError(InvalidArgument):
    """The filter cannot be read. `offset` is from 0, `line` and `column` are from 1."""

    def __init__(self, problem: str, text: str, offset: int) -> None:
        start = text.rfind("\n", 0, offset) + 1
        end = text.find("\n", offset)
        self.problem = problem
        self.offset = offset
        self.line = text.count("\n", 0, offset) + 1
        self.column = offset - start + 1
        first = max(start, offset - SHOWN_CHARACTERS)
        shown = text[first:min(len(text) if end < 0 else end, offset + SHOWN_CHARACTERS)]
        shown = "".join(one if one.isprintable() else " " for one in shown)
        super().__init__(
            f"filter, line {self.line}, column {self.column}: {problem}\n"
            f"    {shown}\n    {' ' * (offset - first)}^"
        )


class Kind(Enum):
    """What a token is."""

    KEYWORD = "keyword"
    NAME = "name"
    TEXT = "text"
    NUMBER = "number"
    SIGN = "sign"
    END = "end"


KEYWORDS = frozenset((
    "AND", "OR", "NOT", "IN", "LIKE", "ESCAPE", "IS", "NULL", "BETWEEN", "TRUE", "FALSE",
))


@dataclass(frozen=True, slots=True)
class Token:
    """`text` is the keyword in capitals, the name or string without its quotes, or as written.

    `quoted`: a name in double quotes, which is a property whatever it is called.
    """

    kind: Kind
    text: str
    offset: int
    quoted: bool = False

    def __str__(self) -> str:
        return "the end" if self.kind is Kind.END else repr(self.text)


_PATTERN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[^\W\d][\w.$]*|\$[\w.$]*)"
    r"|(?P<text>'(?:[^']|'')*+')"
    r'|(?P<quoted>"(?:[^"]|"")*+")'
    r"|(?P<sign><>|<=|>=|[=<>+\-*/(),])"
)
_ADVICE = {
    "!": "unequal is written <>", "'": "the string has no end; close it with '",
    '"': 'the name has no end; close it with "', "&": "write AND", "|": "write OR",
    ";": "a filter is one condition, without ;",
}


def tokens_of(text: str) -> list[Token]:
    """All tokens and the end; raises FilterSyntaxError."""
    if len(text) > MAX_FILTER_CHARACTERS:
        raise FilterSyntaxError(
            f"{len(text)} characters; a filter has at most {MAX_FILTER_CHARACTERS}", text,
            MAX_FILTER_CHARACTERS,
        )
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _PATTERN.match(text, at)
        if match is None:
            advice = _ADVICE.get(text[at], f"{text[at]!r} has no meaning here")
            raise FilterSyntaxError(advice, text, at)
        token = _token(match, text, at)
        if token is not None:
            found.append(token)
        at = match.end()
    found.append(Token(Kind.END, "", len(text)))
    return found


def _token(match: re.Match[str], text: str, at: int) -> Token | None:
    word = match.group()
    match match.lastgroup:
        case "space":
            return None
        case "number":
            if len(word) > MAX_NUMBER_CHARACTERS:
                raise FilterSyntaxError(
                    f"a number has at most {MAX_NUMBER_CHARACTERS} characters", text, at
                )
            if match.end() < len(text) and (text[match.end()].isalnum()):
                raise FilterSyntaxError("a number ends within a word", text, match.end())
            return Token(Kind.NUMBER, word, at)
        case "name":
            upper = word.upper()
            return Token(Kind.KEYWORD, upper, at) if upper in KEYWORDS else Token(
                Kind.NAME, word, at)
        case "text":
            return Token(Kind.TEXT, word[1:-1].replace("''", "'"), at)
        case "quoted":
            name = word[1:-1].replace('""', '"')
            if not name:
                raise FilterSyntaxError("an empty name", text, at)
            return Token(Kind.NAME, name, at, quoted=True)
    if word == "=" and text[at:at + 2] == "==":
        raise FilterSyntaxError("equal is written =", text, at)
    return Token(Kind.SIGN, word, at)
