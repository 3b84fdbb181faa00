"""`python -m demo`: a cluster of processes, all flights through it, two kills, a comparison.

The exit status is 0 only when the last line says that nothing was lost, duplicated or out of
order. LOSE=1 drops one row before comparing, to see that the comparison notices.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from demo import flights as table
from demo.cluster import ProcessCluster
from demo.flights import Flight
from demo.processes import ProcessFailed
from demo.report import judge, last_line, show, write
from demo.stream import PlannedKill, Stream
from magnetar import __version__
from magnetar.errors import MagnetarError

TOPIC = "persistent://public/default/flights"
RETENTION_MINUTES = 24 * 60
"""What the live subscription has consumed must still be there to be read back."""
PROGRESS_INTERVAL_S = 0.1
RUN_LIMIT_S = 900.0
INSIST_AFTER_S = 10.0
EXPECTED = (table.DataUnavailable, ProcessFailed, MagnetarError)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--flights", type=int, default=table.FLIGHTS, help="only the first so many")
    parser.add_argument("--producers", type=int, default=2)
    parser.add_argument(
        "--kill-bookie-at", type=float, default=0.3, metavar="FRACTION",
        help="of the flights acknowledged; above 1 is never",
    )  # fmt: skip
    parser.add_argument("--kill-broker-at", type=float, default=0.6, metavar="FRACTION")
    parser.add_argument("--report", type=Path, default=table.CACHE / "demo.json")
    parser.add_argument("--keep", action="store_true", help="keep the data and the logs")
    return parser.parse_args()


def _planned(
    arguments: argparse.Namespace, cluster: ProcessCluster, owner: str, count: int
) -> list[PlannedKill]:
    victim = cluster.bookie_names[-1]
    return [
        PlannedKill(max(1, int(count * fraction)), role, name, cluster.kill)
        for role, name, fraction in (
            ("bookie", victim, arguments.kill_bookie_at),
            ("owner broker", owner, arguments.kill_broker_at),
        )
        if fraction <= 1
    ]


async def _follow(stream: Stream, progress: Progress, total: int) -> None:
    bars = [
        progress.add_task(name, total=total) for name in ("published", "consumed live", "read back")
    ]
    told = 0
    while True:
        progress.update(bars[0], completed=stream.counts.acknowledged)
        progress.update(bars[1], completed=stream.live.rows_seen)
        progress.update(bars[2], completed=stream.log.rows_seen)
        for kill in stream.counts.kills[told:]:
            progress.console.print(
                f"[red]killed[/] {kill.role} {kill.name} (pid {kill.pid}) with {kill.at_flight:,} "
                f"flights durable"
            )
        told = len(stream.counts.kills)
        await asyncio.sleep(PROGRESS_INTERVAL_S)


async def _run(
    arguments: argparse.Namespace, cluster: ProcessCluster, flights: Sequence[Flight],
    console: Console,
) -> Stream:
    stream = Stream(cluster.service_url, TOPIC, flights, arguments.producers)
    kills = _planned(arguments, cluster, await cluster.owner_of(TOPIC), len(flights))
    columns = (
        TextColumn("{task.description:14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )
    with Progress(*columns, console=console) as progress:
        following = asyncio.create_task(_follow(stream, progress, len(flights)))
        try:
            await stream.run(kills)
            await stream.read_back()
            await asyncio.sleep(2 * PROGRESS_INTERVAL_S)
        finally:
            following.cancel()
    return stream


def _demonstrate(arguments: argparse.Namespace, console: Console, folder: Path) -> bool:
    console.print("reading the flights that left New York in 2013 …")
    flights = table.load(table.archive())[: arguments.flights]
    # The table stays as it is: collections that walk it would only stall the clients.
    gc.freeze()
    cluster = ProcessCluster(
        folder, policies={"retention_minutes": str(RETENTION_MINUTES), "retention_bytes": "-1"}
    )
    began_s = time.perf_counter()
    with cluster:
        for name, child in cluster.children.items():
            console.print(f"  {name:10} pid {child.pid}, port {cluster.ports[name]}")
        console.print(f"ready in {time.perf_counter() - began_s:.1f} s; publishing "
                      f"{len(flights):,} flights, keyed by tail number")
        stream = asyncio.run(_run(arguments, cluster, flights, console))
    if os.environ.get("LOSE") == "1":
        console.print("[yellow]LOSE=1: one row is dropped before comparing")
        stream.log.forget(len(flights) // 2)
    log, live = stream.log.verdict(), stream.live.verdict()
    show(console, stream.counts, log, live)
    versions = f"magnetar {__version__}, Python {platform.python_version()}"
    write(arguments.report, stream.counts, log, live, versions)
    verdict = judge(log, live)
    console.print(f"report: {arguments.report}", highlight=False)
    print(last_line(verdict), flush=True)
    return verdict.clean


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """As Ctrl-C; and again a little later, should the first not be enough."""
    signal.setitimer(signal.ITIMER_REAL, INSIST_AFTER_S, INSIST_AFTER_S)
    signal.raise_signal(signal.SIGINT)


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _complain(error: Exception) -> None:
    print(f"demo: {type(error).__name__}: {error}", file=sys.stderr)


def main() -> int:
    arguments = _arguments()
    console = Console(stderr=False)
    # A plain `kill` ends everything just as Ctrl-C does, and so does a run that never ends.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, RUN_LIMIT_S)
    folder = Path(tempfile.mkdtemp(prefix="magnetar-demo-"))
    try:
        return 0 if _demonstrate(arguments, console, folder) else 1
    except KeyboardInterrupt:
        console.print("interrupted; every process started here has ended")
        return 130
    except EXPECTED as failure:
        _complain(failure)
    except ExceptionGroup as group:
        expected, unexpected = group.split(EXPECTED)
        if unexpected is not None:
            raise
        assert expected is not None
        for error in _leaves(expected):
            _complain(error)
    finally:
        if arguments.keep:
            console.print(f"kept: {folder}", highlight=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
