"""Settings files of the command line: keys as the options are typed, and none passed over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from magnetar.cli.app import app


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


def test_what_a_command_does_is_told_whole_in_the_list_of_commands() -> None:
    def cut(group: Any, path: str) -> Iterator[str]:
        parts = getattr(group, "commands", {})
        for name, command in parts.items():
            room = 80 - 2 - 6 - max(map(len, parts))
            if command.get_short_help_str(room).endswith("..."):
                yield f"{path} {name}"
            yield from cut(command, f"{path} {name}")

    assert list(cut(typer.main.get_command(app), "magnetar")) == []


def test_a_command_is_not_asked_for_through_the_environment() -> None:
    assert "MAGNETAR__VERSION" not in run("--help").stdout
