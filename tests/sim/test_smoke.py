"""A few seeds of the simulator, and that a seed gives the same trace in every process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.sim.mutant_catalog import CATALOG
from tests.sim.mutants import ROOT

SEEDS = 12


def run_seeds(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = dict(
        os.environ, PYTHONHASHSEED="0", PYTHONPATH=f"{ROOT}{os.pathsep}{Path(ROOT, 'client')}"
    )
    return subprocess.run(
        [sys.executable, "-m", "tests.sim.run", "--jobs", "1", "--digest", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )


def test_seeds_are_clean_and_repeat_exactly_in_another_process() -> None:
    first = run_seeds("--seeds", str(SEEDS), "--seed", "1")
    assert first.returncode == 0, first.stdout + first.stderr
    digests = re.findall(r"^seed \d+ .* trace \S+$", first.stdout, re.MULTILINE)
    assert len(digests) == SEEDS

    again = run_seeds("--seeds", "4", "--seed", "1")

    assert re.findall(r"^seed \d+ .* trace \S+$", again.stdout, re.MULTILINE) == digests[:4]


def test_every_mutant_still_finds_its_text() -> None:
    for mutant in CATALOG:
        for change in mutant.changes:
            count = Path(ROOT, change.file).read_text().count(change.old)
            assert count == 1, f"{mutant.name}: {change.file} holds its text {count} times"
