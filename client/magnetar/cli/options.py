"""Options several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

ServiceUrl = Annotated[
    str,
    typer.Option(
        "--url", envvar="MAGNETAR_SERVICE_URL", help="magnetar://host:port[,host:port…]"
    ),
]
DEFAULT_URL = "magnetar://127.0.0.1:6650"
TIMEOUT_S = 10.0
"""How long a command waits for a server; a person waits, so less than a program would."""


class Output(StrEnum):
    """How a command prints what it found."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print the result.")]
