"""Filters that are read, filters that are refused with their place, and whatever else is typed."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.selector import FilterSyntaxError, parse_filter
from broker.selector.evaluation import condition_of
from broker.selector.lexer import MAX_FILTER_CHARACTERS
from broker.selector.parser import MAX_DEPTH, MAX_NODES, parse_expression
from broker.selector.tags import MAX_TAGS, parse_tags
from magnetar.errors import InvalidArgument
from tests.broker.selector.fields import GivenFields

SAME = [
    ("a = 1 and b = 2 or not c = 3", "((a = 1) AND (b = 2)) OR (NOT (c = 3))"),
    ("a + b * c - d / 2 > 0", "((a + (b * c)) - (d / 2)) > 0"),
    ("-a * 2 = 1", "(-a) * 2 = 1"),
    ("not a = 1 and b = 1", "(NOT (a = 1)) AND b = 1"),
    ("a NOT IN ('x')", "NOT (a IN ('x'))"),
    ("a NOT BETWEEN 1 AND 2 AND b", "(NOT (a BETWEEN 1 AND 2)) AND b"),
    ("a NOT LIKE 'x%'", "NOT a LIKE 'x%'"),
    ("a IS NOT NULL", "NOT (a IS NULL)"),
    ("a\n=\t1", "a = 1"),
    ('"order" = 1', '"order"=1'),
    ("a = 1.0", "a = 1"),
]
DIFFERENT = [
    ("a = 1", "a = TRUE"), ("a = 1", "a = '1'"), ("tag = 'x'", "\"tag\" = 'x'"),
    ("a = 'A'", "A = 'A'"), ("a IN (1)", "a IN (TRUE)"),
]
REFUSED = [
    ("", 1, 1, "expected a property"),
    ("price >", 1, 8, "the end"),
    ("a = 1\n AND b == 2", 2, 8, "equal is written"),
    ("a = NULL", 1, 5, "IS NULL"),
    ("a != 1", 1, 3, "<>"),
    ("a = 'x", 1, 5, "no end"),
    ('"a = 1', 1, 1, "no end"),
    ('"" = 1', 1, 1, "empty"),
    ("a = 1 = 2", 1, 7, "do not follow"),
    ("(a = 1", 1, 7, "expected )"),
    ("a = 1)", 1, 6, "expected AND, OR or the end"),
    ("a IN ()", 1, 7, "expected"),
    ("a IN (b)", 1, 7, "expected"),
    ("a IN ('x', 1 + 1)", 1, 14, "expected )"),
    ("a IN (-'x')", 1, 7, "sign"),
    ("a LIKE b", 1, 8, "pattern"),
    ("a LIKE 'x' ESCAPE 'ab'", 1, 19, "one character"),
    ("a LIKE 'x!y' ESCAPE '!'", 1, 8, "stands before"),
    ("1 LIKE 'x'", 1, 1, "LIKE"),
    ("a NOT = 1", 1, 7, "after NOT"),
    ("a IS 1", 1, 6, "expected NULL"),
    ("a + 1 IS NULL", 1, 1, "only a property"),
    ("5", 1, 1, "condition"),
    ("'x'", 1, 1, "condition"),
    ("a + 1", 1, 1, "condition"),
    ("a = 1 AND 5", 1, 11, "condition"),
    ("NOT 5", 1, 1, "condition"),
    ("5 = 'x'", 1, 3, "compared"),
    ("TRUE > FALSE", 1, 6, "= and <>"),
    ("a BETWEEN TRUE AND FALSE", 1, 3, "order"),
    ("a BETWEEN 1 AND 'x'", 1, 3, "compared"),
    ("price > 'a' + 1", 1, 9, "calculated"),
    ("a = 1e999", 1, 5, "beyond"),
    ("a = 12x", 1, 7, "within a word"),
    ("a = 1 & b = 2", 1, 7, "AND"),
    ("a = 1 || b = 2", 1, 7, "OR"),
    ("a = 1;", 1, 6, "without ;"),
    ("a = " + "9" * 41, 1, 5, "40"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_is_the_same_however_it_is_written(one: str, other: str) -> None:
    assert parse_expression(one) == parse_expression(other)
    assert parse_filter("A||B", one) == parse_filter(" B || A ", other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_differs_is_not_the_same(one: str, other: str) -> None:
    assert parse_expression(one) != parse_expression(other)


@pytest.mark.parametrize(("text", "line", "column", "problem"), REFUSED)
def test_mistakes_are_shown_at_their_place(
    text: str, line: int, column: int, problem: str
) -> None:
    with pytest.raises(FilterSyntaxError) as caught:
        parse_expression(text)

    assert (caught.value.line, caught.value.column) == (line, column)
    assert problem in caught.value.problem
    _, _, caret = str(caught.value).split("\n")
    assert len(caret) - 1 == 4 + min(column - 1, 60)
    assert isinstance(caught.value, InvalidArgument)


def test_limits_are_kept_however_the_text_grows() -> None:
    for text in (
        "(" * 500 + "a" + ")" * 500, "NOT " * 500 + "a", "- " * 500 + "1 = a",
        "a" + " + 1" * 300 + " = 1", " + ".join(["a"] * (MAX_DEPTH + 5)) + " > 1",
        " AND ".join(["a = 1"] * MAX_NODES), "a IN (" + ",".join(["1"] * MAX_NODES) + ")",
        "a = '" + "x" * MAX_FILTER_CHARACTERS + "'", "a LIKE '" + "x" * 257 + "'",
    ):
        with pytest.raises(FilterSyntaxError):
            parse_expression(text)
    parse_expression(" OR ".join(["a = 1"] * (MAX_NODES // 4)))
    parse_expression("(" * (MAX_DEPTH - 2) + "a" + ")" * (MAX_DEPTH - 2))


def test_tags() -> None:
    assert parse_tags("*") is parse_tags("") is parse_tags(" * ") is None
    assert parse_tags("A") == {"A"}
    assert parse_tags(" A||B ||A") == {"A", "B"}
    for text, column in (("A ||", 5), ("|| A", 1), ("A || *", 6), ("A | B", 3), ("A B", 1)):
        with pytest.raises(FilterSyntaxError) as caught:
            parse_tags(text)
        assert caught.value.column == column, text
    with pytest.raises(FilterSyntaxError):
        parse_tags("||".join(map(str, range(MAX_TAGS + 1))))
    assert parse_filter("*", " ") is None


WORDS = st.sampled_from([
    "a", "b", "tag", '"a b"', "1", "2.5", "-3", "1e300", "'x'", "'5'", "''", "'%_'", "TRUE",
    "FALSE", "NULL", "AND", "OR", "NOT", "IN", "LIKE", "ESCAPE", "'!'", "IS", "BETWEEN", "=",
    "<>", "<", ">=", "+", "-", "*", "/", "(", ")", ",", "event_time",
])
VALUES = st.one_of(
    st.none(), st.text(max_size=8), st.sampled_from(["1", "-2.5", "true", "1e308", "nan", "x"])
)


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=14).map(" ".join)), VALUES, VALUES)
@example("a * a * a * a > 1", "1e308", None)
@example("a / a = 1", "0", None)
@example("a * 1 * a > 1.5", "9" * 40, None)
def test_any_text_is_read_or_refused_and_never_fails(
    text: str, one: str | None, other: str | None
) -> None:
    try:
        expression = parse_expression(text)
    except FilterSyntaxError as error:
        assert 0 <= error.offset <= len(text)
        return
    found = condition_of(expression)(GivenFields({"a": one, "b": other, "a b": one}))
    assert found in (True, False, None)


@st.composite
def conditions(draw: st.DrawFn, depth: int = 4) -> str:
    """Texts that are conditions."""
    def value() -> str:
        return str(draw(st.sampled_from(["a", "b", "1", "0", "2.5", "(a + 1)", "(b / a)", "-b"])))

    if depth == 0:
        return f"{value()} {draw(st.sampled_from(['=', '<>', '<', '>=']))} {value()}"
    match draw(st.integers(0, 5)):
        case 0:
            return f"NOT ({draw(conditions(depth - 1))})"
        case 1:
            return f"{value()} BETWEEN {value()} AND {value()}"
        case 2:
            return f"a IN (1, 'x', {draw(st.integers(-5, 5))})"
        case 3:
            return f"a LIKE {draw(st.sampled_from(['%x%', '_', '', '%', 'x_%']))!r}"
    joined = draw(st.sampled_from([" AND ", " OR "]))
    return joined.join(f"({draw(conditions(depth - 1))})" for _ in range(2))


@settings(max_examples=300, deadline=None)
@given(conditions(), VALUES, VALUES)
def test_not_turns_round_what_is_known_and_nothing_else(
    text: str, one: str | None, other: str | None
) -> None:
    fields = GivenFields({"a": one, "b": other})
    straight = condition_of(parse_expression(text))(fields)
    turned = condition_of(parse_expression(f"NOT ({text})"))(fields)
    assert turned is (None if straight is None else not straight)
