"""What the subscriptions of a broker have out, hold back and wait for, as metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily

from broker.bounds import BOUNDS, bounds_met
from broker.dispatch.waiting import Wait
from broker.subscription import Subscription

WAITS = {
    Wait.TURN: "again", Wait.TIME: "delayed", Wait.PATH: "set_aside", Wait.BURIAL: "dead_letter",
}


def dispatch_metrics(subscriptions: Sequence[Subscription]) -> Iterator[GaugeMetricFamily]:
    """Of all subscriptions together, without a series for each."""
    dispatchers = [one.dispatcher for one in subscriptions]
    for name, text, level in (
        ("unacknowledged_messages", "Messages with consumers and not acknowledged",
         sum(one.flights.messages for one in dispatchers)),
        ("in_flight_entries", "Entries delivered and not acknowledged",
         sum(len(one.flights) for one in dispatchers)),
        ("waiting_entries", "Entries of which something waits to be delivered",
         sum(one.waiting_entries for one in dispatchers)),
        ("shortened_reasons", "Reasons of failures cut short, since their topics were loaded",
         sum(one.counts.shortened_reasons for one in subscriptions)),
        ("held_keys", "Keys that wait for a message of theirs that failed",
         sum(one.order.held_keys for one in dispatchers if one.order is not None)),
        ("ordered_keys", "Keys of which something is out, waits or has failed",
         sum(len(one.order) for one in dispatchers if one.order is not None)),
    ):
        yield GaugeMetricFamily(f"magnetar_broker_{name}", text, float(level))
    waiting = GaugeMetricFamily(
        "magnetar_broker_waiting_messages", "Messages that wait to be delivered, by what for",
        labels=["wait"],
    )
    for wait, label in WAITS.items():
        waiting.add_metric([label], float(sum(one.waiting.messages[wait] for one in dispatchers)))
    yield waiting
    bounds = GaugeMetricFamily(
        "magnetar_broker_bounded_subscriptions", "Subscriptions that are at a bound, by which",
        labels=["bound"],
    )
    met = Counter(block for one in subscriptions for block in bounds_met(one))
    for block in BOUNDS:
        label = block.name.lower().removesuffix("_bound")
        bounds.add_metric([label], float(met[block]))
    yield bounds
