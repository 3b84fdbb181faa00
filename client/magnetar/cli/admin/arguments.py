"""What the commands take: options that several share, and how their texts are read."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnetar.cli.options import TIMEOUT_S
from magnetar.cli.times import is_duration, milliseconds, time_ms
from magnetar.errors import InvalidArgument

if TYPE_CHECKING:
    from magnetar.admin.sync import Admin
    from magnetar.admin.topic_values import Where
    from magnetar.message_id import MessageId
    from magnetar.scheduled_id import ScheduledId

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Topic = Annotated[
    str, typer.Argument(metavar="TOPIC", help="persistent://tenant/namespace/topic, or a name.")
]
Subscription = Annotated[
    str, typer.Argument(metavar="SUBSCRIPTION", help="Name of the subscription.")
]
Member = Annotated[
    str, typer.Option("--member", help="One of a broadcast group; else all of them.")
]
Namespace = Annotated[str, typer.Argument(metavar="NAMESPACE", help="tenant/namespace.")]
OfNamespace = Annotated[str, typer.Option("--namespace", help="tenant/namespace.")]
OfTopic = Annotated[str, typer.Option("--topic", help="A topic, for all its partitions.")]
Properties = Annotated[
    list[str] | None,
    typer.Option("-p", "--property", metavar="KEY=VALUE", help="May be repeated."),
]
WHERE = (
    "earliest, latest, a message id (LEDGER:ENTRY:PARTITION:INDEX), a time"
    " (2026-01-31T09:30, or milliseconds since 1970), or so long ago (90s, 30m, 2h, 7d)"
)
_ID_PARTS = (2, 4)


@contextmanager
def administration(url: str) -> Iterator[Admin]:
    """A client's administration, for one command."""
    from magnetar.sync import Client

    with Client(url, operation_timeout_seconds=TIMEOUT_S) as client:
        yield client.admin


def confirm(yes: bool, what: str, name: str) -> None:
    """Go on only with --yes, or when a person types the name. Raises InvalidArgument."""
    if yes:
        return
    import sys

    if not sys.stdin.isatty():
        raise InvalidArgument(f"this {what}; say --yes if that is meant")
    typer.echo(f"This {what}.", err=True)
    if typer.prompt(f"Type {name} to go on", default="", show_default=False, err=True) != name:
        raise InvalidArgument("not confirmed; nothing was done")


def pairs(given: Sequence[str] | None) -> dict[str, str]:
    """KEY=VALUE texts; raises InvalidArgument."""
    found = {}
    for text in given or ():
        key, separator, value = text.partition("=")
        if not key or not separator:
            raise InvalidArgument(f"write KEY=VALUE, not {text!r}")
        found[key] = value
    return found


def policy_changes(given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE texts; an empty value takes a policy back. Raises InvalidArgument."""
    return {name: policy_value(value) for name, value in pairs(given).items()}


def policy_value(text: str) -> int | bool | str | None:
    """A whole number, true or false, or a text; None for an empty one."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text.replace("_", ""))
    except ValueError:
        return text or None


def message_id(text: str) -> MessageId:
    """As a message id prints, LEDGER:ENTRY:PARTITION:INDEX; raises InvalidArgument."""
    from magnetar.message_id import MessageId

    parts = text.split(":")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in _ID_PARTS:
        raise InvalidArgument(
            f"write a message id as LEDGER:ENTRY:PARTITION:INDEX (or LEDGER:ENTRY of a topic"
            f" without partitions), not {text!r}"
        )
    partition, index = numbers[2:] or (-1, -1)
    return MessageId(partition, numbers[0], numbers[1], index)


def scheduled_id(text: str) -> ScheduledId:
    """As a scheduled id prints; raises InvalidArgument."""
    from magnetar.scheduled_id import ScheduledId

    return ScheduledId.parse(text)


def where(text: str) -> Where:
    """A place in a topic, see WHERE; raises InvalidArgument."""
    from magnetar.enums import InitialPosition

    if text in ("earliest", "latest"):
        return InitialPosition(text)
    if is_duration(text):
        return time.time_ns() // 1_000_000 - milliseconds(text)
    if re.fullmatch(r"-?\d+(:-?\d+)+", text):
        return message_id(text)
    try:
        return time_ms(text)
    except InvalidArgument:
        raise InvalidArgument(f"write {WHERE}; not {text!r}") from None
