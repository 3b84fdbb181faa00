"""The rows that are measured, and what each is to reach."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from bench.yardstick.cluster import Load


class Kind(Enum):
    """How a row is measured."""

    BESIDE = "beside"
    """The same load on the yardstick and on Magnetar."""
    CATCH_UP = "catch-up"
    OWNER_KILLED = "owner-killed"
    BOOKIE_KILLED = "bookie-killed"
    STANDALONE = "standalone"
    FEATURE = "feature"
    """By `bench.feature_rows.MEASURES`, under the row's name."""


@dataclass(frozen=True, slots=True)
class Target:
    """`figure` is to be at least `least` or at most `most`; of the yardstick's where `ratio`."""

    figure: str
    least: float | None = None
    most: float | None = None
    ratio: bool = False

    def met(self, value: float) -> bool:
        if self.least is not None and value < self.least:
            return False
        return self.most is None or value <= self.most

    @property
    def bound(self) -> str:
        sign, value = ("≥", self.least) if self.least is not None else ("≤", self.most)
        return f"{sign} {value:,g} × yardstick" if self.ratio else f"{sign} {value:,g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report."""

    name: str
    title: str
    kind: Kind
    targets: tuple[Target, ...]
    load: Load | None = None
    call: str = "send_many"
    runs: int | None = None
    """So many, whatever is asked for: the row repeats by itself, or takes long."""

    def quicker(self) -> Row:
        """The same with a quarter of the messages, for a first look."""
        if self.load is None:
            return self
        if self.load.kind == "saturate":
            return replace(self, load=replace(self.load, first=self.load.first // 4))
        return replace(self, load=replace(self.load, second=max(3, self.load.second // 3)))


LATENCY: Final = (
    Target("p50_ms", most=1.5, ratio=True),
    Target("p99_ms", most=1.5, ratio=True),
)

ROWS: Final = (
    Row(
        "1kb", "1 KB with `send_many`, one topic, published and consumed", Kind.BESIDE,
        (Target("through_per_s", least=0.6, ratio=True),),
        Load("saturate", 300_000, 1024),
    ),
    Row(
        "1kb-send", "1 KB with `send`, one topic, published and consumed", Kind.BESIDE,
        (Target("through_per_s", least=0.6, ratio=True),),
        Load("saturate", 300_000, 1024), call="send",
    ),
    Row(
        "100b", "100 B with `send_many`, published and consumed", Kind.BESIDE,
        (Target("through_per_s", least=0.5, ratio=True),),
        Load("saturate", 2_000_000, 100),
    ),
    Row(
        "100b-send", "100 B with `send`, published and consumed", Kind.BESIDE,
        (Target("through_per_s", least=100_000),),
        Load("saturate", 1_000_000, 100), call="send",
    ),
    Row(
        "100kb", "100 KB, publish only", Kind.BESIDE,
        (Target("through_per_s", least=0.8, ratio=True),),
        Load("saturate", 8_000, 102_400, consume=False),
    ),
    Row(
        "latency-1k", "1 KB at 1,000/s, publish latency", Kind.BESIDE, LATENCY,
        Load("paced", 1_000, 10),
    ),
    Row(
        "latency-20k", "1 KB at 20,000/s, publish latency", Kind.BESIDE, LATENCY,
        Load("paced", 20_000, 10),
    ),
    Row(
        "catch-up", "catch-up reads of 1 KB while publishing 10,000/s", Kind.CATCH_UP,
        (Target("read_per_s", least=60_000),),
    ),
    Row(
        "owner-killed", "owner broker killed, until the next acknowledged publish",
        Kind.OWNER_KILLED, (Target("silence_s", most=3),),
    ),
    Row(
        "bookie-killed", "bookie killed, added publish latency at 1,000/s", Kind.BOOKIE_KILLED,
        (Target("added_ms", most=500), Target("errors", most=0)),
    ),
    Row(
        "standalone", "`magnetar standalone`, from its start", Kind.STANDALONE,
        (Target("first_durable_s", most=2), Target("resident_mb", most=200)),
    ),
    Row(
        "backlog", "10 million of 100 B of backlog on one topic", Kind.FEATURE,
        (
            Target("p50_ratio", most=1.2), Target("grown_mb", most=20),
            Target("drained_per_s", least=200_000),
        ),
        runs=1,
    ),
    Row(
        "holes", "10 million, every second one acknowledged, owner killed", Kind.FEATURE,
        (Target("lost", most=0), Target("acknowledged_again", most=0)),
        runs=1,
    ),
    Row(
        "filters", "a tenth of each batch of 1 KB wanted, by codec", Kind.FEATURE, (), runs=1,
    ),
    Row(
        "group-changes", "1 of 20 shared consumers joins and leaves at 4,000/s", Kind.FEATURE,
        (Target("changing_gap_ms", most=1_000),),
    ),
    Row(
        "keyed-group-changes", "1 of 20 key_shared consumers joins and leaves at 1,000/s",
        Kind.FEATURE, (Target("changing_gap_ms", most=1_000),),
    ),
    Row(
        "scaling-up", "three join one key_shared consumer, until the rate is twice as high",
        Kind.FEATURE, (Target("rise_s", most=2), Target("disorder", most=0)),
    ),
    Row(
        "global-order", "four producers: one topic in one order beside one of four partitions",
        Kind.FEATURE, (), runs=1,
    ),
    Row(
        "slow-consumers", "publish p99 at 1,000/s beside five slow consumers", Kind.FEATURE,
        (Target("p99_ratio", most=1.2),), runs=1,
    ),
    Row(
        "many-clients", "1,000 producers and 1,000 consumers of one broker, over 1,000 topics",
        Kind.FEATURE, (), runs=1,
    ),
    Row(
        "peak-shaving", "200,000 of 100 B at once, consumed at 500/s", Kind.FEATURE,
        (Target("grown_mb", most=50), Target("out_of_turn", most=0)), runs=1,
    ),
    Row(
        "soak", "an hour of random kills of bookies and brokers at 200/s", Kind.FEATURE,
        (
            Target("lost", most=0), Target("repeated", most=0), Target("out_of_order", most=0),
            Target("errors", most=0),
        ),
        runs=1,
    ),
    Row(
        "scheduled", "10 million of 100 B scheduled over 30 minutes, 10,000 in one second",
        Kind.FEATURE,
        (
            Target("owner_mb", most=300), Target("late_p99_ms", most=100),
            Target("early", most=0), Target("repeated", most=0), Target("missing", most=0),
        ),
        runs=1,
    ),
    Row(
        "scheduled-killed", "10 million scheduled at 5,000/s, owner and a bookie killed meanwhile",
        Kind.FEATURE,
        (
            Target("missing", most=0), Target("repeated", most=0), Target("early", most=0),
            Target("out_of_order", most=0), Target("brokers_mb", most=300),
        ),
        runs=1,
    ),
    Row(
        "overdue", "a million overdue after all brokers were stopped", Kind.FEATURE,
        (
            Target("overdue_per_s", least=20_000), Target("early", most=0),
            Target("repeated", most=0), Target("missing", most=0),
        ),
        runs=1,
    ),
)  # fmt: skip
