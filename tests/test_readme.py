"""The README's examples, run as they are written against a cluster of one process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
URL_IN_README = "magnetar://127.0.0.1:6650"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.S | re.M)
READY = re.compile(r"ready on (\S+:\d+)")
LIMIT_S = 60


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a fresh `magnetar standalone` listens."""
    command = [
        sys.executable, "-m", "magnetar", "standalone", "--port", "0", "--admin-port", "0",
        "--data", str(tmp_path_factory.mktemp("standalone")),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := READY.search(line):
                yield f"magnetar://{found[1]}"
                break
        else:
            pytest.fail("standalone ended: " + "".join(lines))
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(LIMIT_S) == 0


def run(*command: str, url: str, given: str = "", limit_s: float = LIMIT_S) -> str:
    """What the command printed; it must succeed."""
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=limit_s,
        env={**os.environ, "MAGNETAR_SERVICE_URL": url},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split()[1])
def test_python_example_runs(example: str, url: str) -> None:
    assert URL_IN_README in example

    run(sys.executable, "-W", "error", "-c", example.replace(URL_IN_README, url), url=url)


def test_what_was_produced_is_consumed(url: str) -> None:
    magnetar = (sys.executable, "-m", "magnetar")

    run(*magnetar, "produce", "lines", "-f", "-", url=url, given="one\ntwo\nthree\n")
    printed = run(*magnetar, "consume", "lines", "-s", "printer", "-n", "3", url=url)

    assert printed.splitlines() == ["one", "two", "three"]
