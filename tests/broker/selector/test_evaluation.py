"""What expressions say of messages, with unknown as the third answer."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.selector.evaluation import condition_of
from broker.selector.like import MAX_WILDCARD_TEXT, LikePattern
from broker.selector.parser import parse_expression
from tests.broker.selector.fields import GivenFields

FIELDS = GivenFields(
    {
        "price": "100", "rate": "2.50", "region": "eu", "urgent": "True", "empty": "",
        "name": "O'Neil", "note": "100%", "two words": "yes", "zero": "0", "tag": "property",
    },
    key="k1", tag="A", event_time=1_700_000_000_000, sequence_id=7, producer="p",
)
TRUE = [
    "price = 100", "price = 100.0", "price = 1e2", "price <> 99", "price > 99", "price >= 100",
    "price < 100.5", "price <= 100", "100 = price", "price = '100'", "price <> '100.0'",
    "region = 'eu'", "region < 'us'", "region > 'EU'", "name = 'O''Neil'", '"two words" = \'yes\'',
    "urgent = TRUE", "urgent <> FALSE", "urgent", "NOT (urgent = FALSE)", "TRUE", "TRUE = TRUE",
    "region IN ('us', 'eu')", "price IN (1, 100)", "price IN ('x', 100)", "urgent IN (TRUE)",
    "region NOT IN ('us')", "1 IN (1, 2)", "'x' IN ('x')", "price IN (-1, 100)",
    "price BETWEEN 100 AND 200", "price NOT BETWEEN 1 AND 2", "region BETWEEN 'ea' AND 'ez'",
    "region LIKE 'e%'", "region LIKE '_u'", "region LIKE 'eu'", "region NOT LIKE 'u%'",
    "note LIKE '100!%' ESCAPE '!'", "name LIKE '%''%'", "empty LIKE ''", "empty LIKE '%'",
    "empty = ''", "price LIKE '1%'", "key LIKE 'k_'",
    "price + 1 = 101", "price - 1 = 99", "price * rate = 250", "price / 8 = 12.5", "-price < 0",
    "+price = 100", "price = 50 * 2", "2 + 3 * 4 = 14", "(2 + 3) * 4 = 20", "7 / 2 = 3.5",
    "8 - 3 - 2 = 3", "price > rate", "rate < price", "-1 < 0", "1 - -1 = 2",
    "missing IS NULL", "price IS NOT NULL", "empty IS NOT NULL",
    "tag = 'A'", "\"tag\" = 'property'", "key = 'k1'", "producer = 'p'", "sequence_id = 7",
    "event_time >= 1700000000000", "event_time IS NOT NULL", "publish_time IS NULL",
    "missing = 1 OR TRUE", "TRUE OR missing", "NOT (missing = 1 AND FALSE)",
    "price > 50 AND region = 'eu' AND rate < 3", "region = 'us' OR price > 50",
    "region = 'x' OR region = 'y' OR region = 'eu'",
]
FALSE = [
    "price = 99", "price > 100", "region = 'EU'", "NOT urgent", "FALSE", "region IN ('us')",
    "missing = 1 AND FALSE", "FALSE AND missing", "price BETWEEN 200 AND 100",
    "region LIKE 'E%'", "region LIKE '_'", "note LIKE '100!_' ESCAPE '!'", "empty LIKE '_'",
    "price IS NULL", "missing IS NOT NULL", "NOT (missing = 1 OR TRUE)", "price = 'x'",
    "missing > 1 AND price = 1", "price NOT IN (100)",
]
UNKNOWN = [
    "missing = 1", "missing <> 1", "NOT (missing = 1)", "missing", "NOT missing",
    "missing LIKE '%'", "missing NOT LIKE '%'", "missing IN ('x')", "missing NOT IN ('x')",
    "missing BETWEEN 1 AND 2", "price BETWEEN missing AND 200", "missing = missing",
    "region = 1", "region <> 1", "region > 1", "region = TRUE", "region", "empty = 0",
    "region + 1 = 2", "-region = 1", "price / zero = 1", "price / 0 = 1", "price > missing",
    "missing = 1 AND TRUE", "missing = 1 OR FALSE", "missing AND missing", "region IN (1, 2)",
    "publish_time > 0", "1e308 * 10 > 1", "price * 1e308 > 1",
]


@pytest.mark.parametrize("text", TRUE)
def test_true(text: str) -> None:
    assert condition_of(parse_expression(text))(FIELDS) is True


@pytest.mark.parametrize("text", FALSE)
def test_false(text: str) -> None:
    assert condition_of(parse_expression(text))(FIELDS) is False


@pytest.mark.parametrize("text", UNKNOWN)
def test_unknown(text: str) -> None:
    assert condition_of(parse_expression(text))(FIELDS) is None


LOGIC = {"t": "TRUE", "f": "FALSE", "n": "missing"}
NAMES = {True: "t", False: "f", None: "n"}


@pytest.mark.parametrize(("sign", "table"), [
    ("AND", {"tt": "t", "tf": "f", "tn": "n", "ft": "f", "ff": "f", "fn": "f", "nt": "n",
             "nf": "f", "nn": "n"}),
    ("OR", {"tt": "t", "tf": "t", "tn": "t", "ft": "t", "ff": "f", "fn": "n", "nt": "t",
            "nf": "n", "nn": "n"}),
])
def test_the_tables_of_three_valued_logic(sign: str, table: dict[str, str]) -> None:
    for (one, other), expected in table.items():
        text = f"{LOGIC[one]} {sign} {LOGIC[other]}"
        assert NAMES[condition_of(parse_expression(text))(FIELDS)] == expected, text


@settings(max_examples=300, deadline=None)
@given(st.text("ab%_", max_size=8), st.text("ab\n", max_size=12))
def test_like_is_what_it_says(pattern: str, text: str) -> None:
    source = "".join({"%": ".*", "_": "."}.get(one, re.escape(one)) for one in pattern)

    assert LikePattern(pattern).matches(text) is bool(re.fullmatch(source, text, re.DOTALL))


def test_like_does_not_backtrack() -> None:
    text = "a" * 100_000
    assert LikePattern("%a" * 100 + "b").matches(text) is False
    assert LikePattern("%a_" * 60 + "b").matches(text[:MAX_WILDCARD_TEXT]) is False
    assert LikePattern("%a_b%").matches(text) is None
