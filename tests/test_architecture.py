"""Who may import whom, and what the I/O-free cores may load."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

CORES = [
    "magnetar.entry", "magnetar.producer_core", "magnetar.topic",
    "metadata.store", "metadata.paths", "metadata.ledgers", "metadata.topics",
    "metadata.bookies", "metadata.brokers", "metadata.tenants", "metadata.cluster",
    "ledger.wire", "ledger.handshake", "ledger.driver", "ledger.managed_log",
    "ledger.state_log", "bookie.storage", "bookie.server", "bookie.index", "bookie.garbage",
    "tenants.policies", "tenants.resolver", "broker.topic", "broker.broker",
    "broker.forwarding.lanes", "broker.forwarding.port", "broker.redrive", "broker.pull_sessions",
]
"""Modules that the simulator runs, so that importing them loads nothing it cannot simulate."""

UNSIMULATED = ("grpc", "kazoo", "rocksdict", "uvloop", "aiohttp")


def test_imports_follow_the_table_of_rooms() -> None:
    code = "from importlinter.cli import lint_imports as lint; raise SystemExit(lint(no_logo=True))"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("core", CORES)
def test_cores_load_nothing_that_cannot_be_simulated(core: str) -> None:
    code = f"import sys, {core}; print(*[m for m in {UNSIMULATED!r} if m in sys.modules])"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_code_map_names_what_there_is() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    code_map = text[text.index("## Code map"):text.index("### Who may import whom")]
    rooms = [*REPOSITORY.glob("[a-z]*/"), REPOSITORY / "client" / "magnetar"]
    there = {path.stem for room in rooms for path in (room, *room.glob("*"))}

    named = {name.split(".")[0] for name in re.findall(r"`([a-z_0-9.]+)`", code_map)}

    assert named - there == set()
