"""`magnetar admin brokers` and `magnetar admin bookies`."""

from __future__ import annotations

import typer

from magnetar.cli.admin.arguments import administration
from magnetar.cli.options import DEFAULT_URL, Json, ServiceUrl
from magnetar.cli.printing import as_json, plain, table

brokers = typer.Typer(
    help="The brokers of the cluster.", no_args_is_help=True, rich_markup_mode=None
)
bookies = typer.Typer(
    help="The bookies of the cluster.", no_args_is_help=True, rich_markup_mode=None
)


@brokers.callback()
def _brokers() -> None:
    """The brokers of the cluster."""


@bookies.callback()
def _bookies() -> None:
    """The bookies of the cluster."""


@brokers.command("list")
def list_brokers(json: Json = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """List the brokers that are alive."""
    with administration(url) as admin:
        found = admin.brokers.list()
    as_json(found) if json else table(map(plain, found), "no brokers")


@bookies.command("list")
def list_bookies(json: Json = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """List the bookies, those that are down too."""
    with administration(url) as admin:
        found = admin.bookies.list()
    as_json(found) if json else table(map(plain, found), "no bookies")
