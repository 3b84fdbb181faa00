"""What a property expression consists of: frozen, comparable, without behaviour.

Two expressions are equal when they say the same, wherever in the text they said it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class ValueKind(Enum):
    """What is known of a value before there is a message. OPEN: a text that may be read as a
    number or a truth value where one is wanted; every property is."""

    TEXT = "a string"
    NUMBER = "a number"
    TRUTH = "a condition"
    OPEN = "a property"


class FieldName(Enum):
    """What can be asked of a message beside its properties."""

    KEY = "key"
    TAG = "tag"
    PRODUCER = "producer"
    SEQUENCE_ID = "sequence_id"
    PUBLISH_TIME = "publish_time"
    EVENT_TIME = "event_time"

    @property
    def kind(self) -> ValueKind:
        texts = (FieldName.KEY, FieldName.TAG, FieldName.PRODUCER)
        return ValueKind.OPEN if self in texts else ValueKind.NUMBER


class Comparison(Enum):
    """The signs between two values."""

    EQUAL = "="
    UNEQUAL = "<>"
    BELOW = "<"
    AT_MOST = "<="
    ABOVE = ">"
    AT_LEAST = ">="


class Arithmetic(Enum):
    """The signs between two numbers."""

    ADD = "+"
    SUBTRACT = "-"
    MULTIPLY = "*"
    DIVIDE = "/"


@dataclass(frozen=True, slots=True)
class Literal:
    value: str | int | float


@dataclass(frozen=True, slots=True)
class TruthLiteral:
    """Apart from the others, since 1 equals True in Python."""

    value: bool


@dataclass(frozen=True, slots=True)
class Property:
    name: str


@dataclass(frozen=True, slots=True)
class Field:
    name: FieldName


@dataclass(frozen=True, slots=True)
class Negative:
    operand: Expression


@dataclass(frozen=True, slots=True)
class Calculate:
    sign: Arithmetic
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Compare:
    sign: Comparison
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Between:
    operand: Expression
    lowest: Expression
    highest: Expression


@dataclass(frozen=True, slots=True)
class In:
    operand: Expression
    options: tuple[Literal | TruthLiteral, ...]


@dataclass(frozen=True, slots=True)
class Like:
    operand: Expression
    pattern: str
    escape: str = ""


@dataclass(frozen=True, slots=True)
class IsNull:
    operand: Property | Field


@dataclass(frozen=True, slots=True)
class Not:
    operand: Expression


@dataclass(frozen=True, slots=True)
class And:
    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    operands: tuple[Expression, ...]


Expression = (
    Literal | TruthLiteral | Property | Field | Negative | Calculate | Compare | Between | In
    | Like | IsNull | Not | And | Or
)


def kind_of(expression: Expression) -> ValueKind:
    """What its value will be."""
    match expression:
        case Literal(value=value):
            return ValueKind.TEXT if isinstance(value, str) else ValueKind.NUMBER
        case Property():
            return ValueKind.OPEN
        case Field(name=name):
            return name.kind
        case Negative() | Calculate():
            return ValueKind.NUMBER
    return ValueKind.TRUTH


def parts_of(expression: Expression) -> tuple[Expression, ...]:
    """The expressions right below it."""
    match expression:
        case Negative(operand=operand) | Not(operand=operand) | IsNull(operand=operand):
            return (operand,)
        case Like(operand=operand) | In(operand=operand):
            return (operand,)
        case Calculate(left=left, right=right) | Compare(left=left, right=right):
            return left, right
        case Between():
            return expression.operand, expression.lowest, expression.highest
        case And(operands=operands) | Or(operands=operands):
            return operands
    return ()


def _levels(expression: Expression) -> Iterator[list[Expression]]:
    level = [expression]
    while level:
        yield level
        level = [part for one in level for part in parts_of(one)]


def height_of(expression: Expression) -> int:
    """How many expressions lie within each other at most."""
    return sum(1 for _ in _levels(expression))


def size_of(expression: Expression) -> int:
    """How many expressions it consists of, the options of IN left out."""
    return sum(map(len, _levels(expression)))


def wildcards_of(expression: Expression) -> int:
    """Characters of all patterns with `_`, each of which may be held against every place of a
    text."""
    return sum(
        len(one.pattern) for level in _levels(expression) for one in level
        if isinstance(one, Like) and "_" in one.pattern)
