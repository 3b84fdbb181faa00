"""Bad orders on the command line: one clear line, an exit status, and nothing half done."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from magnetar.cli.app import main
from magnetar.runtime.file_disk import FileDisk

LIMIT_S = 60
NOBODY = "served://127.0.0.1:1"
SOON = ("--session-timeout-s", "0.5")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (("nonsense",), "No such command"),
        (("produce",), "Missing argument"),
        (("produce", "topic", "--bogus"), "No such option"),
        (("produce", "a b", "-m", "x"), "a b"),
        (("consume", "topic", "-s", ""), "a subscription has a name"),
        (("standalone", "--data", "DATA", "--port", "99999"), "--port"),
        (("standalone", "--data", "FILE/x", "--port", "0"), "Not a directory"),
        (("metadata", "--data", "FILE/x", "--port", "0"), "Not a directory"),
        (("metadata", "--data", "DATA", "--port", "TAKEN"), "TAKEN"),
        (("bookie", "--data", "DATA", "--metadata", "bogus://x"), "zk://"),
        (("bookie", "--data", "DATA", "--metadata", NOBODY, *SOON), "127.0.0.1:1"),
        (("broker",), "--metadata"),
        (("broker", "--metadata", NOBODY, "--advertised", "here"), "host:port"),
        (("cluster", "init", "--metadata", NOBODY, "--policy", "bogus"), "bogus"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else None,
)
def test_a_bad_order_is_told_in_words(
    order: tuple[str, ...], expected: str, tmp_path: Path, taken_port: int,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("no folder")
    meant = {"DATA": str(tmp_path / "data"), "TAKEN": str(taken_port)}
    words = [
        meant.get(word, word.replace("FILE", str(tmp_path / "file"))) for word in order
    ]
    monkeypatch.setattr(sys, "argv", ["magnetar", *words])
    interval_s = sys.getswitchinterval()

    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.setswitchinterval(interval_s)
        gc.enable()

    assert ended.value.code in (1, 2)
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert meant.get(expected, expected) in last_line


def start_in_vain(data: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a standalone on this folder says when it ends at once."""
    interval_s = sys.getswitchinterval()
    try:
        with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
            command = ["magnetar", "standalone", "--data", str(data), "--port", "0"]
            patch.setattr(sys, "argv", command)
            main()
    finally:
        sys.setswitchinterval(interval_s)
        gc.enable()
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_data_folder_of_another_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cookie = tmp_path / "bookie" / "log" / "cookie.json"
    cookie.parent.mkdir(parents=True)
    cookie.write_text(
        '{"v": 1, "bookie_id": "other", "cluster_id": "elsewhere", "instance": "1"}'
    )
    assert "belongs to bookie other of cluster elsewhere" in start_in_vain(tmp_path, capsys)
    cookie.write_text("rubbish")
    assert "not a cookie" in start_in_vain(tmp_path, capsys)

    held = FileDisk(cookie.parent)
    try:
        assert "in use by another process" in start_in_vain(tmp_path, capsys)
    finally:
        held.close()
    assert cookie.read_text() == "rubbish"


def test_a_broker_whose_port_is_taken_says_so_and_ends(tmp_path: Path, taken_port: int) -> None:
    command = [
        sys.executable, "-m", "magnetar", "standalone", "--data", str(tmp_path),
        "--port", str(taken_port), "--admin-port", "0",
    ]

    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line.startswith("magnetar: ")
    assert f"cannot listen on 127.0.0.1:{taken_port}" in last_line
    assert "the port is taken; --port names another" in last_line
