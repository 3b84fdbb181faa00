"""A consumer in a process of its own that ends by SIGKILL, so it settles and gives back nothing.

Run as a program it is the consumer: it takes `--count` messages that are numbers, acknowledges
each but every `--spare`-th number, tells of it on its output, and then holds what it has.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.cluster import tree_environment
from demo.processes import Child, start
from magnetar import Client, ConsumerType, InitialPosition
from tests.features.cluster import FeatureCluster, eventually

TAKEN, DURABLE = "taken ", "all durable"
STARTED_S = 60.0


class ConsumerProcess:
    """What it told so far; readable after its end too."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def _lines(self) -> list[str]:
        """Whole ones: the last may still be being written, or never be finished."""
        return self._child.log.read_text().split("\n")[:-1]

    def taken(self) -> list[int]:
        """The numbers it was given, in order; none is acknowledged before it is told here."""
        return [
            int(line.removeprefix(TAKEN)) for line in self._lines() if line.startswith(TAKEN)]

    async def until_taken(self, count: int) -> None:
        """Until it has so many; raises TimeoutError, or AssertionError when it has ended."""
        await eventually(lambda: self._told(len(self.taken()) >= count), STARTED_S)

    async def until_durable(self, limit_s: float) -> None:
        """Until all it acknowledged is durable; raises as `until_taken`."""
        await eventually(lambda: self._told(DURABLE in self._lines()), limit_s)

    def _told(self, enough: bool) -> bool:
        assert enough or self._child.alive, f"the consumer ended: {self._child.log_end()}"
        return enough


@contextmanager
def consumer_process(
    cluster: FeatureCluster, topic: str, log: Path, count: int, spare: int = 0
) -> Iterator[ConsumerProcess]:
    """One of the shared subscription `s`, killed at the end of the block. `spare` 0: none is."""
    command = [
        sys.executable, "-m", __name__, cluster.service_url, topic,
        "--count", str(count), "--spare", str(spare),
    ]  # fmt: skip
    child = start("consumer", command, log, tree_environment())
    try:
        yield ConsumerProcess(child)
    finally:
        child.kill()


async def _consume(url: str, topic: str, count: int, spare: int) -> None:
    async with Client(url, operation_timeout_seconds=60) as client:
        consumer = await client.subscribe(
            topic, "s", consumer_type=ConsumerType.Shared,
            initial_position=InitialPosition.Earliest)
        acknowledged = []
        for _ in range(count):
            message = await consumer.receive()
            number = int(message.data)
            print(f"{TAKEN}{number}", flush=True)
            if not spare or number % spare:
                acknowledged.append(consumer.acknowledge(message))
        for one in acknowledged:
            await one
        print(DURABLE, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("topic")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--spare", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(_consume(options.url, options.topic, options.count, options.spare))
