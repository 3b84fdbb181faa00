"""The report: ratios first, absolute figures second, the machine last."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.percentiles import Figures, medians
from bench.rows import Row, Target

PACKAGES = ("grpcio", "protobuf", "uvloop", "rocksdict", "crc32c", "kazoo")


@dataclass(frozen=True, slots=True)
class Measured:
    """The runs of one row; `yardstick` is empty where there is none to compare with."""

    row: Row
    magnetar: tuple[Figures, ...]
    yardstick: tuple[Figures, ...] = ()
    failure: str = ""

    def value(self, target: Target) -> float | None:
        """What is held against the target: a ratio of medians, or a median."""
        ours = medians(self.magnetar).get(target.figure)
        if not target.ratio or ours is None:
            return ours
        theirs = medians(self.yardstick).get(target.figure)
        return round(ours / theirs, 2) if theirs else None

    def verdict(self, target: Target) -> str:
        value = self.value(target)
        if value is None:
            return "not measured"
        return "yes" if target.met(value) else "no"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return {
        "measured": datetime.now(UTC).isoformat(timespec="minutes"),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": versions,
        "quorums": "ensemble 3, write 3, ack 2; fdatasync before every acknowledgement",
        "batches": "128 KB at most, formed while others are under way",
    }


def as_json(measured: list[Measured], about: dict[str, Any], more: dict[str, Any]) -> str:
    rows = [
        {
            "row": one.row.name,
            "title": one.row.title,
            "targets": [
                {
                    "figure": target.figure, "bound": target.bound, "value": one.value(target),
                    "met": one.verdict(target),
                }
                for target in one.row.targets
            ],
            "call": one.row.call if one.row.load is not None else "send",
            "magnetar": medians(one.magnetar),
            "yardstick": medians(one.yardstick),
            "magnetar_runs": list(one.magnetar),
            "yardstick_runs": list(one.yardstick),
            "failure": one.failure,
        }
        for one in measured
    ]  # fmt: skip
    return json.dumps({"about": about, "rows": rows, **more}, indent=2) + "\n"


def _figures(figures: Figures) -> str:
    return ", ".join(f"{name} {value:,g}" for name, value in figures.items()) or "–"


def as_markdown(measured: list[Measured], about: dict[str, Any]) -> str:
    lines = [
        "# Measurements",
        "",
        "| what | figure | reached | to reach | met |",
        "|---|---|---:|---|---|",
    ]
    for one in measured:
        for target in one.row.targets:
            value = one.value(target)
            shown = "–" if value is None else f"{value:,g}{' ×' if target.ratio else ''}"
            lines.append(
                f"| {one.row.title} | {target.figure} | {shown} | {target.bound} |"
                f" {one.verdict(target)} |"
            )
    lines += ["", "Medians of all figures:", "", "| what | Magnetar | yardstick |", "|---|---|---|"]
    for one in measured:
        ours = one.failure or _figures(medians(one.magnetar))
        lines.append(f"| {one.row.title} | {ours} | {_figures(medians(one.yardstick))} |")
    lines.append("")
    for name, about_it in about.items():
        if isinstance(about_it, dict):
            about_it = ", ".join(f"{part} {text}" for part, text in about_it.items())
        lines.append(f"- {name}: {about_it}")
    return "\n".join(lines) + "\n"


def write(folder: Path, name: str, measured: list[Measured], more: dict[str, Any]) -> None:
    """`name`.json and `name`.md in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    (folder / f"{name}.json").write_text(as_json(measured, about, more))
    (folder / f"{name}.md").write_text(as_markdown(measured, about))
