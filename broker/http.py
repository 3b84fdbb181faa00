"""HTTP for operators: health and metrics.

    GET  /healthz     200 while the process is worth keeping
    GET  /readyz      200 while it is registered and serves, else 503
    GET  /metrics     Prometheus text
    GET  /v1/broker   state as JSON
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.dispatch_metrics import dispatch_metrics
from broker.node import BrokerNode
from broker.subscription_name import group_of
from magnetar.runtime.network import Address


class BrokerMetrics(Collector):
    """Reads the counters when asked, so that counting costs nothing."""

    def __init__(self, node: BrokerNode) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        broker, service = self._node.broker, self._node.service
        if broker is None or service is None:
            return
        counted = asdict(broker.counters)
        counted |= {f"schedule_{name}": n for name, n in counted.pop("schedules").items()}
        for name, value in counted.items():
            yield CounterMetricFamily(f"magnetar_broker_{name}", name.replace("_", " "), value)
        for name, value in asdict(broker.lanes.counters).items():
            yield CounterMetricFamily(f"magnetar_broker_{name}", name.replace("_", " "), value)
        yield CounterMetricFamily(
            "magnetar_broker_takeovers", "Topics taken from silent brokers",
            broker.ownership.takeovers_total,
        )
        yield from self._administration()
        topics = broker.registry.all()
        subscriptions = [one for topic in topics for one in topic.subscriptions()]
        for name, text, level in (
            ("topics", "Loaded topics", len(topics)),
            ("producers", "Connected producers",
             sum(len(one.publishing.producers) for one in topics)),
            ("consumers", "Connected consumers", sum(len(one.consumers) for one in subscriptions)),
            ("subscriptions", "Subscriptions of loaded topics", len(subscriptions)),
            ("backlog_messages", "Messages not acknowledged, over all subscriptions",
             sum(one.backlog_messages for one in subscriptions)),
            ("scheduled_messages", "Messages that wait to be due",
             sum(one.schedule.count for one in topics)),
            ("schedule_memory_bytes", "Of what waits in memory to be due",
             sum(one.schedule.memory_bytes for one in topics)),
            ("schedule_held_topics", "Topics whose delayed messages hold their producers back",
             broker.schedules.held_topics),
            ("blocked_schedules", "Topics whose schedule waits for bookies",
             sum(one.schedule.blocked_reason is not None for one in topics)),
            ("expired_messages", "Messages that waited too long, since their topics were loaded",
             sum(one.expiry.expired_messages for one in subscriptions)),
            ("forward_waiting_messages", "Messages that are to go to another topic",
             sum(one.lanes.waiting_messages for one in topics)),
            ("forward_problems", "Subscriptions whose messages cannot go to another topic",
             sum(len(one.lanes.problems) for one in topics)),
            ("pull_sessions", "Pullers", sum(len(one.pulls) for one in topics)),
            ("pull_leased_entries", "Entries that pullers have not settled",
             sum(one.pulls.leased_entries for one in topics)),
            ("cursor_chunks", "Bitmaps of acknowledgements above the cursors' floors",
             sum(one.cursor.chunk_count for one in subscriptions)),
            ("pending_publish_bytes", "Bytes on their way to the bookies",
             sum(one.publishing.pending_bytes for one in topics)),
            ("topic_watchers", "Streams that are told of topics that come and go",
             broker.topic_watches.watchers),
            ("held_topics", "Topics whose backlog holds their producers back",
             sum(one.gate.holds for one in topics)),
            ("evicted_messages", "Messages dropped unconsumed by a quota, since their topics were"
             " loaded", sum(sum(one.quota.evicted.values()) for one in topics)),
            ("stored_bytes", "Bytes of the entries kept, one copy of each",
             sum(one.log.log.size_bytes for one in topics)),
            ("blocked_topics", "Topics whose appends wait for bookies",
             sum(one.log.log.blocked_reason is not None for one in topics)),
            ("sources", "Producer names remembered", sum(len(one.state.sources) for one in topics)),
            ("forgotten_sources", "Automatic names forgotten since their topics were loaded",
             sum(one.state.sources.forgotten_total for one in topics)),
            ("tail_cache_bytes", "Bytes of the tail cache", broker.cache.size_bytes),
            ("tail_cache_entries", "Entries in the tail cache", len(broker.cache)),
            ("relays", "Streams passed on to other brokers", service.relay.streams),
            ("streams", "Open streams", service.streams),
            ("serving", "1 while registered and serving", int(broker.serving)),
        ):
            yield GaugeMetricFamily(f"magnetar_broker_{name}", text, float(level))
        yield from dispatch_metrics(subscriptions)

    def _administration(self) -> Iterator[Metric]:
        admin = self._node.admin_service
        if admin is not None:
            yield CounterMetricFamily(
                "magnetar_broker_admin_calls", "Calls of administration", admin.calls
            )
            yield CounterMetricFamily(
                "magnetar_broker_admin_failed_calls",
                "Calls of administration answered by an error", admin.failed_calls,
            )


class BrokerHttp:
    """The admin port of one broker."""

    def __init__(self, node: BrokerNode) -> None:
        self._node = node
        self._registry = CollectorRegistry()
        self._registry.register(BrokerMetrics(node))
        application = web.Application(client_max_size=64 << 10)
        application.add_routes([
            web.get("/healthz", self._health),
            web.get("/readyz", self._readiness),
            web.get("/metrics", self._metrics),
            web.get("/v1/broker", self._state),
        ])
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self, address: Address) -> Address:
        """Open the port and say which it is."""
        await self._runner.setup()
        await web.TCPSite(self._runner, address.host, address.port).start()
        return Address(address.host, self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port."""
        await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        ready = self._node.ready
        text = "ready" if ready else "not ready"
        return web.Response(text=f"{text}\n", status=200 if ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), content_type="text/plain", charset="utf-8"
        )

    async def _state(self, _: web.Request) -> web.Response:
        broker = self._node.broker
        topics = [] if broker is None else broker.registry.all()
        return web.json_response({
            "broker_id": self._node.settings.broker_id,
            "address": str(self._node.address),
            "ready": self._node.ready,
            "topics": [
                {
                    "name": topic.name,
                    "epoch": topic.log.log.owner.epoch,
                    "producers": len(topic.publishing.producers),
                    "end_ordinal": topic.log.end_ordinal,
                    "blocked": topic.log.log.blocked_reason,
                    "forward_problems": topic.lanes.problems,
                    "subscriptions": [
                        {
                            "name": group_of(one.name), "member": one.member,
                            "type": one.kind.name.lower(), "consumers": len(one.consumers),
                            "backlog": one.backlog_messages, "blocked": one.dispatcher.problem,
                        }
                        for one in topic.subscriptions()
                    ],
                }
                for topic in topics[:1_000]
            ],
        })
