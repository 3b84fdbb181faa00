"""What the commands take: options that several share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnetar.cli.options import TIMEOUT_S, pairs
from magnetar.errors import InvalidArgument

if TYPE_CHECKING:
    from magnetar.admin.sync import Admin
    from magnetar.scheduled_id import ScheduledId

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Subscription = Annotated[
    str, typer.Argument(metavar="SUBSCRIPTION", help="Name of the subscription.")
]
Member = Annotated[
    str, typer.Option("--member", help="One of a broadcast group; else all of them.")
]
Namespace = Annotated[str, typer.Argument(metavar="NAMESPACE", help="tenant/namespace.")]
OfNamespace = Annotated[str, typer.Option("--namespace", help="tenant/namespace.")]
OfTopic = Annotated[str, typer.Option("--topic", help="A topic, for all its partitions.")]


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


def scheduled_id(text: str) -> ScheduledId:
    """As a scheduled id prints; raises InvalidArgument."""
    from magnetar.scheduled_id import ScheduledId

    return ScheduledId.parse(text)
