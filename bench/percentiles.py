"""Latency percentiles, and what a measurement answers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

Figures = dict[str, float]
"""Names with their unit last, such as `p50_ms`."""

PERCENTILES = (50.0, 99.0, 99.9)


def latencies_ms(latencies_s: Sequence[float]) -> Figures:
    """`p50_ms`, `p99_ms`, `p99.9_ms` and `max_ms` of latencies in seconds; raises on none."""
    if not latencies_s:
        raise ValueError("no latency was measured")
    ordered = sorted(latencies_s)
    last = len(ordered) - 1
    figures = {
        f"p{percent:g}_ms": round(ordered[min(last, int(len(ordered) * percent / 100))] * 1e3, 2)
        for percent in PERCENTILES
    }
    figures["max_ms"] = round(ordered[-1] * 1e3, 2)
    return figures


def medians(runs: Sequence[Figures]) -> Figures:
    """Each figure's median over the runs that have it."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: median(run[name] for run in runs if name in run) for name in names}
