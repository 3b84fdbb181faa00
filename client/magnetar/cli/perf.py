"""`magnetar perf`: open-loop load, with latencies counted from the intended send time.

A message's latency runs from when it was due, not from when the call was made, so a stalled
system cannot hide its stall by slowing the load ("coordinated omission").
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from magnetar.cli.options import DEFAULT_URL, ServiceUrl

app = typer.Typer(help="Measure publishing, consuming, or both.", no_args_is_help=True)

Topic = Annotated[str, typer.Argument(help="Topic to use.")]
Rate = Annotated[int, typer.Option(min=0, help="Messages a second; 0 is as fast as it goes.")]
Size = Annotated[int, typer.Option(min=16, help="Message size in bytes.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="How long to send.")]


def _report(result: dict[str, object]) -> None:
    typer.echo(json.dumps(result, indent=2))


@app.command("produce")
def produce(
    topic: Topic, rate: Rate = 0, size: Size = 1024, seconds: Seconds = 10,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Publish; JSON with the rate and the publish latencies."""
    from magnetar.cli.load import run_load

    _report(run_load(url, topic, rate, size, seconds, publish=True, consume=False))


@app.command("consume")
def consume(topic: Topic, seconds: Seconds = 10, url: ServiceUrl = DEFAULT_URL) -> None:
    """Read from the earliest message; JSON with the rate."""
    from magnetar.cli.load import run_load

    _report(run_load(url, topic, 0, 0, seconds, publish=False, consume=True))


@app.command("e2e")
def end_to_end(
    topic: Topic, rate: Rate = 1000, size: Size = 1024, seconds: Seconds = 10,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Publish and consume at once; JSON with both latencies."""
    from magnetar.cli.load import run_load

    _report(run_load(url, topic, rate, size, seconds, publish=True, consume=True))
