"""What the benchmark's report makes of its runs."""

from __future__ import annotations

import json

import pytest

from bench.percentiles import latencies_ms, medians
from bench.profile import hottest
from bench.report import Measured, as_json, as_markdown
from bench.rows import ROWS, Kind, Row, Target

ROW = Row(
    "row", "a row", Kind.BESIDE,
    (Target("through_per_s", least=0.6, ratio=True), Target("p99_ms", most=5)),
)  # fmt: skip


def test_medians_are_taken_figure_by_figure() -> None:
    runs = [{"a": 1.0, "b": 9.0}, {"a": 3.0}, {"a": 2.0, "b": 7.0}]

    assert medians(runs) == {"a": 2.0, "b": 8.0}


def test_percentiles_are_in_milliseconds() -> None:
    figures = latencies_ms([number / 1000 for number in range(1, 101)])

    assert (figures["p50_ms"], figures["p99_ms"], figures["max_ms"]) == (51.0, 100.0, 100.0)


def test_percentiles_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError):
        latencies_ms([])


def test_a_ratio_is_taken_of_the_medians() -> None:
    measured = Measured(
        ROW,
        magnetar=({"through_per_s": 50.0}, {"through_per_s": 70.0}, {"through_per_s": 60.0}),
        yardstick=({"through_per_s": 90.0}, {"through_per_s": 100.0}, {"through_per_s": 200.0}),
    )

    assert measured.value(ROW.targets[0]) == 0.6
    assert measured.verdict(ROW.targets[0]) == "yes"


def test_a_missing_figure_is_not_called_met() -> None:
    measured = Measured(ROW, magnetar=({"through_per_s": 50.0},), failure="failed: why")

    assert [measured.verdict(target) for target in ROW.targets] == ["not measured"] * 2
    assert "failed: why" in as_markdown([measured], {})


def test_the_report_names_every_target_and_can_be_read_by_programs() -> None:
    measured = Measured(
        ROW, ({"through_per_s": 50.0, "p99_ms": 7.0},), ({"through_per_s": 100.0},)
    )

    text = as_markdown([measured], {"cores": 2})
    parsed = json.loads(as_json([measured], {"cores": 2}, {}))

    assert "| a row | through_per_s | 0.5 × | ≥ 0.6 × yardstick | no |" in text
    assert "| a row | p99_ms | 7 | ≤ 5 | no |" in text
    assert [target["met"] for target in parsed["rows"][0]["targets"]] == ["no", "no"]


def test_a_quick_run_keeps_what_is_measured() -> None:
    for row in ROWS:
        quicker = row.quicker()

        assert (quicker.name, quicker.targets, quicker.call) == (row.name, row.targets, row.call)


def test_the_hottest_functions_are_those_at_the_end_of_the_stacks() -> None:
    assert hottest("main;f;g 3\nmain;g 1\nmain 1\n")[0] == " 80.0%  g"
