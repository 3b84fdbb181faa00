"""Child processes that never outlive their parent and are ended by their own id only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READY_LIMIT_S: Final = 30.0
POLL_S: Final = 0.02
STOP_LIMIT_S: Final = 10.0
_DIE_WITH_PARENT: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])"
)
"""Becomes the command after asking the kernel for SIGKILL when the parent ends. A `preexec_fn`
would do so without another interpreter, but it makes Python fork, and a fork of a process in
which gRPC runs can hang in gRPC's handlers; without one Python uses vfork, which calls none."""


class ProcessFailed(Exception):
    """A child ended, or was not ready in time; the text holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running command, its name and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def log_end(self, characters: int = 2_000) -> str:
        """The last lines the process printed."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def wait_until_ready(self, mark: str, limit_s: float = READY_LIMIT_S) -> None:
        """Wait for `mark` in the output; raises ProcessFailed."""
        deadline = time.monotonic() + limit_s
        while mark not in self.log.read_text(errors="replace"):
            if not self.alive:
                raise ProcessFailed(f"{self.name} ended with {self.process.returncode}: "
                                    f"{self.log_end()}")
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{self.name} was not ready in {limit_s} s: {self.log_end()}")
            time.sleep(POLL_S)

    def signal(self, number: int) -> None:
        """Send a signal, unless the process was reaped already."""
        if self.alive:
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.process.wait()


def start(
    name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Child:
    """Start a command in a session of its own, so that a Ctrl-C reaches only us.

    Call it from the main thread: the child is killed when the calling thread ends.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    return Child(name, process, log)


def stop(children: Iterable[Child], limit_s: float = STOP_LIMIT_S) -> None:
    """SIGTERM to all, SIGKILL to those that are still there after `limit_s`."""
    running = [child for child in children if child.alive]
    for child in running:
        child.signal(signal.SIGTERM)
        child.signal(signal.SIGCONT)
    deadline = time.monotonic() + limit_s
    for child in running:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
