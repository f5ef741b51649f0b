"""The parent of workers: what it does with one that hangs, can't start or can't end; and the port they share."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import msgspec
import pytest

from gateway.settings import Auth, Database, Drain, Server, Settings
from gateway.supervisor import Supervisor
from gateway.workers import parent as workers
from gateway.workers.parent import WorkerFailed, Workers
from gateway.workers.port import reserve
from tests.support.cluster import SECRET
from tests.support.processes import runs, workers_of

PATIENCE_S = 30.0


@asynccontextmanager
async def parent(dsn: str, **changes: object) -> AsyncIterator[Workers]:
    """Two workers in the making, on a database that is not ours."""
    with ExitStack() as stack:
        server = Server(port=reserve("127.0.0.1", 0, stack), workers=2)
        settings = Settings(
            server=server, database=Database(url=dsn), auth=Auth(secret=SECRET), drain=Drain(timeout_s=0.5)
        )
        supervisor = Supervisor()
        made = Workers(msgspec.structs.replace(settings, **changes), dsn, supervisor, demo=False)
        try:
            await made.open()
            yield made
        finally:
            await made.end()
            await supervisor.stop()


async def test_a_worker_that_hangs_is_killed_and_started_again(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PING_EVERY_S", 0.2)
    async with parent(dsn) as made:
        await made.start()
        before = workers_of(os.getpid())
        os.kill(before[1], signal.SIGSTOP)
        async with asyncio.timeout(PATIENCE_S):
            while workers_of(os.getpid()).get(1, before[1]) == before[1] or not made.is_ready(1):
                await asyncio.sleep(0.02)
        assert workers_of(os.getpid())[0] == before[0]
        assert not runs(before[1])
        assert await made.drain()


async def test_workers_that_can_t_start_end_the_command(dsn: str) -> None:
    async with parent("postgresql://x@127.0.0.1:1/x") as made:
        with pytest.raises(WorkerFailed, match="ended with status 1"):
            await made.start()


async def test_a_worker_that_does_not_drain_in_time_is_killed(dsn: str) -> None:
    async with parent(dsn) as made:
        await made.start()
        children = workers_of(os.getpid())
        os.kill(children[0], signal.SIGSTOP)
        assert await made.drain() is False
        await made.end()
        assert not any(map(runs, children.values()))


async def test_nobody_else_gets_a_reserved_port_and_it_is_free_afterwards() -> None:
    with ExitStack() as stack, ExitStack() as other:
        port = reserve("localhost", 0, stack)
        with pytest.raises(OSError, match="in use"):
            reserve("localhost", port, other)
        with pytest.raises(OSError, match="in use"):
            await asyncio.start_server(_ignore, "127.0.0.1", port)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        first, second = [await asyncio.start_server(_ignore, "127.0.0.1", port, reuse_port=True) for _ in range(2)]
        reader, _ = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        first.close()
        second.close()
    with ExitStack() as stack:
        assert reserve("localhost", port, stack) == port


def test_addresses_of_both_families_can_be_reserved() -> None:
    with ExitStack() as stack:
        for host in ("0.0.0.0", "::1") if socket.has_ipv6 else ("0.0.0.0",):
            assert reserve(host, 0, stack) > 0
        with pytest.raises(OSError):  # noqa: PT011 - whichever the resolver gives
            reserve("no.such.host.invalid", 0, stack)


async def _ignore(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
