"""What servers write to stderr."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.ports import free_port
from demo.processes import start, stop
from server.logs import LogLevel, configure_logging

RUN_LIMIT_S = 60.0


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_record_is_a_line_with_time_level_and_place(stream: io.StringIO) -> None:
    configure_logging(LogLevel.INFO, stream)

    logging.getLogger("broker.administration.service").info("CreateTopic from %s", "somebody")

    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO broker\.administration\.service: "
        r"CreateTopic from somebody\n",
        stream.getvalue(),
    )


@pytest.mark.parametrize(
    ("level", "ours", "kazoos"),
    [
        (LogLevel.DEBUG, "debug info warning error", "debug info warning error"),
        (LogLevel.INFO, "info warning error", "warning error"),
        (LogLevel.WARNING, "warning error", "warning error"),
        (LogLevel.ERROR, "error", "error"),
    ],
)
def test_libraries_are_quieter(
    stream: io.StringIO, level: LogLevel, ours: str, kazoos: str
) -> None:
    configure_logging(level, stream)

    for name in ("broker.topic", "kazoo.client"):
        for one in LogLevel:
            logging.getLogger(name).log(logging.getLevelNamesMapping()[one.upper()], one)

    said = [line.split(" ", 2)[2] for line in stream.getvalue().splitlines()]
    assert said == [
        *(f"broker.topic: {one}" for one in ours.split()),
        *(f"kazoo.client: {one}" for one in kazoos.split()),
    ]


@pytest.mark.parametrize(
    ("environment", "options", "is_told"),
    [
        ({}, [], True),
        ({"MAGNETAR_LOG_LEVEL": "warning"}, [], False),
        ({"MAGNETAR_LOG_LEVEL": "warning"}, ["--log-level", "info"], True),
    ],
    ids=["by itself", "environment", "option"],
)
def test_who_changed_what_is_in_the_servers_log(
    tmp_path: Path, environment: dict[str, str], options: list[str], is_told: bool
) -> None:
    port, log = free_port(), tmp_path / "log"
    command = [
        sys.executable, "-m", "magnetar", "standalone", "--data", str(tmp_path / "data"),
        "--port", str(port), "--admin-port", "0", *options,
    ]
    log.write_bytes(b"")
    server = start("standalone", command, log, environment)
    try:
        server.wait_until_ready(" ready on ")
        subprocess.run(
            [sys.executable, "-m", "magnetar", "admin", "topics", "create", "invoices",
             "--url", f"magnetar://127.0.0.1:{port}"],
            check=True, timeout=RUN_LIMIT_S,
        )
    finally:
        stop([server])

    told = "INFO broker.administration.service: CreateTopic from" in log.read_text()
    assert told is is_told
