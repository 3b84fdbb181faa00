"""Which world a seed runs in."""

from __future__ import annotations

from tests.sim.cluster_world import ClusterWorld
from tests.sim.config import draw
from tests.sim.log_world import LogWorld
from tests.sim.world import World


def build(seed: int, workload: str | None = None, keep_trace: bool = False) -> World:
    """The world of a seed; without a workload the seed chooses."""
    chosen = workload or ("log" if seed % 3 == 0 else "cluster")
    config = draw(seed, chosen)
    if chosen == "log":
        return LogWorld(config, keep_trace)
    return ClusterWorld(config, keep_trace)


def load() -> None:
    """Importing this module is what loads everything."""
