"""The reference of administration is written from the code, so it cannot go stale."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def test_the_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts/write_reference.py"), "--check"],
        capture_output=True, text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
