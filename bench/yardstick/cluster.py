"""The yardstick's processes, and one measurement with them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from bench.children import answer
from bench.percentiles import Figures
from demo.cluster import tree_environment
from demo.ports import free_port
from demo.processes import Child, start

BOOKIES: Final = 3


@dataclass(frozen=True, slots=True)
class Load:
    """What the producer does: `saturate` takes a count and a size in bytes, `paced` a rate a
    second and a length in seconds (of 1 KB messages)."""

    kind: Literal["saturate", "paced"]
    first: int
    second: int
    consume: bool = True

    @property
    def messages(self) -> int:
        return self.first if self.kind == "saturate" else self.first * self.second


LOADS: Final = {
    "1 KB": Load("saturate", 300_000, 1024),
    "100 B": Load("saturate", 2_000_000, 100),
    "100 KB, publish only": Load("saturate", 8_000, 102_400, consume=False),
    "1 KB at 1,000/s": Load("paced", 1_000, 10),
    "1 KB at 20,000/s": Load("paced", 20_000, 10),
}


class YardstickCluster:
    """Three bookies and a broker; stopped by process id."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._children: list[Child] = []

    def _start(self, name: str, role: str, port: int, argument: str) -> Child:
        command = [sys.executable, "-m", "bench.yardstick", "--role", role, str(port), argument]
        child = start(name, command, self._directory / f"{name}.log", tree_environment())
        self._children.append(child)
        return child

    def start(self) -> None:
        """Start all and wait until they are ready; raises ProcessFailed."""
        try:
            ports = [free_port() for _ in range(BOOKIES)]
            for number, port in enumerate(ports):
                data = str(self._directory / f"yardstick-{number}")
                self._start(f"yardstick-bookie-{number}", "bookie", port, data)
            for child in self._children:
                child.wait_until_ready("ready")
            listed = ",".join(map(str, ports))
            broker = self._start("yardstick-broker", "broker", self._port, listed)
            broker.wait_until_ready("ready")
        except BaseException:
            self.stop()
            raise

    def consumer(self, count: int) -> Child:
        """A process that takes `count` messages from now on, ready when this returns."""
        child = self._start("yardstick-consumer", "drink", self._port, str(count))
        child.wait_until_ready("ready")
        return child

    def producer(self, load: Load) -> Child:
        argument = f"{load.kind},{load.first},{load.second}"
        return self._start("yardstick-producer", "load", self._port, argument)

    def stop(self) -> None:
        for child in self._children:
            child.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def measured(directory: Path, load: Load) -> Figures:
    """A cluster of its own, one load, and what it showed; raises ProcessFailed."""
    with YardstickCluster(directory) as cluster:
        consumer = cluster.consumer(load.messages) if load.consume else None
        return answer(cluster.producer(load), consumer, load.messages)
