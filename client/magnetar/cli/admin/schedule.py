"""`magnetar admin schedule`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from magnetar.cli.admin.arguments import (
    Yes,
    administration,
    confirm,
    scheduled_id,
)
from magnetar.cli.options import DEFAULT_URL, Json, ServiceUrl, Topic
from magnetar.cli.printing import as_json, plain, size, table, when
from magnetar.cli.times import WHEN, due_ms

if TYPE_CHECKING:
    from magnetar.admin.schedule_values import ScheduledMessage, ScheduleOutcome

app = typer.Typer(
    help="Messages that wait to be delivered later.", no_args_is_help=True, rich_markup_mode=None
)
Id = Annotated[
    str, typer.Argument(metavar="ID", help="scheduled:LEDGER:ENTRY:PARTITION:INDEX, as printed.")
]


@app.command("list")
def list_scheduled(
    topic: Topic,
    after: Annotated[str, typer.Option(help=f"Due then or later: {WHEN}.")] = "",
    before: Annotated[str, typer.Option(help="Due before; written alike.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """List what waits, by time. Of a partitioned topic it comes partition by partition.

    \b
    magnetar admin schedule list orders --before 1h
    """
    from_ms, until_ms = due_ms(after) if after else 0, due_ms(before) if before else 0
    found: list[ScheduledMessage] = []
    with administration(url) as admin:
        page = ""
        while len(found) < limit:
            some = admin.schedule.list(
                topic, from_ms=from_ms, until_ms=until_ms, page_size=min(limit - len(found), 1000),
                page=page,
            )
            found += some.messages
            page = some.next_page
            if not page:
                break
    if json:
        as_json(found)
        return
    table(({
        "id": one.scheduled_id, "due": when(one.deliver_at_ms), "producer": one.producer_name,
        "key": one.key or "", "size": size(one.data_bytes),
    } for one in found), "nothing is scheduled")


@app.command()
def count(topic: Topic, json: Json = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """Say how many messages wait."""
    with administration(url) as admin:
        found = admin.schedule.count(topic)
    as_json({"messages": found}) if json else typer.echo(str(found))


@app.command()
def cancel(
    topic: Topic, id: Id, yes: Yes = False, json: Json = False, url: ServiceUrl = DEFAULT_URL
) -> None:
    """Do not deliver a message. Exit status 1 when it is delivered already, or unknown.

    \b
    magnetar admin schedule cancel orders scheduled:9:0:-1:0 --yes
    """
    wanted = scheduled_id(id)
    confirm(yes, f"cancels {id} of {topic}", id)
    with administration(url) as admin:
        _tell(admin.schedule.cancel(topic, wanted), "cancelled", json)


@app.command()
def move(
    topic: Topic, id: Id,
    to: Annotated[str, typer.Argument(metavar="TIME", help=f"{WHEN}.")],
    json: Json = False, url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Deliver a message at another time. Exit status 1 when it does not wait any more.

    \b
    magnetar admin schedule move orders scheduled:9:0:-1:0 2h
    """
    wanted, at_ms = scheduled_id(id), due_ms(to)
    with administration(url) as admin:
        _tell(admin.schedule.move(topic, wanted, at_ms), "moved", json)


def _tell(outcome: ScheduleOutcome, wanted: str, json: bool) -> None:
    as_json({"outcome": plain(outcome)}) if json else typer.echo(outcome.value)
    if outcome.value != wanted:
        raise typer.Exit(1)
