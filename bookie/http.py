"""HTTP for operators: health, metrics, state, garbage collection, accepted losses.

    GET  /healthz              200 while the process is worth keeping
    GET  /readyz               200 while it serves and is announced, else 503
    GET  /metrics              Prometheus text
    GET  /v1/bookie            state as JSON
    POST /v1/bookie/gc         collect now; answers when done
    POST /v1/bookie/read-only  {"read_only": true}
    POST /v1/bookie/accept-loss  {"reason": "...", "ledger_id": 7}   all ledgers without an id
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bookie.node import BookieNode
from magnetar.errors import StorageError
from magnetar.ids import LedgerId
from magnetar.runtime.network import Address

_MAX_BODY_BYTES = 64 << 10


class BookieMetrics(Collector):
    """Reads the counters when asked, so that counting costs nothing."""

    def __init__(self, node: BookieNode) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        storage = self._node.storage
        for name, value in asdict(storage.counters).items():
            yield CounterMetricFamily(f"magnetar_bookie_{name}", name.replace("_", " "), value)
        log = storage.log
        yield CounterMetricFamily("magnetar_bookie_commits", "Commits of the log", log.commits)
        yield CounterMetricFamily(
            "magnetar_bookie_commit_seconds", "Time spent in commits", log.commit_seconds
        )
        yield CounterMetricFamily(
            "magnetar_bookie_written_bytes", "Bytes of commits", log.written_bytes
        )
        for name, text, level in (
            ("pending_bytes", "Accepted and not yet durable", storage.pending_bytes),
            ("unindexed_bytes", "Durable and not yet indexed", storage.indexer.waiting_bytes),
            ("cached_bytes", "Entries kept for tail readers", storage.indexer.cached_bytes),
            ("log_bytes", "Size of all log files", storage.files.total_bytes()),
            ("live_bytes", "Of that, bytes of ledgers that are not deleted",
             storage.files.usage.total_bytes),
            ("compaction_short_of_bytes", "Free space that compaction lacks to go on",
             self._node.garbage.last.compaction.short_of_bytes),
            ("free_bytes", "Free space of the disk", storage.disk.free_bytes()),
            ("read_only", "1 while normal adds are refused", storage.space.read_only),
            ("limbo", "1 while negatives are not certain", storage.node_state.limbo_ceiling >= 0),
            ("links", "Open links", self._node.server.link_count if self._node.server else 0),
        ):
            yield GaugeMetricFamily(f"magnetar_bookie_{name}", text, float(level))


class BookieHttp:
    """The admin port of one bookie."""

    def __init__(self, node: BookieNode) -> None:
        self._node = node
        self._registry = CollectorRegistry()
        self._registry.register(BookieMetrics(node))
        application = web.Application(client_max_size=_MAX_BODY_BYTES)
        application.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/readyz", self._readiness),
                web.get("/metrics", self._metrics),
                web.get("/v1/bookie", self._state),
                web.post("/v1/bookie/gc", self._collect),
                web.post("/v1/bookie/read-only", self._read_only),
                web.post("/v1/bookie/accept-loss", self._accept_loss),
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

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        if self._node.ready:
            return web.Response(text="ready\n")
        return web.Response(text="not ready\n", status=503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), content_type="text/plain", charset="utf-8"
        )

    async def _state(self, _: web.Request) -> web.Response:
        storage = self._node.storage
        node_state, outcome = storage.node_state, storage.outcome
        return web.json_response(
            {
                "bookie_id": self._node.settings.bookie_id,
                "address": str(self._node.address),
                "serving": storage.serving,
                "registered": self._node.registered,
                "read_only": storage.space.read_only,
                "free_bytes": storage.disk.free_bytes(),
                "total_bytes": storage.disk.total_bytes(),
                "log_bytes": storage.files.total_bytes(),
                "live_bytes": storage.files.usage.total_bytes,
                "log_files": len(storage.files.listed),
                "ledgers": len(await storage.ledger_ids()),
                "pending_bytes": storage.pending_bytes,
                "limbo": {
                    "active": node_state.limbo_ceiling >= 0,
                    "epoch": node_state.limbo_epoch,
                    "ceiling": node_state.limbo_ceiling,
                    "fence_ceiling": node_state.fence_ceiling,
                },
                "last_start": {
                    "corrupt_regions": len(outcome.corrupt),
                    "corrupt_entries": len(outcome.corrupt_entries),
                    "lost_files": len(outcome.lost_files),
                    "torn_regions": len(outcome.torn),
                    "index_rebuilt": outcome.index_rebuilt,
                },
            }
        )

    async def _collect(self, _: web.Request) -> web.Response:
        try:
            result = await self._node.garbage.collect()
        except StorageError as error:
            return _error(503, str(error))
        return web.json_response(
            {
                "complete": result.complete,
                "deleted_ledgers": result.deleted_ledgers,
                "compacted_files": len(result.compaction.victims),
                "moved_entries": result.compaction.moved_entries,
                "freed_bytes": result.compaction.freed_bytes,
                "short_of_bytes": result.compaction.short_of_bytes,
            }
        )

    async def _read_only(self, request: web.Request) -> web.Response:
        body = await _json(request)
        wanted = body.get("read_only")
        if not isinstance(wanted, bool):
            return _error(400, 'the body must be {"read_only": true} or {"read_only": false}')
        self._node.storage.space.force(wanted)
        return web.json_response({"read_only": self._node.storage.space.read_only})

    async def _accept_loss(self, request: web.Request) -> web.Response:
        body = await _json(request)
        reason, ledger_id = body.get("reason"), body.get("ledger_id")
        if not isinstance(reason, str) or not reason.strip():
            return _error(400, "say why: {\"reason\": \"...\"}; it is written to the log")
        if ledger_id is not None and (not isinstance(ledger_id, int) or ledger_id < 0):
            return _error(400, "ledger_id is the number of a ledger, or left out for all")
        chosen = None if ledger_id is None else LedgerId(ledger_id)
        if not await self._node.storage.accept_loss(reason, chosen):
            return _error(503, "it could not be written; free some space and try again")
        return web.json_response({"accepted": True})


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
