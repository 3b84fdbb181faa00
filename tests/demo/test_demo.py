"""The demonstration from end to end, with fewer flights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.flights import DataUnavailable, archive

REPOSITORY = Path(__file__).resolve().parents[2]
FLIGHTS = 30_000
LIMIT_S = 150.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def _archive() -> None:
    try:
        archive()
    except DataUnavailable as error:
        pytest.skip(str(error))


def start(report: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "demo", "--flights", str(FLIGHTS), "--report", str(report)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_two_kills_lose_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"

    with start(report) as demo:
        output, _ = demo.communicate(timeout=LIMIT_S)

    assert demo.returncode == 0, output
    assert output.splitlines()[-1] == "lost 0, duplicated 0, out of order 0"
    found = json.loads(report.read_text())
    assert [kill["role"] for kill in found["kills"]] == ["bookie", "owner broker"]
    assert (found["clean"], found["live"]["lost"]) == (True, 0)


def test_a_row_dropped_before_comparing_fails_the_run(tmp_path: Path) -> None:
    with start(tmp_path / "report.json", LOSE="1") as demo:
        output, _ = demo.communicate(timeout=LIMIT_S)

    assert demo.returncode == 1, output
    assert output.splitlines()[-1] == "lost 1, duplicated 0, out of order 0"


def test_an_interrupted_run_leaves_no_process_behind(tmp_path: Path) -> None:
    with start(tmp_path / "report.json") as demo:
        deadline_s = time.monotonic() + LIMIT_S
        while len(started := children_of(demo.pid)) < 6 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        demo.send_signal(signal.SIGTERM)
        output, _ = demo.communicate(timeout=LIMIT_S)

    assert demo.returncode == 130, output
    assert len(started) == 6
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
