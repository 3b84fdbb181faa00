"""Prints what commands found: aligned text for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from magnetar.admin.topic_values import PeekedMessages

GAP = "  "


def plain(value: Any) -> Any:
    """As JSON has it; bytes as `readable` has them."""
    from magnetar.message_id import MessageId
    from magnetar.scheduled_id import ScheduledId

    if isinstance(value, MessageId | ScheduledId):
        return str(value)
    if is_dataclass(value):
        found: dict[str, Any] = {}
        for field in fields(value):
            part = getattr(value, field.name)
            if isinstance(part, bytes):
                found |= readable(field.name, part)
            else:
                found[field.name] = plain(part)
        return found
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return value.value if isinstance(value, Enum) else value


def readable(name: str, value: bytes) -> dict[str, str]:
    """Bytes under their name where they are UTF-8, else in Base64 under NAME_base64."""
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        from base64 import b64encode

        return {f"{name}_base64": b64encode(value).decode()}


def as_json(value: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(plain(value), indent=2))


def table(rows: Iterable[Mapping[str, Any]], none: str) -> None:
    """Print rows under the first one's keys; numbers to the right. `none` tells of no rows, on
    stderr, so that a pipe gets nothing."""
    found = [{key: cell(value) for key, value in row.items()} for row in rows]
    if not found:
        typer.echo(none, err=True)
        return
    heads = [*found[0]]
    numeric = [all(_is_number(row[head]) for row in found) for head in heads]
    widths = [max(len(head), *(len(row[head]) for row in found)) for head in heads]
    lines = [[head.replace("_", " ").upper() for head in heads]]
    lines += [[row[head] for head in heads] for row in found]
    for line in lines:
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        typer.echo(GAP.join(cells).rstrip())


def record(values: Mapping[str, Any]) -> None:
    """Print names and values, one a line; what is empty is left out."""
    shown = {key.replace("_", " "): cell(value) for key, value in values.items()}
    width = max(map(len, shown), default=0)
    for key, text in shown.items():
        if text:
            typer.echo(f"{key.ljust(width)}{GAP}{text}")


def counted(count: int, noun: str) -> str:
    """`1 message`, `3 messages`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def cell(value: Any) -> str:
    """One value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={cell(part)}" for key, part in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(cell(part) for part in value)
    return str(plain(value))


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").removeprefix("-").isdigit()


def when(time_ms: int) -> str:
    """A point in time, as people read it; empty for none."""
    return iso_time(time_ms).replace("T", " ").replace("+00:00", " UTC") if time_ms > 0 else ""


def iso_time(time_ms: int) -> str:
    """A point in time, in UTC; what no calendar has, in milliseconds."""
    try:
        found = datetime.fromtimestamp(time_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"
    return found.isoformat(timespec="milliseconds")


def size(size_bytes: int) -> str:
    """Bytes in a unit that fits; empty while unknown."""
    if size_bytes < 0:
        return ""
    number, units = float(size_bytes), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while number >= 1024 and len(units) > 1:
        number /= 1024
        units.pop(0)
    return f"{number:.0f} {units[0]}" if units[0] == "B" else f"{number:.1f} {units[0]}"


def rate(messages: float, size_bytes: float) -> str:
    """A second's worth."""
    return f"{messages:,.1f}/s, {size(int(size_bytes))}/s"


def names(found: Sequence[str], json_wanted: bool, none: str) -> None:
    """Print a list of names, one a line."""
    if json_wanted:
        as_json(found)
    elif not found:
        typer.echo(none, err=True)
    else:
        typer.echo("\n".join(found))


def tell_where_stopped(found: PeekedMessages) -> None:
    """On stderr: looking for messages ended early."""
    if found.stopped_at:
        places = ", ".join(map(str, found.stopped_at))
        typer.echo(f"looked no further than {places}: there may be more after it", err=True)
