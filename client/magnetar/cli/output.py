"""Prints records as a table for people or as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from magnetar.cli.options import Output


def counted(count: int, noun: str) -> str:
    """`1 message`, `3 messages`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def show(rows: Sequence[Mapping[str, object]], output: Output) -> None:
    """All rows share the first one's keys."""
    if output is Output.JSON:
        print(json.dumps(list(rows), indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for key in rows[0] if rows else ():
        table.add_column(key.replace("_", " "))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
