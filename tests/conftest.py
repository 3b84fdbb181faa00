"""Shared by all tests.

Tests are deterministic: time, chance, network and disk are passed in, and nothing waits by
sleeping. A test that takes long is marked `slow` and runs in `make test-all`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent

# The same examples in every run, and no verdict that depends on how busy the machine is.
settings.register_profile("magnetar", derandomize=True, deadline=None)
settings.load_profile("magnetar")


@pytest.fixture(scope="session", autouse=True)
def _children_import_this_tree() -> None:
    """Processes that a test starts find the rooms as the test itself does."""
    found = [str(REPOSITORY), str(REPOSITORY / "client"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in found if part)
