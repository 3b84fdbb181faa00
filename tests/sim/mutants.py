"""Proof that the simulator sees: historic defects, put back into a scratch copy, must be found.

    python -m tests.sim.mutants --jobs 2
    python -m tests.sim.mutants --only ack_before_sync --keep

Every mutant is a replacement of text that must match exactly once, so a change of the product
that moves the text fails loudly here. A mutant is found when one of the ordinary seeds fails;
the seed that found it is printed, with the first violation.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.sim.mutant_catalog import CATALOG, Mutant
from tests.sim.run import cpu_s

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("metadata", "ledger", "bookie", "tenants", "broker", "client/magnetar")


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant."""

    mutant: Mutant
    seed: int | None
    evidence: str
    seconds: float
    broken: str = ""


def plant(mutant: Mutant, root: Path) -> str:
    """Apply the replacements below `root`; answers what is wrong, or nothing."""
    for change in mutant.changes:
        path = root / change.file
        text = path.read_text() if path.exists() else ""
        count = text.count(change.old)
        if count != 1:
            return f"{change.file}: the text to replace occurs {count} times, not once"
        path.write_text(text.replace(change.old, change.new))
    return ""


def copy_tree(target: Path) -> None:
    for name in COPIED:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, target / name,
                            ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    (target / "tests").mkdir()
    (target / "tests" / "__init__.py").write_text("")
    shutil.copytree(ROOT / "tests" / "sim", target / "tests" / "sim",
                    ignore=shutil.ignore_patterns("__pycache__", "test_*.py"))


def try_mutant(mutant: Mutant, seeds: int, first_seed: int, keep: bool) -> Verdict:
    """Run ordinary seeds on a mutated copy until one fails."""
    started = time.perf_counter()
    scratch = Path(tempfile.mkdtemp(prefix=f"mutant-{mutant.name}-"))
    try:
        copy_tree(scratch)
        broken = plant(mutant, scratch)
        if broken:
            return Verdict(mutant, None, "", time.perf_counter() - started, broken)
        environment = dict(
            os.environ, PYTHONHASHSEED="0", PYTHONPATH=f"{scratch}:{scratch / 'client'}",
            PYTHONDONTWRITEBYTECODE="",
        )
        command = [
            sys.executable, "-m", "tests.sim.run", "--seeds", str(seeds), "--seed",
            str(first_seed), "--jobs", "1", "--stop-at-first",
        ]
        if mutant.workload:
            command += ["--workload", mutant.workload]
        run = subprocess.run(
            command, cwd=scratch, env=environment, capture_output=True, text=True, check=False
        )
        found = re.search(r"^seed (\d+) .*FAILED.*\n\s+(.*)", run.stdout, re.MULTILINE)
        seconds = time.perf_counter() - started
        if found:
            return Verdict(mutant, int(found.group(1)), found.group(2), seconds)
        wrong = "" if run.returncode == 0 else (run.stderr or run.stdout)[-600:]
        return Verdict(mutant, None, "", seconds, wrong)
    finally:
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=300, help="seeds tried on each mutant")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="names that contain one of these, by commas")
    parser.add_argument("--keep", action="store_true", help="keep the mutated copies")
    options = parser.parse_args()
    wanted = (options.only or "").split(",")
    chosen = [m for m in CATALOG if any(part in m.name for part in wanted)]
    started = time.perf_counter()
    missed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        verdicts = pool.map(
            lambda m: try_mutant(m, options.seeds, options.seed, options.keep), chosen
        )
        for verdict in verdicts:
            missed += verdict.seed is None
            _tell(verdict)
    print(f"\n{len(chosen) - missed} of {len(chosen)} mutants found in "
          f"{time.perf_counter() - started:.1f} s ({cpu_s():.1f} s of CPU)")
    return 1 if missed else 0


def _tell(verdict: Verdict) -> None:
    name = f"{verdict.mutant.name:38}"
    if verdict.seed is not None:
        print(f"{name} found by seed {verdict.seed:4} in {verdict.seconds:5.1f} s: "
              f"{verdict.evidence[:110]}", flush=True)
    elif verdict.broken:
        print(f"{name} CANNOT BE PLANTED: {verdict.broken}", flush=True)
    else:
        print(f"{name} NOT FOUND in {verdict.seconds:.1f} s ({verdict.mutant.defect})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
