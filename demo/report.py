"""What a run shows: a small table, a JSON file and the last line."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from demo.comparison import Verdict
from demo.stream import Counts

PASSAGE_COLUMNS = (
    "", "flights", "time", "a second", "redelivered", "lost", "twice", "disorder",
)  # fmt: skip


def judge(log: Verdict, live: Verdict) -> Verdict:
    """The log's verdict, in which a row that never reached the live consumer is lost as well.

    What came to the live consumer again after a failover is a redelivery, not a duplicate; the
    first sighting of each row must be in order there too.
    """
    return Verdict(
        expected=log.expected,
        seen=min(log.seen, live.seen),
        lost=max(log.lost, live.lost),
        duplicated=log.duplicated,
        out_of_order=log.out_of_order + live.out_of_order,
        foreign=log.foreign + live.foreign,
        lost_rows=log.lost_rows or live.lost_rows,
    )


def last_line(verdict: Verdict) -> str:
    return (
        f"lost {verdict.lost}, duplicated {verdict.duplicated}, "
        f"out of order {verdict.out_of_order}"
    )


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:,.0f}" if seconds > 0 else "-"


def show(console: Console, counts: Counts, log: Verdict, live: Verdict) -> None:
    """Two small tables: the kills, and the three passages of the flights."""
    if counts.kills:
        kills = Table(box=SIMPLE_HEAD)
        for column in ("killed", "pid", "at", "durable by then", "longest silence"):
            kills.add_column(column, justify="left" if column == "killed" else "right")
        for kill in counts.kills:
            kills.add_row(
                f"{kill.role} {kill.name}", str(kill.pid), f"{kill.at_s:.1f} s",
                f"{kill.at_flight:,}", f"{kill.silence_s * 1000:,.0f} ms",
            )  # fmt: skip
        console.print(kills)
    passages = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in PASSAGE_COLUMNS:
        passages.add_column(column, justify="right" if column else "left", no_wrap=True)
    passages.add_row(
        "published", f"{counts.acknowledged:,}", f"{counts.publish_s:.1f} s",
        _rate(counts.acknowledged, counts.publish_s), "", "", "", "",
    )  # fmt: skip
    passages.add_row(
        "live", f"{live.seen:,}", f"{counts.live_s:.1f} s",
        _rate(live.seen, counts.live_s), f"{live.duplicated:,}", f"{live.lost:,}", "",
        f"{live.out_of_order:,}",
    )  # fmt: skip
    passages.add_row(
        "read back", f"{log.seen:,}", f"{counts.read_s:.1f} s", _rate(log.seen, counts.read_s), "",
        f"{log.lost:,}", f"{log.duplicated:,}", f"{log.out_of_order:,}",
    )  # fmt: skip
    console.print(passages)
    if log.foreign or live.foreign:
        console.print(f"[red]not rows of the file: {log.foreign + live.foreign}")
    if log.lost_rows:
        console.print(f"[red]lost rows, the first: {', '.join(map(str, log.lost_rows))}")


def write(file: Path, counts: Counts, log: Verdict, live: Verdict, versions: str) -> None:
    """The same as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "result": asdict(judge(log, live)),
        "clean": judge(log, live).clean,
        "published": {"flights": counts.acknowledged, "seconds": round(counts.publish_s, 3)},
        "live": {
            **asdict(live), "redelivered": live.duplicated, "seconds": round(counts.live_s, 3),
        },
        "read_back": {**asdict(log), "seconds": round(counts.read_s, 3)},
        "kills": [asdict(kill) for kill in counts.kills],
    }  # fmt: skip
    file.write_text(json.dumps(report, indent=2) + "\n")
