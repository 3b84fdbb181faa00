"""Options several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ServiceUrl = Annotated[
    str,
    typer.Option(
        "--url", envvar="MAGNETAR_SERVICE_URL", help="magnetar://host:port[,host:port…]"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_URL = "magnetar://127.0.0.1:6650"
TIMEOUT_S = 10.0
"""How long a command waits for a server; a person waits, so less than a program would."""
