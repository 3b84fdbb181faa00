"""`python -m bench`: the rows of `bench.rows`, yardstick and Magnetar in turn, never at once."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import magnetar_rows, report
from bench.feature_rows import MEASURES
from bench.percentiles import Figures
from bench.profile import Recording, processor_times
from bench.report import Measured
from bench.rows import ROWS, Kind, Row
from bench.yardstick.cluster import measured as yardstick_measured
from demo.cluster import ProcessCluster
from demo.processes import ProcessFailed
from magnetar.errors import MagnetarError
from tests.zookeeper_server import ZooKeeperServer, missing_for_zookeeper

RESULTS = Path(__file__).resolve().parent / "results"
RUNS = 3
PROFILED_TIMES = 3
"""So many times the messages of a run, for samples enough."""
FAILURES = (ProcessFailed, MagnetarError, ExceptionGroup, OSError, ValueError)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS])
    parser.add_argument("--runs", type=int, default=RUNS, help="medians are taken over so many")
    parser.add_argument("--quick", action="store_true", help="one run with fewer messages")
    parser.add_argument(
        "--served", action="store_true", help="metadata from `magnetar metadata`, not ZooKeeper"
    )
    parser.add_argument("--profile", action="store_true", help="sample the busiest process")
    parser.add_argument("--name", default="latest", help="of the report files")
    return parser.parse_args()


class Bench:
    """One cluster for all rows, a new topic for each run."""

    def __init__(
        self, folder: Path, cluster: ProcessCluster, arguments: argparse.Namespace
    ) -> None:
        self._folder, self._cluster = folder, cluster
        self._quick: bool = arguments.quick
        self._runs: int = 1 if arguments.quick else arguments.runs

    def measure(self, row: Row) -> Measured:
        """All runs of a row; what fails is reported, and does not stop the others."""
        ours: list[Figures] = []
        theirs: list[Figures] = []
        failure = ""
        for run in range(min(self._runs, row.runs or self._runs)):
            try:
                if row.load is not None:
                    theirs.append(self._yardstick(row))
                    print(f"{row.name:14} run {run + 1}  yardstick {theirs[-1]}", flush=True)
                ours.append(self._magnetar(row))
                print(f"{row.name:14} run {run + 1}  magnetar  {ours[-1]}", flush=True)
            except FAILURES as error:
                failure = f"failed: {type(error).__name__}: {str(error)[-500:]}"
                print(f"{row.name:14} run {run + 1}  {failure}", file=sys.stderr, flush=True)
        return Measured(row, tuple(ours), tuple(theirs), failure.replace("\n", " "))

    def _yardstick(self, row: Row) -> Figures:
        assert row.load is not None
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            return yardstick_measured(folder, row.load)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _magnetar(self, row: Row) -> Figures:
        match row.kind:
            case Kind.BESIDE:
                return magnetar_rows.beside(self._cluster, row)
            case Kind.CATCH_UP:
                return magnetar_rows.catch_up(self._cluster, self._quick)
            case Kind.OWNER_KILLED:
                return magnetar_rows.owner_killed(self._cluster)
            case Kind.BOOKIE_KILLED:
                return magnetar_rows.bookie_killed(self._cluster)
            case Kind.STANDALONE:
                return magnetar_rows.standalone(self._folder)
            case Kind.FEATURE:
                return MEASURES[row.name](self._cluster, self._quick)

    def profile(self, row: Row) -> dict[str, Any]:
        """Run a row once to find the busiest process, and once more to sample it."""
        assert row.load is not None
        row = replace(row, load=replace(row.load, first=row.load.first * PROFILED_TIMES))
        pids = {name: child.pid for name, child in self._cluster.children.items() if child.alive}
        before = processor_times(pids)
        magnetar_rows.beside(self._cluster, row)
        used = {name: round(now - before[name], 2) for name, now in processor_times(pids).items()}
        busiest = max(used, key=lambda name: used[name])
        recording = Recording(pids[busiest], self._folder / "stacks.txt")
        recording.start()
        try:
            magnetar_rows.beside(self._cluster, row)
        finally:
            functions = recording.stop()
        return {"row": row.name, "processor_s": used, "busiest": busiest, "functions": functions}


def _run(arguments: argparse.Namespace, folder: Path, metadata_url: str) -> list[Measured]:
    wanted = [row for row in ROWS if not arguments.rows or row.name in arguments.rows]
    rows = [row.quicker() for row in wanted] if arguments.quick else wanted
    more: dict[str, Any] = {"metadata": "ZooKeeper" if metadata_url else "magnetar metadata"}
    with ProcessCluster(folder / "cluster", metadata_url=metadata_url) as cluster:
        bench = Bench(folder, cluster, arguments)
        measured = []
        for row in rows:
            measured.append(bench.measure(row))
            report.write(RESULTS, arguments.name, measured, more)
        if arguments.profile:
            profiled = next((row for row in wanted if row.kind is Kind.BESIDE), ROWS[0])
            more["profile"] = bench.profile(profiled)
            print("\n".join([str(more["profile"]["processor_s"]), *more["profile"]["functions"]]))
            report.write(RESULTS, arguments.name, measured, more)
    return measured


def main() -> int:
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="magnetar-bench-"))
    zookeeper = None
    try:
        url = ""
        if not arguments.served:
            if missing := missing_for_zookeeper():
                print(f"bench: missing {', '.join(missing)}; or use --served", file=sys.stderr)
                return 1
            zookeeper = ZooKeeperServer(folder / "zookeeper")
            zookeeper.start()
            url = f"zk://{zookeeper.address}/bench"
        measured = _run(arguments, folder, url)
    finally:
        if zookeeper is not None:
            zookeeper.kill()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{(RESULTS / f'{arguments.name}.md').read_text()}")
    return 1 if any(one.failure for one in measured) else 0


if __name__ == "__main__":
    sys.exit(main())
