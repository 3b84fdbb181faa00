"""Runs seeds of the simulator over several processes and prints what was found.

    python -m tests.sim.run --seeds 2000 --seed 1 --jobs 2
    python -m tests.sim.run --seed 17 --seeds 1 --trace        replays one seed
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import resource
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator

FORBIDDEN = ("uvloop", "grpc", "kazoo", "rocksdict", "aiohttp")
MIN_ACKNOWLEDGED = 300
MIN_FAULTS = 3
MIN_RARE_SHARE = 0.01
SEEDS_TO_JUDGE_RARITY = 500
"""With fewer seeds a rare state may be missing by chance."""


def simulate(seed: int, workload: str | None = None, keep_trace: bool = False):  # type: ignore[no-untyped-def]
    """Run one seed in this process; answers its `Outcome`."""
    from tests.sim.worlds import build

    gc.disable()
    world = build(seed, workload, keep_trace)
    outcome = world.run()
    world.stop_everything()
    del world
    _bury_the_killed()
    return outcome


def _bury_the_killed() -> None:
    """Tasks of killed processes that never began, or that now meet their `finally`, without a
    loop to run on."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _unraisable: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    finally:
        sys.unraisablehook = hook


def assert_pure() -> None:
    """Nothing that makes threads or talks to the world may be loaded."""
    loaded = [name for name in FORBIDDEN if name in sys.modules]
    assert not loaded, f"the simulator loaded {loaded}"
    assert threading.active_count() == 1, threading.enumerate()


def _work(job: tuple[int, str | None]):  # type: ignore[no-untyped-def]
    outcome = simulate(*job)
    assert_pure()
    return outcome


def _quiet() -> None:
    """Load everything first, so that collecting a seed's garbage looks at that seed only."""
    from tests.sim import worlds

    worlds.load()
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.freeze()


def outcomes(seeds: range, workload: str | None, jobs: int) -> Iterator:  # type: ignore[type-arg]
    """The outcomes in order of seed."""
    work = [(seed, workload) for seed in seeds]
    if jobs <= 1:
        _quiet()
        yield from map(_work, work)
        return
    with multiprocessing.get_context("fork").Pool(jobs, _quiet, maxtasksperchild=200) as pool:
        yield from pool.imap(_work, work, chunksize=4)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--workload", choices=("log", "cluster"))
    parser.add_argument("--trace", action="store_true", help="print every event")
    parser.add_argument("--stop-at-first", action="store_true")
    parser.add_argument("--digest", action="store_true", help="print each seed's trace hash")
    options = parser.parse_args(arguments)
    if options.trace:
        return _show(options.seed, options.workload)
    started = time.perf_counter()
    summary = Summary()
    seeds = range(options.seed, options.seed + options.seeds)
    for outcome in outcomes(seeds, options.workload, options.jobs):
        summary.add(outcome)
        if options.digest:
            print(f"seed {outcome.seed} {outcome.workload} trace {outcome.digest}")
        if outcome.violations and options.stop_at_first:
            break
    summary.print(time.perf_counter() - started)
    return 1 if summary.failed or summary.too_rare else 0


def _show(seed: int, workload: str | None) -> int:
    logging.basicConfig(level=logging.INFO, format="        log %(name)s: %(message)s")
    outcome = simulate(seed, workload, keep_trace=True)
    for line in outcome.trace:
        print(line)
    for violation in outcome.violations:
        print("VIOLATION", violation)
    print(f"seed {seed} {outcome.workload}: {outcome.acknowledged} acknowledged, trace "
          f"{outcome.digest}, faults {dict(outcome.faults)}")
    return 1 if outcome.violations else 0


class Summary:
    """Adds up outcomes and judges the run as a whole."""

    def __init__(self) -> None:
        self.seeds = 0
        self.failed: list[int] = []
        self.too_rare: list[str] = []
        self.acknowledged = 0
        self.least_acknowledged = 1 << 30
        self.least_faults = 1 << 30
        self.rare_seeds: Counter[str] = Counter()
        self.rare_total: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.workloads: Counter[str] = Counter()
        self.steps = 0
        self.virtual_s = 0.0

    def add(self, outcome) -> None:  # type: ignore[no-untyped-def]
        self.seeds += 1
        self.workloads[outcome.workload] += 1
        self.acknowledged += outcome.acknowledged
        faults = sum(outcome.faults.values())
        problems = list(outcome.violations)
        if not problems and outcome.acknowledged < MIN_ACKNOWLEDGED:
            problems.append(f"only {outcome.acknowledged} publishes acknowledged")
        if not problems and faults < MIN_FAULTS:
            problems.append(f"only {faults} faults")
        if not problems:
            self.least_acknowledged = min(self.least_acknowledged, outcome.acknowledged)
            self.least_faults = min(self.least_faults, faults)
        self.faults.update(outcome.faults)
        self.rare_total.update(outcome.rare)
        self.rare_seeds.update(name for name, count in outcome.rare.items() if count)
        self.steps += outcome.steps
        self.virtual_s += outcome.virtual_s
        if problems:
            self.failed.append(outcome.seed)
            print(f"seed {outcome.seed} ({outcome.workload}) FAILED, trace {outcome.digest}:")
            for problem in problems[:6]:
                print(f"    {problem}")
            print(f"    replay: PYTHONHASHSEED=0 python -m tests.sim.run --seed {outcome.seed} "
                  f"--workload {outcome.workload} --trace", flush=True)

    def print(self, elapsed_s: float) -> None:
        from tests.sim.rare_states import REQUIRED

        print(f"\n{self.seeds} seeds ({_listed(self.workloads)}) in {elapsed_s:.1f} s "
              f"({cpu_s():.1f} s of CPU): {len(self.failed)} failed; "
              f"{self.acknowledged} publishes acknowledged, "
              f"at least {self.least_acknowledged} and {self.least_faults} faults a seed; "
              f"{self.virtual_s:.0f} virtual s, {self.steps} steps")
        print("faults: " + _listed(self.faults))
        print(f"{'rare state':45} {'seeds':>7} {'share':>7} {'times':>8}")
        names = {*self.rare_total, *REQUIRED}
        for name in sorted(names, key=lambda n: (n not in REQUIRED, n)):
            share = self.rare_seeds[name] / max(1, self.seeds)
            too_rare = name in REQUIRED and share < MIN_RARE_SHARE
            mark = "  TOO RARE" if too_rare else ""
            if too_rare and self.seeds >= SEEDS_TO_JUDGE_RARITY:
                self.too_rare.append(name)
            print(f"{name:45} {self.rare_seeds[name]:7} {share:7.1%} "
                  f"{self.rare_total[name]:8}{mark}")
        if self.failed:
            print("failed seeds:", *self.failed[:50])


def cpu_s() -> float:
    """Used by this process and by all that it started and that ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.sim.run", *sys.argv[1:]])
    sys.exit(main())
