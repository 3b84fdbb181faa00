"""Tokens to an expression: precedence climbing, bounded in depth and in size.

From loose to tight: OR, AND, NOT, one comparison (= <> < <= > >= IN LIKE BETWEEN IS), + -, * /,
sign. Types that can be known are checked here, so that `price > 'a' + 1` is an error at
subscribe and not a filter that silently matches nothing.
"""

from __future__ import annotations

import math
from typing import NoReturn, TypeVar

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
    height_of,
    kind_of,
)
from broker.selector.lexer import FilterSyntaxError, Kind, Token, tokens_of

MAX_DEPTH = 48
"""Of parentheses, NOTs, signs and calculations within each other."""
MAX_NODES = 256
MAX_PATTERN_CHARACTERS = 256

_OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _SIGN = range(1, 8)
_COMPARISONS = {one.value: one for one in Comparison}
_SUMS = {one.value: one for one in (Arithmetic.ADD, Arithmetic.SUBTRACT)}
_PRODUCTS = {one.value: one for one in (Arithmetic.MULTIPLY, Arithmetic.DIVIDE)}
_FIELDS = {one.value: one for one in FieldName}
_CONDITION = (ValueKind.TRUTH, ValueKind.OPEN)
_NUMBER = (ValueKind.NUMBER, ValueKind.OPEN)
_TEXT = (ValueKind.TEXT, ValueKind.OPEN)

Node = TypeVar("Node")


def parse_expression(text: str) -> Expression:
    """The condition in `text`; raises FilterSyntaxError, and nothing else."""
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens_of(text)
        self._at = 0
        self._nodes = 0
        self._depth = 0

    def parse(self) -> Expression:
        start = self._peek()
        found = self._climb(_OR)
        self._want(found, _CONDITION, start, "the filter")
        if self._peek().kind is not Kind.END:
            self._fail(f"expected AND, OR or the end, found {self._peek()}")
        if height_of(found) > MAX_DEPTH:
            self._fail(f"calculates more than {MAX_DEPTH} deep", start)
        return found

    # --- tokens

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        if token.kind is not Kind.END:
            self._at += 1
        return token

    def _is(self, *texts: str) -> bool:
        token = self._peek()
        return token.kind in (Kind.KEYWORD, Kind.SIGN) and token.text in texts

    def _skip(self, text: str) -> bool:
        if self._is(text):
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._skip(text):
            self._fail(f"expected {text}, found {self._peek()}")

    def _fail(self, problem: str, token: Token | None = None) -> NoReturn:
        raise FilterSyntaxError(problem, self._text, (token or self._peek()).offset)

    def _want(
        self, found: Expression, kinds: tuple[ValueKind, ...], token: Token, what: str
    ) -> None:
        kind = kind_of(found)
        if kind not in kinds:
            self._fail(f"{what} is {kinds[0].value}, this is {kind.value}", token)

    def _node(self, node: Node, token: Token) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._fail(f"too large: more than {MAX_NODES} values and operators", token)
        return node

    # --- precedence

    def _climb(self, loosest: int) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"nested more than {MAX_DEPTH} deep")
        start = self._peek()
        left = self._prefix()
        while (strength := self._strength()) >= loosest:
            left = self._infix(left, start, strength)
        self._depth -= 1
        return left

    def _strength(self) -> int:
        if self._is("OR"):
            return _OR
        if self._is("AND"):
            return _AND
        if self._is("IN", "LIKE", "BETWEEN", "IS", "NOT", *_COMPARISONS):
            return _COMPARE
        if self._is(*_SUMS):
            return _SUM
        return _PRODUCT if self._is(*_PRODUCTS) else 0

    def _prefix(self) -> Expression:
        token = self._next()
        if token.kind is Kind.KEYWORD and token.text == "NOT":
            operand = self._climb(_NOT)
            self._want(operand, _CONDITION, token, "what NOT turns round")
            return self._node(Not(operand), token)
        if token.kind is Kind.SIGN and token.text in "+-":
            operand = self._climb(_SIGN)
            self._want(operand, _NUMBER, token, "what has a sign")
            return self._node(
                Negative(operand) if token.text == "-" else
                Calculate(Arithmetic.ADD, Literal(0), operand), token)
        if token.kind is Kind.SIGN and token.text == "(":
            inside = self._climb(_OR)
            self._expect(")")
            return inside
        if token.kind is Kind.NAME:
            return self._name(token)
        return self._literal(token)

    def _name(self, token: Token) -> Property | Field:
        field = None if token.quoted else _FIELDS.get(token.text)
        return self._node(Property(token.text) if field is None else Field(field), token)

    def _literal(self, token: Token) -> Literal | TruthLiteral:
        value: str | int | float
        if token.kind is Kind.TEXT:
            value = token.text
        elif token.kind is Kind.NUMBER:
            value = int(token.text) if token.text.isdigit() else float(token.text)
            if not math.isfinite(value):
                self._fail("a number beyond what can be held", token)
        elif token.kind is Kind.KEYWORD and token.text in ("TRUE", "FALSE"):
            return self._node(TruthLiteral(token.text == "TRUE"), token)
        elif token.kind is Kind.KEYWORD and token.text == "NULL":
            self._fail("NULL is not a value to compare with; write IS NULL", token)
        else:
            self._fail(f"expected a property, a value or (, found {token}", token)
        return self._node(Literal(value), token)

    # --- operators

    def _infix(self, left: Expression, start: Token, strength: int) -> Expression:
        token = self._peek()
        if strength in (_OR, _AND):
            return self._chain(left, start, strength)
        if strength == _COMPARE:
            found = self._comparison(left, start)
            if self._strength() == _COMPARE:
                self._fail("comparisons do not follow each other; join them with AND")
            return found
        self._next()
        right_start = self._peek()
        right = self._climb(strength + 1)
        for operand, place in ((left, start), (right, right_start)):
            self._want(operand, _NUMBER, place, "what is calculated with")
        signs = _SUMS if strength == _SUM else _PRODUCTS
        return self._node(Calculate(signs[token.text], left, right), token)

    def _chain(self, first: Expression, start: Token, strength: int) -> Expression:
        """`a AND b AND c` as one node, so that long chains are not deep."""
        word = "AND" if strength == _AND else "OR"
        operands = [first]
        self._want(first, _CONDITION, start, f"what {word} joins")
        while self._is(word):
            token = self._next()
            place = self._peek()
            operand = self._climb(strength + 1)
            self._want(operand, _CONDITION, place, f"what {word} joins")
            operands.append(self._node(operand, token))
        return And(tuple(operands)) if strength == _AND else Or(tuple(operands))

    def _comparison(self, left: Expression, start: Token) -> Expression:
        token = self._next()
        if token.kind is Kind.SIGN:
            return self._compare(left, _COMPARISONS[token.text], token)
        if token.text == "IS":
            negated = self._skip("NOT")
            self._expect("NULL")
            if not isinstance(left, Property | Field):
                self._fail("only a property can be NULL", start)
            return self._negated(self._node(IsNull(left), token), negated)
        negated = token.text == "NOT"
        if negated:
            token = self._next()
        match token.text if token.kind is Kind.KEYWORD else "":
            case "IN":
                return self._negated(self._in(left, token), negated)
            case "LIKE":
                return self._negated(self._like(left, start, token), negated)
            case "BETWEEN":
                return self._negated(self._between(left, token), negated)
        self._fail(f"expected IN, LIKE or BETWEEN after NOT, found {token}", token)

    def _negated(self, found: Expression, negated: bool) -> Expression:
        return Not(found) if negated else found

    def _compare(self, left: Expression, sign: Comparison, token: Token) -> Expression:
        right = self._climb(_SUM)
        self._fit(left, right, token)
        truth = ValueKind.TRUTH in (kind_of(left), kind_of(right))
        if truth and sign not in (Comparison.EQUAL, Comparison.UNEQUAL):
            self._fail("TRUE and FALSE are compared with = and <> only", token)
        return self._node(Compare(sign, left, right), token)

    def _fit(self, left: Expression, right: Expression, token: Token) -> None:
        kinds = (kind_of(left), kind_of(right))
        if kinds[0] is not kinds[1] and ValueKind.OPEN not in kinds:
            self._fail(f"{kinds[0].value} is compared with {kinds[1].value}", token)

    def _between(self, operand: Expression, token: Token) -> Expression:
        lowest = self._climb(_SUM)
        self._expect("AND")
        highest = self._climb(_SUM)
        for one, other in ((operand, lowest), (operand, highest), (lowest, highest)):
            self._fit(one, other, token)
            if ValueKind.TRUTH in (kind_of(one), kind_of(other)):
                self._fail("TRUE and FALSE have no order", token)
        return self._node(Between(operand, lowest, highest), token)

    def _in(self, operand: Expression, token: Token) -> Expression:
        self._expect("(")
        options: list[Literal | TruthLiteral] = []
        while True:
            place = self._next()
            negative = place.kind is Kind.SIGN and place.text == "-"
            option = self._literal(self._next() if negative else place)
            if negative:
                if isinstance(option, TruthLiteral) or isinstance(option.value, str):
                    self._fail("what has a sign is a number", place)
                option = Literal(-option.value)
            self._fit(operand, option, place)
            options.append(option)
            if not self._skip(","):
                break
        self._expect(")")
        return self._node(In(operand, tuple(options)), token)

    def _like(self, operand: Expression, start: Token, token: Token) -> Expression:
        self._want(operand, _TEXT, start, "what LIKE looks at")
        pattern, escape = self._next(), ""
        if pattern.kind is not Kind.TEXT:
            self._fail(f"expected a pattern in '', found {pattern}", pattern)
        if len(pattern.text) > MAX_PATTERN_CHARACTERS:
            self._fail(f"a pattern has at most {MAX_PATTERN_CHARACTERS} characters", pattern)
        if self._skip("ESCAPE"):
            given = self._next()
            if given.kind is not Kind.TEXT or len(given.text) != 1:
                self._fail("ESCAPE takes one character in ''", given)
            escape = given.text
            self._check_escapes(pattern, escape)
        return self._node(Like(operand, pattern.text, escape), token)

    def _check_escapes(self, pattern: Token, escape: str) -> None:
        at = 0
        while (at := pattern.text.find(escape, at)) >= 0:
            if pattern.text[at + 1:at + 2] not in ("%", "_", escape):
                self._fail(f"{escape} in the pattern stands before %, _ or itself", pattern)
            at += 2
