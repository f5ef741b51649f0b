"""What breaks: named to nobody, logged without what was sent, and over when its cause is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from aiohttp import ClientResponse, web
from structlog.testing import capture_logs

import gateway.http.door
import storage.pool
from gateway.http.door import Door, Reply, Visit
from gateway.http.log import server_log
from gateway.http.problems import answer_problems
from handlers.errors import Refusal
from tests.support.site import SealedPool, Site, problem_of, serving, token_of


def raising(error: Exception) -> Callable[[Door], list[web.RouteDef]]:
    """A route that fails, with a GET and a POST."""

    async def read(visit: Visit) -> Reply:
        raise error

    async def write(visit: Visit, body: dict[str, Any]) -> Reply:
        raise error

    return lambda door: [
        web.get("/v1/fails", door.reads(read)),
        web.post("/v1/fails", door.writes(write, dict[str, Any])),
    ]


async def test_faults_tell_nobody_anything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "a very private text"
    async with serving(SealedPool(), extra=raising(KeyError(secret))) as site:
        with capture_logs() as logs:
            read = await problem_of(await site.ask("GET", "/v1/fails", "service"), 500, "internal")
            write = await problem_of(
                await site.ask("POST", "/v1/fails", "service", json={"a": secret}), 500, "internal"
            )
    assert ("outcome" in read, write["outcome"]) == (False, "unknown")
    told = f"{logs} {caplog.text} {read} {write}"
    assert secret not in told
    assert token_of("service")[:20] not in told
    assert "Traceback" not in told
    assert [(log["event"], log["error"], log["route"]) for log in logs] == [("http_fault", "KeyError", "/v1/fails")] * 2
    assert "raising" in str(logs[0]["at"][-1])


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        asyncpg.AdminShutdownError("x"),
        asyncpg.InterfaceError("connection is closed"),
    ],
)
async def test_a_lost_database_is_unavailable(error: Exception) -> None:
    async with serving(SealedPool(), extra=raising(error)) as site:
        response = await site.ask("GET", "/v1/fails", "service")
        body = await problem_of(response, 503, "unavailable")
        assert (body["retryable"], body["retryAfterMs"], response.headers["Retry-After"]) == (True, 1000, "1")
        assert "outcome" not in body
        body = await problem_of(await site.ask("POST", "/v1/fails", "service", json={}), 503, "unavailable")
        assert body["outcome"] == "unknown"


async def test_a_deadlock_left_nothing_behind() -> None:
    async with serving(SealedPool(), extra=raising(asyncpg.DeadlockDetectedError("x"))) as site:
        body = await problem_of(await site.ask("POST", "/v1/fails", "service", json={}), 503, "unavailable")
        assert "outcome" not in body


async def test_refusals_carry_what_helps() -> None:
    refusal = Refusal("rate_limited", "Too many.", retry_after_ms=1500)
    async with serving(SealedPool(), extra=raising(refusal)) as site:
        response = await site.ask("GET", "/v1/fails", "service")
        body = await problem_of(response, 429, "rate_limited")
        assert (body["retryAfterMs"], response.headers["Retry-After"]) == (1500, "2")


class FrozenProxy:
    """Stands between pool and database, and lets nothing through any more once it is frozen."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def freeze(self) -> None:
        self._is_open.clear()

    def thaw(self) -> None:
        self._is_open.set()

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._to)
        for source, sink in ((reader, upstream_writer), (upstream_reader, writer)):
            task = asyncio.ensure_future(self._copy(source, sink))
            self._tasks.add(task)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                await self._is_open.wait()
                sink.write(data)
        except OSError:
            pass
        finally:
            sink.close()


@pytest.fixture
async def frozen_site(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Site, FrozenProxy]]:
    """A server whose database can be frozen, with all patience a tenth as long."""
    monkeypatch.setattr(storage.pool, "ACQUIRE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(gateway.http.door, "DEED_PATIENCE_S", 0.25)
    address = urlsplit(dsn)
    proxy = FrozenProxy(address.hostname or "", address.port or 0)
    proxied_port = await proxy.start()
    pool = await asyncpg.create_pool(dsn, host="127.0.0.1", port=proxied_port, min_size=1, max_size=2)
    async with serving(pool) as site:
        yield site, proxy
    proxy.thaw()
    pool.terminate()
    await proxy.stop()


async def test_a_frozen_database_is_unavailable_in_time_and_comes_back(frozen_site: tuple[Site, FrozenProxy]) -> None:
    site, proxy = frozen_site
    assert (await site.ask("GET", "/v1/users/7")).status == 404
    proxy.freeze()
    began = time.monotonic()
    answers: list[Awaitable[ClientResponse]] = [site.ask("GET", "/v1/users/7") for _ in range(6)]
    for response in await asyncio.gather(*answers):
        await problem_of(response, 503, "unavailable")
    assert time.monotonic() - began < 2.5
    proxy.thaw()
    await asyncio.sleep(0.1)
    assert (await site.ask("GET", "/v1/users/7")).status == 404


async def test_what_is_no_http_leaves_nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    runner = web.AppRunner(web.Application(middlewares=[answer_problems]), access_log=None, logger=server_log())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    for request in (
        b"GET /v1/me HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer private\r\n\r\n",
        b"BREW /v1/me?token=private HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer private" + b"x" * 20_000 + b"\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(request)
        assert b" 400 " in await reader.readline()
        writer.close()
    await runner.cleanup()
    assert "private" not in caplog.text
    assert "Traceback" not in caplog.text


def test_a_fault_in_the_server_is_named_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise KeyError("private")
    except KeyError:
        server_log().exception("Error handling request from %s", "10.0.0.1")
    assert "Error handling request from 10.0.0.1: KeyError" in caplog.text
    assert "private" not in caplog.text
    assert "Traceback" not in caplog.text
