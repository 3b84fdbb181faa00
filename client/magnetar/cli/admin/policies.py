"""`magnetar admin policies`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from magnetar.cli.admin.arguments import (
    OfNamespace,
    OfTopic,
    administration,
    policy_changes,
)
from magnetar.cli.options import DEFAULT_URL, Json, ServiceUrl
from magnetar.cli.printing import as_json, table

app = typer.Typer(
    help="Policies of the cluster, a namespace or a topic. The narrower one counts.",
    no_args_is_help=True, rich_markup_mode=None,
)


@app.command("set")
def set_policies(
    changes: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE...", help="An empty value takes a policy back."),
    ],
    namespace: OfNamespace = "",
    topic: OfTopic = "",
    json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Change policies; prints what is set at that level now.

    \b
    magnetar admin policies set retention_minutes=60 --namespace shop/orders
    magnetar admin policies set retention_minutes= --namespace shop/orders
    magnetar admin policies set ack_quorum=2                 (of the cluster)
    """
    wanted = policy_changes(changes)
    with administration(url) as admin:
        found = admin.policies.set(wanted, namespace=namespace, topic=topic)
    _show(found, json)


@app.command()
def get(
    namespace: OfNamespace = "", topic: OfTopic = "", json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Show what is set at one level, nothing inherited."""
    with administration(url) as admin:
        found = admin.policies.get(namespace=namespace, topic=topic)
    _show(found, json)


def _show(found: Mapping[str, object], json: bool) -> None:
    """Under the names that `set` takes."""
    if json:
        as_json(found)
        return
    table(
        ({"policy": name, "value": value} for name, value in found.items()),
        "nothing is set at this level")


@app.command()
def effective(
    namespace: OfNamespace = "", topic: OfTopic = "", json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Show every policy as it holds, and the level it comes from.

    \b
    magnetar admin policies effective --topic shop/orders/created
    """
    with administration(url) as admin:
        found = admin.policies.effective(namespace=namespace, topic=topic)
    if json:
        as_json(found)
        return
    table(
        ({"policy": one.name, "value": one.value, "source": one.source, "meaning": one.meaning}
         for one in found),
        "no policies",
    )
