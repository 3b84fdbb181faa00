"""A cluster of real processes on loopback: metadata, bookies and brokers.

For the demonstration, the benchmarks and the chaos tests. Metadata comes from `magnetar
metadata`, or from a ZooKeeper that the caller runs. Everything started is ended by `stop`,
by process id.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from demo.owner import owner_address
from demo.ports import LOOPBACK, free_port
from demo.processes import Child, ProcessFailed, start, stop

ROOT: Final = Path(__file__).resolve().parent.parent
INITIALIZE_LIMIT_S: Final = 30.0
READY: Final = " ready on "


def magnetar(*arguments: str) -> list[str]:
    """The command line of `magnetar ARGUMENTS` with this interpreter."""
    return [sys.executable, "-m", "magnetar", *arguments]


def tree_environment() -> dict[str, str]:
    """Lets a child import this tree whether or not it is installed."""
    paths = [str(ROOT), str(ROOT / "client"), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


class ProcessCluster:
    """`bookies` storage nodes and `brokers` brokers under `directory`, one process each."""

    def __init__(
        self,
        directory: Path,
        *,
        bookies: int = 3,
        brokers: int = 2,
        metadata_url: str = "",
        policies: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        bookie_options: Sequence[str] = (),
        broker_options: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.metadata_url = metadata_url
        self.children: dict[str, Child] = {}
        self._started: list[Child] = []
        self._policies = dict(policies or {})
        self._environment = {**tree_environment(), **(environment or {})}
        self._options = {"bookie": list(bookie_options), "broker": list(broker_options)}
        self._commands: dict[str, list[str]] = {}
        self.ports: dict[str, int] = {}
        self.admin_ports: dict[str, int] = {}
        self._bookies = [f"bookie-{number + 1}" for number in range(bookies)]
        self._brokers = [f"broker-{number + 1}" for number in range(brokers)]

    @property
    def bookie_names(self) -> tuple[str, ...]:
        return tuple(self._bookies)

    @property
    def broker_names(self) -> tuple[str, ...]:
        return tuple(self._brokers)

    @property
    def broker_addresses(self) -> tuple[str, ...]:
        return tuple(f"{LOOPBACK}:{self.ports[name]}" for name in self._brokers)

    @property
    def service_url(self) -> str:
        """All brokers, for a client."""
        return f"magnetar://{','.join(self.broker_addresses)}"

    async def owner_of(self, topic: str) -> str:
        """Name of the broker that serves the topic; raises MagnetarError."""
        return self.broker_at(await owner_address(self.broker_addresses, topic))

    def broker_at(self, address: str) -> str:
        """Name of the broker with the advertised `host:port`; raises KeyError."""
        for name in self._brokers:
            if address == f"{LOOPBACK}:{self.ports[name]}":
                return name
        raise KeyError(f"no broker of this cluster at {address}")

    def start(self) -> None:
        """Start everything and wait until each part is ready; raises ProcessFailed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            if not self.metadata_url:
                self._start_metadata()
            self._initialize()
            for name in self._bookies:
                self._start_node("bookie", name, "--data", str(self.directory / name))
            self._await(self._bookies)
            for name in self._brokers:
                self._start_node("broker", name)
            self._await(self._brokers)
        except BaseException:
            self.stop()
            raise

    def _start_metadata(self) -> None:
        port = self.ports["metadata"] = free_port()
        self.metadata_url = f"served://{LOOPBACK}:{port}"
        data = str(self.directory / "metadata")
        self._launch("metadata", magnetar("metadata", "--data", data, "--port", str(port)))
        self._await(["metadata"])

    def _initialize(self) -> None:
        command = magnetar("cluster", "init", "--metadata", self.metadata_url)
        for name, value in self._policies.items():
            command += ["--policy", f"{name}={value}"]
        done = subprocess.run(
            command, env={**os.environ, **self._environment}, capture_output=True, text=True,
            timeout=INITIALIZE_LIMIT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ProcessFailed(f"magnetar cluster init: {done.stdout}{done.stderr}")

    def _start_node(self, kind: str, name: str, *more: str) -> None:
        port, admin_port = free_port(), free_port()
        self.ports[name], self.admin_ports[name] = port, admin_port
        command = magnetar(
            kind, "--metadata", self.metadata_url, "--port", str(port),
            "--admin-port", str(admin_port), "--id", name, *more, *self._options[kind],
        )  # fmt: skip
        self._launch(name, command)

    def _launch(self, name: str, command: Sequence[str]) -> None:
        log = self.directory / f"{name}.log"
        log.write_bytes(b"")
        self._commands[name] = list(command)
        child = start(name, command, log, self._environment)
        self.children[name] = child
        self._started.append(child)

    def _await(self, names: Sequence[str]) -> None:
        for name in names:
            self.children[name].wait_until_ready(READY)

    def kill(self, name: str) -> int:
        """SIGKILL one process and return its id."""
        child = self.children[name]
        child.kill()
        return child.pid

    def restart(self, name: str) -> None:
        """Start a killed process again with its old data, ports and name."""
        self._launch(name, self._commands[name])
        self._await([name])

    def stop(self) -> None:
        """End every process this cluster ever started: brokers first, metadata last."""
        rank = {**dict.fromkeys(self._brokers, 0), **dict.fromkeys(self._bookies, 1)}
        for wanted in (0, 1, 2):
            stop(child for child in self._started if rank.get(child.name, 2) == wanted)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
