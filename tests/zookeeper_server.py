"""A real ZooKeeper for tests: Debian's, one process, on a free loopback port, in its own folder.

    with running_zookeeper(directory) as server:
        store = await ZooKeeperStore.connect(server.address, "/chroot")

The tick is 500 ms, so sessions of 1 s and more can be had. Needs `apt-get install zookeeper`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

JARS = Path("/usr/share/java")
TICK_MS = 500
START_PATIENCE_S = 30.0


def missing_for_zookeeper() -> list[str]:
    """What a machine lacks to run ZooKeeper."""
    missing = [] if shutil.which("java") else ["java"]
    jar = JARS / "zookeeper.jar"
    return missing if jar.exists() else [*missing, str(jar)]


class ZooKeeperServer:
    """One server process, to be killed, paused and started again on the same data and port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "ZooKeeper is not running"
        return self._process.pid

    def start(self) -> None:
        """Start, and return when it serves."""
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "zoo.cfg"
        configuration.write_text(
            f"tickTime={TICK_MS}\ndataDir={self.directory / 'data'}\nclientPort={self.port}\n"
            "clientPortAddress=127.0.0.1\nadmin.enableServer=false\nmaxClientCnxns=0\n"
            "4lw.commands.whitelist=ruok\n"
        )
        with (self.directory / "zookeeper.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                    "-Xshare:auto", "-Dzookeeper.forceSync=no", "-Dlog4j.rootLogger=WARN",
                    "-cp", f"{self.directory}:{JARS / 'zookeeper.jar'}",
                    "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(configuration),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline_s = time.monotonic() + START_PATIENCE_S
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                log_text = (self.directory / "zookeeper.log").read_text(errors="replace")
                raise RuntimeError(f"ZooKeeper did not start:\n{log_text[-3000:]}")
            time.sleep(0.05)

    def _serves(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"ruok")
                return probe.recv(4) == b"imok"
        except OSError:
            return False

    def pause(self) -> None:
        """Fall silent with all connections open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End at once, as a crash would; the data stays."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running_zookeeper(directory: Path) -> Iterator[ZooKeeperServer]:
    """A server for the length of a `with`; skips the test where ZooKeeper is not installed."""
    missing = missing_for_zookeeper()
    if missing:
        pytest.skip(f"needs `apt-get install zookeeper`; missing: {', '.join(missing)}")
    server = ZooKeeperServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    """One server for all tests of a run; each takes a chroot of its own. Tests that kill or
    pause it must leave it running."""
    with running_zookeeper(tmp_path_factory.mktemp("zookeeper")) as server:
        yield server
