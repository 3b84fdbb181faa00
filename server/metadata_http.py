"""HTTP for operators of the served metadata: health and metrics.

    GET  /healthz   200 while the process is worth keeping
    GET  /readyz    200 while it takes sessions
    GET  /metrics   Prometheus text
"""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from magnetar.runtime.network import Address
from metadata.embedded import EmbeddedStore


class MetadataMetrics(Collector):
    """Reads the store when asked."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        for name, text, level in (
            ("nodes", "Nodes of the tree", self._store.node_count),
            ("sessions", "Remote sessions", self._store.remote_session_count),
        ):
            yield GaugeMetricFamily(f"magnetar_metadata_{name}", text, float(level))


class MetadataHttp:
    """The admin port of one metadata process."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(MetadataMetrics(store))
        application = web.Application()
        application.add_routes(
            [
                web.get("/healthz", self._healthy),
                web.get("/readyz", self._healthy),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self, address: Address) -> Address:
        """Open the port and say which it is."""
        await self._runner.setup()
        await web.TCPSite(self._runner, address.host, address.port).start()
        return Address(address.host, self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port."""
        await self._runner.cleanup()

    async def _healthy(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), content_type="text/plain")
