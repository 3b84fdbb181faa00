"""Three real ZooKeeper servers on loopback, any one of which may die."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Final

from demo.ports import LOOPBACK, free_port
from demo.processes import Child, ProcessFailed, start, stop
from tests.zookeeper_server import JARS

SERVERS: Final = 3
TICK_MS: Final = 500
START_LIMIT_S: Final = 60.0


class ZooKeeperEnsemble:
    """Server processes by name: `zookeeper-1` to `zookeeper-3`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._client_ports = [free_port() for _ in range(SERVERS)]
        self._peer_ports = [(free_port(), free_port()) for _ in range(SERVERS)]
        self.children: dict[str, Child] = {}
        self._started: list[Child] = []

    @property
    def hosts(self) -> str:
        return ",".join(f"{LOOPBACK}:{port}" for port in self._client_ports)

    def start(self) -> None:
        """Start all and wait until they have a leader; raises ProcessFailed."""
        try:
            for number in range(SERVERS):
                self._start(number)
            self._await(range(SERVERS))
        except BaseException:
            self.stop()
            raise

    def _start(self, number: int) -> None:
        folder = self._directory / f"zookeeper-{number + 1}"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "data/myid").write_text(f"{number + 1}\n")
        peers = "".join(
            f"server.{peer + 1}={LOOPBACK}:{ports[0]}:{ports[1]}\n"
            for peer, ports in enumerate(self._peer_ports)
        )
        configuration = folder / "zoo.cfg"
        configuration.write_text(
            f"tickTime={TICK_MS}\ninitLimit=20\nsyncLimit=4\ndataDir={folder / 'data'}\n"
            f"clientPort={self._client_ports[number]}\nclientPortAddress={LOOPBACK}\n"
            f"admin.enableServer=false\n4lw.commands.whitelist=srvr\nmaxClientCnxns=0\n{peers}"
        )
        command = [
            "java", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Dzookeeper.forceSync=no", "-cp", f"{folder}:{JARS / 'zookeeper.jar'}",
            "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(configuration),
        ]  # fmt: skip
        name = f"zookeeper-{number + 1}"
        self.children[name] = start(name, command, folder / "log")
        self._started.append(self.children[name])

    def mode(self, name: str) -> str:
        """`leader`, `follower`, or nothing while it does not serve."""
        port = self._client_ports[int(name.rpartition("-")[2]) - 1]
        try:
            with socket.create_connection((LOOPBACK, port), timeout=1) as link:
                link.sendall(b"srvr")
                answer = link.makefile().read()
        except OSError:
            return ""
        modes = [line.removeprefix("Mode: ") for line in answer.splitlines() if "Mode: " in line]
        return modes[0] if modes else ""

    def named(self, mode: str) -> str:
        """Name of a server in that mode; raises StopIteration when none is."""
        return next(name for name in self.children if self.mode(name) == mode)

    def _await(self, numbers: range) -> None:
        deadline_s = time.monotonic() + START_LIMIT_S
        for number in numbers:
            child = self.children[f"zookeeper-{number + 1}"]
            while not self.mode(child.name):
                if time.monotonic() > deadline_s or not child.alive:
                    raise ProcessFailed(f"{child.name} does not serve: {child.log_end()}")
                time.sleep(0.05)

    def kill(self, name: str) -> None:
        self.children[name].kill()

    def restart(self, name: str) -> None:
        """Start a killed server again on its data and port."""
        number = int(name.rpartition("-")[2]) - 1
        self._start(number)
        self._await(range(number, number + 1))

    def stop(self) -> None:
        stop(self._started, limit_s=0)
