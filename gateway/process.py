"""One run of the gateway, from its database to its exit status."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import Any

import structlog

from gateway import logs
from gateway.settings import Settings
from gateway.supervisor import Supervisor
from gateway.wiring import Node
from storage.db import connect
from storage.embedded import EmbeddedPostgres
from storage.migrate import ensure_current, migrate

log = structlog.get_logger()


async def serve(settings: Settings, *, demo: bool) -> int:
    """Run the gateway until SIGTERM or SIGINT (0) or until one of its services dies (1)."""
    logs.configure(settings.log.level, settings.log.format)
    async with AsyncExitStack() as stack:
        supervisor = Supervisor()
        stack.push_async_callback(supervisor.stop)  # again further down; this one is for a start that fails
        dsn = await _database(settings, stack, supervisor)
        node = Node(settings, dsn, supervisor)
        await node.start(stack, demo=demo)
        stop = _stop_signal()
        died = asyncio.create_task(supervisor.died())
        waited: list[asyncio.Future[Any]] = [stop, died]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            died.cancel()
            await node.drain()
            return 0
        log.error("service_died", reason=str(died.result()))
        return 1


async def _database(settings: Settings, stack: AsyncExitStack, supervisor: Supervisor) -> str:
    """The database's address: one's own, on a schema that is current; or ours, started and migrated."""
    if not settings.is_embedded:
        conn = await connect(settings.database.url)
        try:
            await ensure_current(conn)
        finally:
            await conn.close()
        return settings.database.url
    postgres = EmbeddedPostgres(
        settings.data_path, binaries=settings.binaries_path, serving_port=settings.server.port or None
    )
    dsn = (await stack.enter_async_context(postgres)).dsn
    conn = await connect(dsn)
    try:
        await migrate(conn)
    finally:
        await conn.close()
    supervisor.start("postgres", postgres.keep_running())
    return dsn


def _stop_signal() -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def ask() -> None:
        if not stop.done():
            stop.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    return stop
