"""`GET /metrics`: what Prometheus scrapes, without a token; and the middleware that counts requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.counts import OTHER, HttpCounts, Throttle
from gateway.workers.scrape import Families

log = structlog.get_logger()

# A scrape takes some milliseconds, and nobody proves who they are here: it is written at most so often.
KEEP_S: Final = 0.2
SLOW_LINE_EVERY_S: Final = 5.0


class _Snapshot(Collector):
    """Families as they were, so that they can be written on another thread."""

    def __init__(self, families: list[Metric]) -> None:
        self.taken_at = time.monotonic()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def metrics_routes(families: Families) -> list[web.RouteDef]:
    """The text format, or OpenMetrics for who asks for it; compressed likewise; `name[]` asks for some only."""
    kept: dict[str, tuple[float, bytes]] = {}  # content type -> when, what

    async def get_metrics(request: web.Request) -> web.StreamResponse:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        names = request.query.getall("name[]", [])
        written_at, body = kept.get(content_type, (-KEEP_S, b""))
        if names:
            asked = CollectorRegistry(auto_describe=True)
            asked.register(_Snapshot(await families()))
            body = encode(asked.restricted_registry(names))
        elif time.monotonic() - written_at >= KEEP_S:
            snapshot = _Snapshot(await families())
            body = await asyncio.to_thread(encode, snapshot)  # most of the time goes into writing
            kept[content_type] = (snapshot.taken_at, body)
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    return [web.get("/metrics", get_metrics)]


def counting(counts: HttpCounts, *, slow_s: float) -> Middleware:
    """The outermost middleware: counts every answer, and names slow ones in the log, one in a while."""
    slow_line = Throttle(SLOW_LINE_EVERY_S)

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        response = await handler(request)  # a handshake that succeeds ends in a cancellation: no answer of HTTP's
        took_s = time.perf_counter() - began
        resource = request.match_info.route.resource
        route = resource.canonical if resource else OTHER
        method = request.method if request.method in hdrs.METH_ALL else OTHER
        counts.count(route, method, response.status, took_s)
        if took_s >= slow_s and (missed := slow_line.take()) is not None:
            took_ms = int(took_s * 1000)
            log.warning("http_slow", route=route, method=method, status=response.status, took_ms=took_ms, missed=missed)
        return response

    return count
