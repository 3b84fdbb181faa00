"""Which world a seed runs in."""

from __future__ import annotations

from tests.sim.config import draw
from tests.sim.world import World


def build(seed: int, workload: str | None = None, keep_trace: bool = False) -> World:
    """The world of a seed; without a workload the seed chooses."""
    chosen = workload or ("log" if seed % 4 == 0 else "cluster")
    config = draw(seed, chosen)
    if chosen == "log":
        from tests.sim.log_world import LogWorld

        return LogWorld(config, keep_trace)
    from tests.sim.cluster_world import ClusterWorld

    return ClusterWorld(config, keep_trace)
