"""`magnetar standalone` as people run it: a process, killed with SIGKILL, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.ports import free_port

LINES = 100_000
KILL_AT = 30_000
START_LIMIT_S = 30.0
RUN_LIMIT_S = 120.0
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1"}


class Standalone:
    """One data folder and the process that serves it, if any."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"magnetar://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "magnetar", "standalone", "--data", str(self.data),
             "--port", str(self.port), "--admin-port", "0"],
            stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )
        assert self.process.stderr is not None
        deadline = threading.Timer(START_LIMIT_S, self.process.kill)
        deadline.start()
        try:
            for line in self.process.stderr:
                if "ready on" in line:
                    return
        finally:
            deadline.cancel()
        raise AssertionError(f"standalone ended with {self.process.wait()} before it was ready")

    def kill(self, with_signal: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(with_signal)
        status = self.process.wait(START_LIMIT_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.process = None
        return status

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "magnetar", *arguments, "--url", self.url]

    def consume(self, subscription: str, count: int) -> list[bytes]:
        done = subprocess.run(
            self.command("consume", "t", "-s", subscription, "-n", str(count)),
            capture_output=True, check=True, timeout=RUN_LIMIT_S, env=ENVIRONMENT,
        )
        return done.stdout.splitlines()


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator[Standalone]:
    one = Standalone(tmp_path / "data")
    yield one
    if one.process is not None:
        one.kill()


def test_every_acknowledged_line_once_and_in_order_through_kills(standalone: Standalone) -> None:
    """Killed while lines are published, and again afterwards, on the same data."""
    standalone.start()
    publishing = subprocess.Popen(
        standalone.command("produce", "t", "-f", "-"), stdin=subprocess.PIPE,
        stderr=subprocess.PIPE, env=ENVIRONMENT,
    )
    assert publishing.stdin is not None and publishing.stderr is not None
    lines = [b"%d" % number for number in range(1, LINES + 1)]
    publishing.stdin.write(b"\n".join(lines[:KILL_AT]) + b"\n")
    publishing.stdin.flush()
    read_before_the_kill = standalone.consume("before", KILL_AT // 2)
    standalone.kill()
    standalone.start()
    publishing.stdin.write(b"\n".join(lines[KILL_AT:]) + b"\n")
    publishing.stdin.close()
    told = publishing.stderr.read()
    publishing.stderr.close()
    assert publishing.wait(RUN_LIMIT_S) == 0, told

    standalone.kill()
    standalone.start()

    assert told.decode().splitlines()[-1] == f"{LINES} messages are durable"
    assert read_before_the_kill == lines[: KILL_AT // 2]
    assert standalone.consume("s", LINES) == lines
    assert standalone.kill(signal.SIGTERM) == 0


def test_what_was_acknowledged_stays_so_after_a_kill(standalone: Standalone) -> None:
    standalone.start()
    subprocess.run(
        standalone.command("produce", "t", *(f"-m{number}" for number in range(10))),
        check=True, timeout=RUN_LIMIT_S, env=ENVIRONMENT, stderr=subprocess.DEVNULL,
    )

    first = standalone.consume("s", 4)
    standalone.kill()
    standalone.start()

    assert first + standalone.consume("s", 6) == [b"%d" % number for number in range(10)]
