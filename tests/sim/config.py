"""What one seed runs: a swarm of sizes, speeds, limits and faults, all drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from ledger.quorum import Quorums
from tests.sim.disk import DiskTimes
from tests.sim.network import LinkTimes
from tests.sim.store import StoreTimes

FAULT_KINDS = (
    "kill_bookie", "cut_bookie", "pause_bookie", "kill_broker", "pause_broker",
    "part_broker_bookie", "part_broker_store", "part_bookie_store", "isolate", "break_links",
    "slow_link", "slow_disk", "fail_sync", "fill_disk", "rot", "store_outage", "expire_broker",
    "cut_all_bookies", "part_client_broker", "two_bookies_down", "move_owner", "shared_store_delay",
    "zombie_owner", "slow_beside_dead", "takeover_and_strike", "stall_index",
    "forgotten_fence", "replace_and_takeover", "lost_ensemble_write", "failed_sync_then_cut",
    "stall_and_takeover", "rot_and_restart",
)
COMBINATIONS = (
    "zombie_owner", "slow_beside_dead", "slow_beside_dead", "takeover_and_strike",
    "forgotten_fence", "forgotten_fence", "forgotten_fence", "replace_and_takeover",
    "lost_ensemble_write", "lost_ensemble_write", "lost_ensemble_write", "failed_sync_then_cut",
    "stall_and_takeover", "rot_and_restart",
)
SCENARIO_SHARE = 0.65
REPLACING = ("slow_beside_dead", "replace_and_takeover", "lost_ensemble_write")
"""These teach something only where a bookie is left to replace another with."""
COPIES_MATTER = ("slow_beside_dead", "rot_and_restart")
"""Here the ack quorum is often the write quorum, so that one copy too few shows."""


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """Begins at `at_s` and is undone `lasts_s` later."""

    at_s: float
    kind: str
    lasts_s: float


@dataclass(frozen=True, slots=True)
class ClockMove:
    """At `at_s` the wall clock of a broker is so far ahead, or behind, from then on."""

    at_s: float
    broker: int
    skew_ms: int


@dataclass(slots=True)
class Config:
    """Everything a world needs to know."""

    seed: int
    workload: str
    bookie_count: int
    quorums: Quorums
    publish_target: int
    fault_phase_s: float
    faults: list[PlannedFault]
    links: LinkTimes = field(default_factory=LinkTimes)
    disks: DiskTimes = field(default_factory=DiskTimes)
    store: StoreTimes = field(default_factory=StoreTimes)
    max_ledger_entries: int = 1_000
    slow_bookie_bytes: int = 64 << 20
    add_timeout_s: float = 1.0
    burst: int = 4
    gap_s: float = 0.05
    batch_max: int = 3
    producer_count: int = 2
    keep_log: bool = True
    subscription_shared: bool = False
    acknowledge_share: float = 0.8
    log_file_bytes: int = 1 << 20
    bookie_cache_bytes: int = 1 << 20
    garbage_interval_s: float = 300.0
    checkpoint_entries: int = 2_000
    permits: int = 100
    spread: str = ""
    """"key_shared" or "failover" in place of what `subscription_shared` says."""
    key_count: int = 0
    negative_share: float = 0.0
    max_deliveries: int = 0
    """Above 0 some messages are poison, and go to the dead-letter topic after so many."""
    delayed_share: float = 0.0
    """Of the messages; above 0 operators cancel and move some of them, and clocks move."""
    schedule_memory_bytes: int = 1 << 20
    schedule_runs: int = 32
    clock_moves: list[ClockMove] = field(default_factory=list)


def draw(seed: int, workload: str) -> Config:
    """The configuration of a seed."""
    chance = random.Random(f"{seed}/config")
    phase_s = chance.uniform(4.0, 5.5)
    faults = _draw_faults(chance, phase_s)
    bookie_count = chance.choice((4, 4, 5) if faults[0].kind in REPLACING else (3, 3, 4, 4, 5))
    quorums = _draw_quorums(chance, bookie_count)
    if faults[0].kind in COPIES_MATTER and chance.random() < 0.6:
        quorums = chance.choice((Quorums(3, 2, 2), Quorums(2, 2, 2)))
    config = Config(
        seed, workload, bookie_count, quorums,
        publish_target=chance.randrange(310, 380),
        fault_phase_s=phase_s,
        faults=faults,
        max_ledger_entries=chance.choice((15, 40, 1_000)),
        slow_bookie_bytes=chance.choice((1_500, 64 << 20, 64 << 20)),
        add_timeout_s=chance.choice((0.4, 1.0, 3.0)),
        burst=chance.choice((1, 4, 12, 30)),
        batch_max=chance.choice((2, 4, 6)),
        producer_count=chance.choice((1, 2, 2)),
        keep_log=chance.random() < 0.6,
        subscription_shared=chance.random() < 0.5,
        acknowledge_share=chance.choice((0.0, 0.5, 0.9, 1.0)),
        bookie_cache_bytes=chance.choice((0, 2_000, 1 << 20)),
        checkpoint_entries=chance.choice((5, 30, 2_000)),
        permits=chance.choice((5, 50, 1_000)),
        garbage_interval_s=chance.choice((1.0, 300.0)),
        log_file_bytes=chance.choice((8_000, 30_000, 1 << 20)),
    )
    mean_batch = (1 + config.batch_max) / 2
    bursts = config.publish_target / (mean_batch * config.burst * config.producer_count)
    config.gap_s = phase_s / max(bursts, 1.0)
    config.store.loss_chance = chance.choice((0.0, 0.0, 0.05, 0.2))
    config.store.delay_max_s = chance.choice((0.002, 0.005, 0.05))
    config.links.delay_max_s = chance.choice((0.0006, 0.002, 0.01))
    config.links.slow_chance = chance.choice((0.0, 0.01, 0.05))
    config.disks.sync_max_s = chance.choice((0.0008, 0.004, 0.02))
    config.disks.slow_chance = chance.choice((0.0, 0.01, 0.1))
    if config.faults[0].kind in COMBINATIONS:
        config.store.loss_chance = 0.0
        config.store.delay_max_s = min(config.store.delay_max_s, 0.005)
        config.links.delay_max_s = min(config.links.delay_max_s, 0.002)
    _draw_spread(config)
    # Drawn apart, so that seeds keep what they drew before.
    dead = random.Random(f"{seed}/dead letters")
    config.max_deliveries = dead.choice((0, 0, 1, 3))
    _draw_schedule(config)
    return config


def _draw_spread(config: Config) -> None:
    """Its own chance: every seed keeps what was drawn for it before."""
    chance = random.Random(f"{config.seed}/spread")
    config.spread = chance.choice(("", "", "key_shared", "key_shared", "failover"))
    config.key_count = chance.choice((2, 5, 20)) if config.spread else 0
    config.negative_share = chance.choice((0.0, 0.1, 0.3)) if config.spread else 0.0


def _draw_schedule(config: Config) -> None:
    chance = random.Random(f"{config.seed}/schedule")
    if config.workload != "cluster" or chance.random() < 0.5:
        return
    config.delayed_share = chance.choice((0.3, 0.5, 0.8))
    config.schedule_memory_bytes = chance.choice((2_500, 5_000, 12_000))
    config.schedule_runs = chance.choice((1, 2, 4))
    config.clock_moves = [
        ClockMove(
            chance.uniform(0.0, config.fault_phase_s), chance.randrange(2),
            chance.randrange(-1_200, 1_200),
        )
        for _ in range(chance.choice((0, 2, 6)))
    ]


def _draw_quorums(chance: random.Random, bookie_count: int) -> Quorums:
    return chance.choice(
        (Quorums(3, 3, 2),) * 4 + (Quorums(3, 2, 2),) * 2
        + (Quorums(3, 2, 1), Quorums(2, 2, 2))
        + ((Quorums(4, 3, 2),) if bookie_count >= 4 else ())
        + ((Quorums(5, 3, 2),) if bookie_count >= 5 else ())
    )


def _draw_faults(chance: random.Random, phase_s: float) -> list[PlannedFault]:
    if chance.random() < SCENARIO_SHARE:
        return _draw_scenario(chance, phase_s)
    kinds = chance.sample(FAULT_KINDS, chance.randrange(2, 8))
    planned = [
        PlannedFault(
            chance.uniform(0.3, phase_s * 0.9),
            chance.choice(kinds),
            min(3.5, chance.expovariate(1.2) + 0.02),
        )
        for _ in range(chance.randrange(6, 12))
    ]
    return sorted(planned, key=lambda fault: fault.at_s)


def _draw_scenario(chance: random.Random, phase_s: float) -> list[PlannedFault]:
    """One combination of faults, again and again, with nothing else in its way."""
    kind = chance.choice(COMBINATIONS)
    count = chance.randrange(3, 5)
    slot_s = (phase_s - 0.8) / count
    return [
        PlannedFault(
            0.8 + slot_s * (number + chance.uniform(0.0, 0.2)), kind,
            slot_s * chance.uniform(0.75, 0.95),
        )
        for number in range(count)
    ]
