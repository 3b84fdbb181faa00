"""`magnetar admin topics`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from magnetar.cli.admin.arguments import Yes, administration, confirm
from magnetar.cli.admin.topic_report import report, report_space
from magnetar.cli.options import DEFAULT_URL, Json, Properties, ServiceUrl, Topic, pairs
from magnetar.cli.printing import as_json, counted, names, record, table, when

if TYPE_CHECKING:
    from magnetar.admin.topic_values import TopicInfo

app = typer.Typer(
    help="Topics: make, look at and end them.", no_args_is_help=True, rich_markup_mode=None
)
TOPICS_A_CALL = 10_000
Partitions = Annotated[int, typer.Option(min=0, help="So many; 0: it has none.")]
Force = Annotated[
    bool, typer.Option(help="With its subscriptions; producers and consumers are sent away.")
]


def _show(info: TopicInfo, json: bool) -> None:
    if json:
        as_json(info)
        return
    record({
        "topic": info.name, "partitions": info.partitions or "", "owner": info.owner,
        "created": when(info.created_ms), "terminated": info.terminated,
        "properties": info.properties,
    })


@app.command()
def create(
    topic: Topic, partitions: Partitions = 0, property: Properties = None, json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Create a topic, with or without partitions.

    \b
    magnetar admin topics create orders --partitions 4
    """
    with administration(url) as admin:
        _show(admin.topics.create(topic, partitions, pairs(property)), json)


@app.command()
def grow(
    topic: Topic,
    partitions: Annotated[int, typer.Argument(min=1, help="So many in all, more than it has.")],
    json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Give a partitioned topic more partitions.

    \b
    magnetar admin topics grow orders 8
    """
    with administration(url) as admin:
        _show(admin.topics.grow(topic, partitions), json)


@app.command("list")
def list_topics(
    namespace: Annotated[
        str, typer.Argument(metavar="[NAMESPACE]", help="tenant/namespace.")
    ] = "public/default",
    pattern: Annotated[
        str, typer.Option(help="Only names like this, as: 'orders-*'.")
    ] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0 is all.")] = 0,
    json: Json = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """List the topics of a namespace.

    \b
    magnetar admin topics list shop/orders --pattern 'created-*'
    """
    found: list[dict[str, object]] = []
    unreachable: set[str] = set()
    with administration(url) as admin:
        page = ""
        while True:
            some = admin.topics.list(namespace, pattern, page_size=TOPICS_A_CALL, page=page)
            unreachable.update(some.unreachable_brokers)
            found += [{"topic": one.name, "partitions": one.partitions} for one in some.topics]
            page = some.next_page
            if not page or (limit and len(found) >= limit):
                break
    found = found[:limit] if limit else found
    as_json(found) if json else table(found, "no topics")
    if unreachable:
        typer.echo(
            f"not asked, and what they have in memory is missing: {', '.join(sorted(unreachable))}",
            err=True,
        )


@app.command()
def get(topic: Topic, json: Json = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """Show what a topic is: partitions, owner, properties."""
    with administration(url) as admin:
        _show(admin.topics.get(topic), json)


@app.command()
def stats(topic: Topic, json: Json = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """Show what goes on in a topic. Rates, storage, producers, subscriptions, and what is in the
    way."""
    with administration(url) as admin:
        found = admin.topics.stats(topic)
    as_json(found) if json else report(found)


@app.command("why-space")
def why_space(topic: Topic, json: Json = False, url: ServiceUrl = DEFAULT_URL) -> None:
    """Show a topic's ledgers, and what keeps each from being deleted."""
    with administration(url) as admin:
        found = admin.topics.why_space(topic)
    as_json(found) if json else report_space(found)


@app.command()
def terminate(
    topic: Topic, yes: Yes = False, json: Json = False, url: ServiceUrl = DEFAULT_URL
) -> None:
    """Take no more messages, for ever; consumers read on to the end. Prints the last ids."""
    confirm(yes, f"ends publishing to {topic}, for ever", topic)
    with administration(url) as admin:
        last = admin.topics.terminate(topic)
    names([str(one) for one in last], json, "it had no messages")


@app.command()
def truncate(
    topic: Topic, yes: Yes = False, json: Json = False, url: ServiceUrl = DEFAULT_URL
) -> None:
    """Delete all messages of a topic, consumed or not."""
    confirm(yes, f"deletes all messages of {topic}", topic)
    with administration(url) as admin:
        deleted = admin.topics.truncate(topic)
    as_json({"messages": deleted}) if json else typer.echo(f"{counted(deleted, 'message')} deleted")


@app.command()
def delete(
    topic: Topic, force: Force = False, yes: Yes = False, url: ServiceUrl = DEFAULT_URL
) -> None:
    """Delete a topic with its messages and policies. All partitions go together.

    \b
    magnetar admin topics delete orders --force --yes
    """
    confirm(yes, f"deletes the topic {topic}", topic)
    with administration(url) as admin:
        admin.topics.delete(topic, force)
