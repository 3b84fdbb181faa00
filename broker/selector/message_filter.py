"""Tags and an expression together, and what they make of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.selector.evaluation import Condition, condition_of
from broker.selector.expression import Expression, FieldName, size_of, wildcards_of
from broker.selector.parser import parse_expression
from broker.selector.tags import parse_tags
from magnetar.entry import EntryView


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Equal filters want the same messages, however they are written.

    A message is wanted when its tag is among `tags` (None: any, even none) and the expression
    is true of it; false and unknown are the same here.
    """

    tags: frozenset[str] | None
    expression: Expression | None
    tags_text: str = field(compare=False)
    expression_text: str = field(compare=False)
    condition: Condition | None = field(compare=False, repr=False)
    steps: int = field(compare=False)
    """What a decision about one message costs at most, but for its texts."""
    wildcards: int = field(compare=False)
    """See `wildcards_of`."""

    def __str__(self) -> str:
        parts = []
        if self.tags is not None:
            parts.append(f"tags {self.tags_text!r}")
        if self.expression is not None:
            parts.append(f"filter {self.expression_text!r}")
        return " and ".join(parts)

    def wants(self, view: EntryView, index: int) -> bool:
        """Whether message `index` is to be delivered; raises InvalidFrame, by the view only."""
        if self.tags is not None and view.tag(index) not in self.tags:
            return False
        return self.condition is None or self.condition(_MessageFields(view, index)) is True


def parse_filter(tags: str, expression: str) -> MessageFilter | None:
    """None: every message is wanted. Raises FilterSyntaxError."""
    wanted = parse_tags(tags)
    parsed = parse_expression(expression) if expression.strip() else None
    if wanted is None and parsed is None:
        return None
    return MessageFilter(
        wanted, parsed, tags if wanted is not None else "",
        expression if parsed is not None else "",
        None if parsed is None else condition_of(parsed),
        2 if parsed is None else 2 + size_of(parsed),
        0 if parsed is None else wildcards_of(parsed),
    )


class _MessageFields:
    """One message's properties, read when first asked for."""

    __slots__ = ("_index", "_properties", "_view")

    def __init__(self, view: EntryView, index: int) -> None:
        self._view = view
        self._index = index
        self._properties: dict[str, str] | None = None

    def property(self, name: str) -> str | None:
        if self._properties is None:
            self._properties = self._view.properties(self._index)
        return self._properties.get(name)

    def field(self, name: FieldName) -> str | int | None:
        view, index = self._view, self._index
        match name:
            case FieldName.KEY:
                return view.key(index)
            case FieldName.TAG:
                return view.tag(index)
            case FieldName.PRODUCER:
                return view.origin(index).producer_name
            case FieldName.SEQUENCE_ID:
                return view.origin(index).sequence_id
            case FieldName.PUBLISH_TIME:
                return view.origin(index).publish_time_ms
            case FieldName.EVENT_TIME:
                return view.event_time_ms(index) or None
