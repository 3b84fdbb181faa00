"""`magnetar admin subscriptions`."""

from __future__ import annotations

from typing import Annotated

import typer

from magnetar.cli.admin.arguments import (
    Member,
    Subscription,
    Yes,
    administration,
    confirm,
)
from magnetar.cli.admin.messages import show
from magnetar.cli.admin.topic_report import report_subscription
from magnetar.cli.options import DEFAULT_URL, Json, ServiceUrl, Topic
from magnetar.cli.places import WHERE, where
from magnetar.cli.printing import as_json, counted, names, tell_where_stopped
from magnetar.cli.times import milliseconds

app = typer.Typer(
    help="Subscriptions: their positions and backlogs.", no_args_is_help=True,
    rich_markup_mode=None,
)
Force = Annotated[bool, typer.Option(help="Although consumers are connected.")]


def _given_up(messages: int, json: bool) -> None:
    told = f"{counted(messages, 'message')} given up"
    as_json({"messages": messages}) if json else typer.echo(told)


def _named(topic: str, subscription: str, member: str) -> str:
    of = f"subscription {subscription} of {topic}"
    return f"member {member} of {of}" if member else of


@app.command()
def create(
    topic: Topic, subscription: Subscription,
    at: Annotated[str, typer.Option(metavar="WHERE", help=f"Where it begins: {WHERE}.")] = "latest",
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Create a subscription before its first consumer comes.

    \b
    magnetar admin subscriptions create orders billing --at earliest
    magnetar admin subscriptions create orders billing --at 2h
    """
    start = where(at)
    with administration(url) as admin:
        admin.subscriptions.create(topic, subscription, start)


@app.command("list")
def list_subscriptions(topic: Topic, json: Json = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """List the subscriptions of a topic."""
    with administration(url) as admin:
        names(admin.subscriptions.list(topic), json, "no subscriptions")


@app.command()
def stats(
    topic: Topic, subscription: Subscription, member: Member = "", json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Show backlog, consumers, and what is in the way."""
    with administration(url) as admin:
        found = admin.subscriptions.stats(topic, subscription, member=member)
    as_json(found) if json else report_subscription(found)


@app.command()
def delete(
    topic: Topic, subscription: Subscription, member: Member = "", force: Force = False,
    yes: Yes = False, url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Delete a subscription with its position.

    \b
    magnetar admin subscriptions delete prices caches --member cache-7 --yes
    """
    confirm(yes, f"deletes {_named(topic, subscription, member)}", subscription)
    with administration(url) as admin:
        admin.subscriptions.delete(topic, subscription, force, member=member)


@app.command()
def skip(
    topic: Topic, subscription: Subscription,
    messages: Annotated[int, typer.Argument(min=1, help="So many of each partition.")],
    member: Member = "", yes: Yes = False, json: Json = False, url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Give up the next messages of a backlog.

    \b
    magnetar admin subscriptions skip orders billing 10 --yes
    """
    next_ones = counted(messages, "message")
    what = f"gives up the next {next_ones} of {_named(topic, subscription, member)}"
    confirm(yes, what, subscription)
    with administration(url) as admin:
        _given_up(
            admin.subscriptions.skip(topic, subscription, messages, member=member), json)


@app.command("clear-backlog")
def clear_backlog(
    topic: Topic, subscription: Subscription, member: Member = "", yes: Yes = False,
    json: Json = False, url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Give up the whole backlog."""
    what = f"gives up the whole backlog of {_named(topic, subscription, member)}"
    confirm(yes, what, subscription)
    with administration(url) as admin:
        _given_up(admin.subscriptions.clear_backlog(topic, subscription, member=member), json)


@app.command()
def expire(
    topic: Topic, subscription: Subscription,
    older_than: Annotated[
        str, typer.Argument(metavar="AGE", help="500ms, 90s, 30m, 2h or 7d.")
    ],
    member: Member = "", yes: Yes = False, json: Json = False, url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Give up what was stored longer ago than that.

    \b
    magnetar admin subscriptions expire orders billing 7d --yes
    """
    age_ms = milliseconds(older_than)
    what = f"gives up what {_named(topic, subscription, member)} has older than {older_than}"
    confirm(yes, what, subscription)
    with administration(url) as admin:
        _given_up(admin.subscriptions.expire(topic, subscription, age_ms, member=member), json)


@app.command()
def seek(
    topic: Topic, subscription: Subscription,
    position: Annotated[str, typer.Argument(metavar="WHERE", help=f"{WHERE}.")],
    member: Member = "", yes: Yes = False, url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Move a subscription; connected consumers go on from there.

    \b
    magnetar admin subscriptions seek orders billing earliest --yes
    magnetar admin subscriptions seek orders billing 2026-01-31T09:30 --yes
    magnetar admin subscriptions seek orders billing 17:0:-1:0 --yes
    """
    wanted = where(position)
    confirm(yes, f"moves {_named(topic, subscription, member)} to {position}", subscription)
    with administration(url) as admin:
        admin.subscriptions.seek(topic, subscription, wanted, member=member)


@app.command()
def peek(
    topic: Topic, subscription: Subscription,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="At most so many.")] = 1,
    member: Member = "", json: Json = False, url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Show the next messages not acknowledged. They stay where they are. Says on stderr where it
    stopped looking, after 10,000 entries of others or 4 MiB of messages.

    \b
    magnetar admin subscriptions peek orders billing -n 5
    """
    with administration(url) as admin:
        found = admin.subscriptions.peek(topic, subscription, count, member=member)
    if json:
        as_json(found)
    else:
        for number, message in enumerate(found):
            if number:
                typer.echo()
            show(message)
        if not found and not found.stopped_at:
            typer.echo("no messages", err=True)
    tell_where_stopped(found)
