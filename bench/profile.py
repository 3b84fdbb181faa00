"""Which process works hardest under load, and what it does: processor time, then py-spy."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SAMPLES_A_SECOND: Final = 200
SHOWN_FUNCTIONS: Final = 25
STOP_LIMIT_S: Final = 20.0
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


def processor_s(pid: int) -> float:
    """Seconds of processor time a process has used; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def processor_times(pids: Mapping[str, int]) -> dict[str, float]:
    """Of each process by name."""
    return {name: processor_s(pid) for name, pid in pids.items()}


def spy() -> str | None:
    """Path of py-spy, if it is installed."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.exists() else shutil.which("py-spy")


class Recording:
    """Samples one process from `start` to `stop`."""

    def __init__(self, pid: int, file: Path) -> None:
        self._pid, self._file = pid, file
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Does nothing without py-spy."""
        path = spy()
        if path is None:
            return
        self._process = subprocess.Popen(
            [path, "record", "--pid", str(self._pid), "--format", "raw", "--threads", "--rate",
             str(SAMPLES_A_SECOND), "--duration", "3600", "--nonblocking", "--output",
             str(self._file)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self) -> list[str]:
        """The functions most of the time was spent in, with their share of the samples."""
        if self._process is None:
            return ["py-spy is not installed"]
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return hottest(self._file.read_text()) if self._file.exists() else ["py-spy failed"]


def hottest(folded: str) -> list[str]:
    """Functions by the samples taken inside them, from stacks as `a;b;c COUNT` lines."""
    inside: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        inside[stack.rpartition(";")[2]] += int(count)
    total = inside.total() or 1
    return [f"{count / total:6.1%}  {name}" for name, count in inside.most_common(SHOWN_FUNCTIONS)]
