"""`magnetar dlq`: look at dead letters, and send them back to where they came from."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from magnetar.cli.options import DEFAULT_URL, TIMEOUT_S, Json, ServiceUrl, Tags
from magnetar.cli.printing import as_json, iso_time, table, tell_where_stopped
from magnetar.dead_letter import REDRIVE, DeadLetter
from magnetar.errors import SubscriptionNotFound

if TYPE_CHECKING:
    from magnetar.admin.topic_values import PeekedMessages
    from magnetar.redrive import RedriveReport

app = typer.Typer(
    help="Dead letters: messages that their consumers could not handle.", no_args_is_help=True)

NONE = "no dead letters"

Topic = Annotated[str, typer.Argument(help="The dead-letter topic: TOPIC-SUBSCRIPTION-dead.")]
Subscription = Annotated[
    str, typer.Option("-s", "--subscription", help="Keeps what is not yet redriven.")
]
Count = Annotated[int, typer.Option("-n", "--count", min=1, help="So many at most.")]


@app.command("list")
def list_(
    topic: Topic,
    subscription: Subscription = REDRIVE,
    count: Count = 100,
    json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """List dead letters that are not yet redriven. Nothing is consumed."""
    rows = []
    for message in _waiting(url, topic, subscription, count):
        letter = DeadLetter.of(message.properties)
        rows.append({
            "message_id": str(message.message_id),
            "topic": letter.topic if letter else "",
            "subscription": letter.subscription if letter else "",
            "attempts": letter.attempts if letter else 0,
            "failed_at": iso_time(letter.failed_at_ms) if letter else "",
            "reason": letter.reason if letter else "no dead letter",
        })
    as_json(rows) if json else table(rows, NONE)


@app.command()
def peek(
    topic: Topic,
    subscription: Subscription = REDRIVE,
    count: Count = 10,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Show dead letters that are not yet redriven, whole. Nothing is consumed."""
    found = _waiting(url, topic, subscription, count)
    if not found:
        typer.echo(NONE, err=True)
    for message in found:
        print(f"{message.message_id}  from {message.producer_name}, sequence id"
              f" {message.sequence_id}, published {iso_time(message.publish_timestamp)}")
        for name, value in (("key", message.partition_key), ("tag", message.tag)):
            if value is not None:
                print(f"  {name}: {value}")
        for name, value in sorted(message.properties.items()):
            print(f"  {name}: {value}")
        cut = "" if len(message.data) == message.data_bytes else f" of {message.data_bytes} bytes"
        print(f"  {message.data.decode(errors='replace')}{cut}")


@app.command()
def redrive(
    topic: Topic,
    to: Annotated[str, typer.Option(help="To this topic; else each to where it came from.")] = "",
    count: Annotated[
        int, typer.Option("-n", "--count", min=0, help="So many at most; 0 is all.")
    ] = 0,
    filter: Annotated[
        str, typer.Option(help="Only these, as: dead_letter.reason LIKE '%timeout%'.")
    ] = "",
    tags: Tags = "*",
    subscription: Subscription = REDRIVE,
    patience_s: Annotated[
        int, typer.Option(min=1, help="Give up when nothing moved for so long.")
    ] = 30,
    json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Move dead letters back, each once. Exit status 1 when some could not be moved."""
    from magnetar.sync import Client

    with Client(url, operation_timeout_seconds=TIMEOUT_S) as client:
        report = client.redrive(
            topic, subscription=subscription, to=to or None, max_messages=count or None,
            filter=filter, tags=tags, patience_millis=patience_s * 1000, on_progress=_tell)
    rows = [{"moved": moved, "topic": target} for target, moved in sorted(report.targets.items())]
    if json:
        as_json(rows)
    elif rows:
        table(rows, "")
    for number, text in (
        (report.unwanted, "not wanted by --filter or --tags"),
        (report.without_target, "do not say where they came from; name a topic with --to"),
        (report.refused, f"cannot go there: {report.problem}"),
    ):
        if number:
            typer.echo(f"{number} stay: {text}", err=True)
    typer.echo(f"{report.moved} moved", err=True)
    if report.refused:
        raise typer.Exit(1)


def _tell(report: RedriveReport) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{report.moved} moved {report.problem}\033[K", err=True, nl=False)


def _waiting(url: str, topic: str, subscription: str, count: int) -> PeekedMessages:
    from magnetar.sync import Client

    with Client(url, operation_timeout_seconds=TIMEOUT_S) as client:
        try:
            found = client.admin.subscriptions.peek(topic, subscription, count)
        except SubscriptionNotFound as error:
            raise SubscriptionNotFound(
                f"{error}: it has had no dead letters, or they are kept by another (-s)"
            ) from error
    tell_where_stopped(found)
    return found
