"""Where a server's log goes: to stderr, one line a record, from a level on."""

from __future__ import annotations

import logging
import sys
import time
from enum import StrEnum
from typing import Final, TextIO

FORMAT: Final = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
DATE_FORMAT: Final = "%Y-%m-%dT%H:%M:%S"
TALKATIVE: Final = ("kazoo", "asyncio", "grpc")
"""Libraries that tell their every step at INFO; they are heard from WARNING on, unless all is."""


class LogLevel(StrEnum):
    """From which importance on records are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure_logging(level: LogLevel, stream: TextIO | None = None) -> None:
    """Replaces what was configured before."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    formatter = logging.Formatter(FORMAT, DATE_FORMAT)
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(
            logging.WARNING if level is LogLevel.INFO else logging.NOTSET)
