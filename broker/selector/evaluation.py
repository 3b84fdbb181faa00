"""An expression to a function of a message, with SQL's three values: true, false, unknown.

How an open value (a property, or a field that is a text) is read follows from the other side:

- beside a number and in arithmetic: as a decimal number, else unknown
- beside TRUE or FALSE, and where a condition stands: as `true` or `false` in any case, else unknown
- beside a string, IN strings and LIKE: as text, ordered by code point
- beside another open value: both as numbers if both are, else both as text

What is not there is unknown, and so is what depends on it; a division by zero is unknown too.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any, Protocol

from broker.selector.expression import (
    And,
    Arithmetic,
    Between,
    Calculate,
    Compare,
    Comparison,
    Expression,
    Field,
    FieldName,
    In,
    IsNull,
    Like,
    Literal,
    Negative,
    Not,
    Or,
    Property,
    TruthLiteral,
    ValueKind,
    kind_of,
)
from broker.selector.lexer import MAX_NUMBER_CHARACTERS
from broker.selector.like import LikePattern

Number = int | float
Truth = bool | None


class Fields(Protocol):
    """What is asked of a message; None: it has none."""

    def property(self, name: str) -> str | None: ...

    def field(self, name: FieldName) -> str | int | None: ...


Evaluate = Callable[[Fields], Any]
Condition = Callable[[Fields], Truth]

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_TRUTHS = {"true": True, "false": False}
_COMPARE: dict[Comparison, Callable[[Any, Any], bool]] = {
    Comparison.EQUAL: operator.eq, Comparison.UNEQUAL: operator.ne, Comparison.BELOW: operator.lt,
    Comparison.AT_MOST: operator.le, Comparison.ABOVE: operator.gt,
    Comparison.AT_LEAST: operator.ge,
}
_CALCULATE: dict[Arithmetic, Callable[[Any, Any], Number]] = {
    Arithmetic.ADD: operator.add, Arithmetic.SUBTRACT: operator.sub,
    Arithmetic.MULTIPLY: operator.mul, Arithmetic.DIVIDE: operator.truediv,
}


def number_of(text: str) -> Number | None:
    """The number a text says, in the form of a literal with a sign; None: it says none."""
    if len(text) > MAX_NUMBER_CHARACTERS or not _NUMBER.fullmatch(text):
        return None
    if text.lstrip("+-").isdigit():
        return int(text)
    found = float(text)
    return found if math.isfinite(found) else None


def truth_of(text: str) -> Truth:
    """What a text says as a condition."""
    return _TRUTHS.get(text.lower()) if len(text) <= len("false") else None


def condition_of(expression: Expression) -> Condition:
    """The condition as a function that never raises."""
    match expression:
        case And(operands=operands):
            return _all([condition_of(one) for one in operands])
        case Or(operands=operands):
            return _any([condition_of(one) for one in operands])
        case Not(operand=operand):
            return _not(condition_of(operand))
        case Compare():
            return _compare(expression.sign, expression.left, expression.right)
        case Between(operand=operand, lowest=lowest, highest=highest):
            return _all([
                _compare(Comparison.AT_LEAST, operand, lowest),
                _compare(Comparison.AT_MOST, operand, highest),
            ])
        case In():
            return _in(expression)
        case Like():
            return _like(expression)
        case IsNull(operand=operand):
            value = _value(operand)
            return lambda fields: value(fields) is None
        case TruthLiteral(value=constant):
            return lambda _fields: constant
    return _converted(expression, ValueKind.TRUTH)


def _all(conditions: list[Condition]) -> Condition:
    def evaluate(fields: Fields) -> Truth:
        found: Truth = True
        for condition in conditions:
            truth = condition(fields)
            if truth is False:
                return False
            if truth is None:
                found = None
        return found

    return evaluate


def _any(conditions: list[Condition]) -> Condition:
    def evaluate(fields: Fields) -> Truth:
        found: Truth = False
        for condition in conditions:
            truth = condition(fields)
            if truth is True:
                return True
            if truth is None:
                found = None
        return found

    return evaluate


def _not(condition: Condition) -> Condition:
    def evaluate(fields: Fields) -> Truth:
        truth = condition(fields)
        return None if truth is None else not truth

    return evaluate


def _compare(sign: Comparison, left: Expression, right: Expression) -> Condition:
    holds = _COMPARE[sign]
    kinds = (kind_of(left), kind_of(right))
    if kinds == (ValueKind.OPEN, ValueKind.OPEN):
        return _compare_open(holds, _value(left), _value(right))
    kind = kinds[1] if kinds[0] is ValueKind.OPEN else kinds[0]
    one, other = _converted(left, kind), _converted(right, kind)

    def evaluate(fields: Fields) -> Truth:
        first = one(fields)
        if first is None:
            return None
        second = other(fields)
        return None if second is None else holds(first, second)

    return evaluate


def _compare_open(
    holds: Callable[[Any, Any], bool], one: Evaluate, other: Evaluate
) -> Condition:
    def evaluate(fields: Fields) -> Truth:
        first, second = one(fields), other(fields)
        if first is None or second is None:
            return None
        numbers = number_of(first), number_of(second)
        return holds(first, second) if None in numbers else holds(*numbers)

    return evaluate


def _in(expression: In) -> Condition:
    options = expression.options
    values = [option.value for option in options if isinstance(option, Literal)]
    truths = frozenset(one.value for one in options if isinstance(one, TruthLiteral))
    texts = frozenset(value for value in values if isinstance(value, str))
    numbers = frozenset(value for value in values if not isinstance(value, str))
    operand, open_ = _value(expression.operand), kind_of(expression.operand) is ValueKind.OPEN

    def evaluate(fields: Fields) -> Truth:
        value = operand(fields)
        if value is None:
            return None
        if not open_:
            return value in (
                texts if isinstance(value, str) else truths if isinstance(value, bool) else numbers
            )
        if value in texts:
            return True
        unknown = False
        for wanted, read in ((numbers, number_of), (truths, truth_of)):
            if wanted:
                said = read(value)
                if said in wanted:
                    return True
                unknown = unknown or said is None
        return None if unknown else False

    return evaluate


def _like(expression: Like) -> Condition:
    pattern = LikePattern(expression.pattern, expression.escape)
    operand = _converted(expression.operand, ValueKind.TEXT)

    def evaluate(fields: Fields) -> Truth:
        text = operand(fields)
        return None if text is None else pattern.matches(text)

    return evaluate


def _converted(expression: Expression, kind: ValueKind) -> Evaluate:
    """The value, an open one read as `kind`."""
    value = _value(expression)
    if kind_of(expression) is not ValueKind.OPEN or kind is ValueKind.TEXT:
        return value
    read: Callable[[str], Any] = truth_of if kind is ValueKind.TRUTH else number_of

    def evaluate(fields: Fields) -> Any:
        text = value(fields)
        return None if text is None else read(text)

    return evaluate


def _value(expression: Expression) -> Evaluate:
    match expression:
        case Literal(value=constant):
            return lambda _fields: constant
        case Property(name=name):
            return lambda fields: fields.property(name)
        case Field(name=field):
            return lambda fields: fields.field(field)
        case Negative(operand=operand):
            number = _converted(operand, ValueKind.NUMBER)
            return lambda fields: None if (found := number(fields)) is None else -found
        case Calculate():
            return _calculate(expression)
    return condition_of(expression)


def _calculate(expression: Calculate) -> Evaluate:
    calculate = _CALCULATE[expression.sign]
    left = _converted(expression.left, ValueKind.NUMBER)
    right = _converted(expression.right, ValueKind.NUMBER)

    def evaluate(fields: Fields) -> Number | None:
        one, other = left(fields), right(fields)
        if one is None or other is None:
            return None
        try:
            found = calculate(one, other)
            return found if math.isfinite(found) else None
        except ArithmeticError:
            return None

    return evaluate
