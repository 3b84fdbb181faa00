"""`magnetar admin tenants`."""

from __future__ import annotations

from typing import Annotated

import typer

from magnetar.cli.admin.arguments import Yes, administration, confirm
from magnetar.cli.options import DEFAULT_URL, Json, Properties, ServiceUrl, pairs
from magnetar.cli.printing import as_json, names, plain, record

app = typer.Typer(
    help="Tenants: who shares the cluster.", no_args_is_help=True, rich_markup_mode=None
)
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant.")]


@app.command()
def create(
    tenant: Tenant,
    admin_role: Annotated[
        list[str] | None, typer.Option(help="Who may administer it; may be repeated.")
    ] = None,
    cluster: Annotated[
        list[str] | None, typer.Option(help="Where it may be, else everywhere; may be repeated.")
    ] = None,
    property: Properties = None,
    json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Create a tenant.

    \b
    magnetar admin tenants create shop --admin-role shop-operators
    """
    with administration(url) as admin:
        made = admin.tenants.create(
            tenant, admin_roles=admin_role or (), allowed_clusters=cluster or (),
            properties=pairs(property),
        )
    as_json(made) if json else record(plain(made))


@app.command("list")
def list_tenants(json: Json = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """List all tenants."""
    with administration(url) as admin:
        names(admin.tenants.list(), json, "no tenants")


@app.command()
def get(tenant: Tenant, json: Json = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """Show a tenant."""
    with administration(url) as admin:
        found = admin.tenants.get(tenant)
    as_json(found) if json else record(plain(found))


@app.command()
def delete(tenant: Tenant, yes: Yes = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """Delete a tenant that has no namespaces."""
    confirm(yes, f"deletes the tenant {tenant}", tenant)
    with administration(url) as admin:
        admin.tenants.delete(tenant)
