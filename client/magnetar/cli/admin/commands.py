"""All commands under `magnetar admin`."""

from __future__ import annotations

import typer

from magnetar.cli.admin import (
    cluster,
    messages,
    namespaces,
    policies,
    schedule,
    subscriptions,
    tenants,
    topics,
)

app = typer.Typer(rich_markup_mode=None)
app.add_typer(tenants.app, name="tenants")
app.add_typer(namespaces.app, name="namespaces")
app.add_typer(policies.app, name="policies")
app.add_typer(topics.app, name="topics")
app.add_typer(subscriptions.app, name="subscriptions")
app.add_typer(messages.app, name="messages")
app.add_typer(schedule.app, name="schedule")
app.add_typer(cluster.brokers, name="brokers")
app.add_typer(cluster.bookies, name="bookies")
