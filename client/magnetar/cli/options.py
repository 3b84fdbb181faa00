"""Options several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from magnetar.errors import InvalidArgument

ServiceUrl = Annotated[
    str,
    typer.Option(
        "--url", envvar="MAGNETAR_SERVICE_URL", help="magnetar://host:port[,host:port…]"
    ),
]
TOPIC_HELP = "persistent://tenant/namespace/topic, or a name."
Topic = Annotated[str, typer.Argument(metavar="TOPIC", help=TOPIC_HELP)]
Properties = Annotated[
    list[str] | None,
    typer.Option("-p", "--property", metavar="KEY=VALUE", help="May be repeated."),
]
Filter = Annotated[
    str, typer.Option(help="Only these, as: price > 100 AND region IN ('eu', 'us').")
]
Tags = Annotated[str, typer.Option(help="Only these, as: TagA || TagB; * is all.")]
Count = Annotated[int, typer.Option("-n", "--count", min=0, help="Stop after so many; 0 is never.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_URL = "magnetar://127.0.0.1:6650"
TIMEOUT_S = 10.0
"""How long a command waits for a server; a person waits, so less than a program would."""


def pairs(given: Sequence[str] | None) -> dict[str, str]:
    """KEY=VALUE texts; raises InvalidArgument."""
    found = {}
    for text in given or ():
        key, separator, value = text.partition("=")
        if not key or not separator:
            raise InvalidArgument(f"write KEY=VALUE, not {text!r}")
        found[key] = value
    return found
