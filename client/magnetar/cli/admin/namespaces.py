"""`magnetar admin namespaces`."""

from __future__ import annotations

from typing import Annotated

import typer

from magnetar.cli.admin.arguments import (
    Namespace,
    Yes,
    administration,
    confirm,
    policy_changes,
)
from magnetar.cli.options import DEFAULT_URL, Json, ServiceUrl
from magnetar.cli.printing import as_json, names, plain, record

app = typer.Typer(
    help="Namespaces: groups of topics with policies of their own.", no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def create(
    namespace: Namespace,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A policy of it; may be repeated."),
    ] = None,
    json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Create a namespace.

    \b
    magnetar admin namespaces create shop/orders --policy retention_minutes=60
    """
    policies = {name: value for name, value in policy_changes(policy or []).items()}
    with administration(url) as admin:
        made = admin.namespaces.create(namespace, policies)
    as_json(made) if json else record(plain(made))


@app.command("list")
def list_namespaces(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose namespaces.")],
    json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """List the namespaces of a tenant."""
    with administration(url) as admin:
        names(admin.namespaces.list(tenant), json, "no namespaces")


@app.command()
def get(namespace: Namespace, json: Json = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """Show a namespace with the policies set on it."""
    with administration(url) as admin:
        found = admin.namespaces.get(namespace)
    as_json(found) if json else record(plain(found))


@app.command()
def delete(namespace: Namespace, yes: Yes = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """Delete a namespace that has no topics."""
    confirm(yes, f"deletes the namespace {namespace}", namespace)
    with administration(url) as admin:
        admin.namespaces.delete(namespace)
