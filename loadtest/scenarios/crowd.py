"""Many who do nothing: what an idle connection costs in memory, and how fast connections come."""

from __future__ import annotations

import asyncio
import resource
import time
from typing import Final

from loadtest.figures import Figure
from loadtest.machine import Meter, rss_kib
from loadtest.phone import Phone, connect_all, hang_up
from loadtest.servers import Server

WARM_UP: Final = 100
SETTLE_S: Final = 2.0
SPARE_FILES: Final = 500


def most_connections(wanted: int) -> int:
    """As many as `wanted`, or as this process (and a server with the same limit) may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < min(hard, wanted + SPARE_FILES):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return min(wanted, soft - SPARE_FILES)


async def run_idle(server: Server, *, connections: int, first_user: int) -> Figure:
    """KiB of the server's resident memory per idle connection, each of another user. Needs a fresh server: what an
    earlier crowd has left behind would be taken again and hide the cost."""
    count = most_connections(connections)
    auths = [server.auth(first_user + number) for number in range(count + WARM_UP)]
    early = await connect_all(server.address, lambda number: Phone(server.address, auths[count + number]), WARM_UP)
    await asyncio.sleep(SETTLE_S)
    before, meter = rss_kib(server.pid), Meter(server.pid)
    phones = await connect_all(server.address, lambda number: Phone(server.address, auths[number]), count)
    usage = meter.usage()
    await asyncio.sleep(SETTLE_S)
    grown = rss_kib(server.pid) - before
    await hang_up([*early, *phones])
    return Figure(
        measure="idle",
        server=server.name,
        value=grown / count,
        unit="KiB/connection",
        samples=count,
        server_cores=usage.server,
        database_cores=usage.database,
        client_cores=usage.client,
        note=f"at {count:,}",
    )


async def run_connects(server: Server, *, connections: int, first_user: int) -> Figure:
    """Connects per second up to the welcome, of users that the server knows, with a `lastSeq` to resume from."""
    count = most_connections(connections)
    auths = [server.auth(first_user + number, last_seq=0) for number in range(count)]
    meter, begun = Meter(server.pid), time.perf_counter()
    phones = await connect_all(server.address, lambda number: Phone(server.address, auths[number]), count)
    elapsed, usage = time.perf_counter() - begun, meter.usage()
    await hang_up(phones)
    return Figure(
        measure="connects",
        server=server.name,
        value=count / elapsed,
        unit="connects/s",
        samples=count,
        server_cores=usage.server,
        database_cores=usage.database,
        client_cores=usage.client,
        note=f"of {count:,}",
    )
