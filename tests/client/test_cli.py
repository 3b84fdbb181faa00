"""Settings files of the command line: keys as the options are typed, and none passed over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "magnetar", *arguments], capture_output=True, text=True, timeout=60
    )


def test_a_file_gives_options_by_their_names_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "magnetar.toml"
    file.write_text('[bookie]\nmetadata = "nowhere://x"\nid = "b1"\ndata = "/nonexistent"\n')

    done = run("--config", str(file), "bookie")

    assert done.returncode == 1
    assert "not a metadata URL: 'nowhere://x'" in done.stderr


def test_a_setting_nobody_knows_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    file = tmp_path / "magnetar.toml"
    file.write_text('[consume]\nsubscripton = "s"\n')

    done = run("--config", str(file), "consume", "t", "-s", "s")

    assert done.returncode == 2
    assert "[consume] has no setting 'subscripton'" in done.stderr
    assert "subscription" in done.stderr


def test_an_unreachable_server_is_one_clear_line_and_what_to_do() -> None:
    done = run("produce", "t", "-m", "x", "--url", "magnetar://127.0.0.1:1")

    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "is it running there" in done.stderr
    assert "Traceback" not in done.stderr
