"""`TagA || TagB`, or `*` for every message."""

from __future__ import annotations

from broker.selector.lexer import MAX_FILTER_CHARACTERS, FilterSyntaxError

MAX_TAGS = 128


def parse_tags(text: str) -> frozenset[str] | None:
    """The tags asked for, None for `*` or nothing; raises FilterSyntaxError."""
    if len(text) > MAX_FILTER_CHARACTERS:
        raise FilterSyntaxError(
            f"tags of more than {MAX_FILTER_CHARACTERS} characters", text, MAX_FILTER_CHARACTERS
        )
    if text.strip() in ("", "*"):
        return None
    found: set[str] = set()
    at = 0
    for part in text.split("||"):
        tag = part.strip()
        start = at + len(part) - len(part.lstrip())
        if not tag:
            raise FilterSyntaxError("expected a tag beside ||", text, min(start, len(text)))
        if tag == "*":
            raise FilterSyntaxError("* stands alone", text, start)
        if "|" in tag:
            raise FilterSyntaxError("tags are joined by ||", text, text.index("|", start))
        if any(one.isspace() for one in tag):
            raise FilterSyntaxError("a tag has no blanks; join tags by ||", text, start)
        found.add(tag)
        at += len(part) + 2
    if len(found) > MAX_TAGS:
        raise FilterSyntaxError(f"{len(found)} tags; at most {MAX_TAGS}", text, 0)
    return frozenset(found)
