"""Bare acks: an event that stores nothing, a few in flight on each connection, as fast as they are answered."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from loadtest.figures import Figure, latency
from loadtest.machine import Meter
from loadtest.phone import Address, Phone, connect_all, hang_up, text_frame
from loadtest.servers import Server

IN_FLIGHT: Final = 4
WARM_UP_S: Final = 0.5

_FRAMES: Final = [
    text_frame(b'42%d["topic:unsubscribe",{"topic":"live:nobody"}]' % number) for number in range(IN_FLIGHT)
]
_GOOD: Final = b'"ok":true'


class Count:
    """What all phones of a run share."""

    def __init__(self) -> None:
        self.acks = 0
        self.faults = 0
        self.waits: list[float] = []
        self.stopped = False


class Echoer(Phone):
    """Asks again as soon as it is answered, in each of its slots."""

    __slots__ = ("_asked_at", "_count")

    def __init__(self, address: Address, auth: bytes, count: Count) -> None:
        super().__init__(address, auth)
        self._count = count
        self._asked_at = [0.0] * IN_FLIGHT

    def begin(self) -> None:
        self._asked_at = [time.perf_counter()] * IN_FLIGHT
        self.say_now(b"".join(_FRAMES))

    def acked(self, ack_id: int, message: bytes) -> None:
        count, now = self._count, time.perf_counter()
        count.acks += 1
        count.waits.append(now - self._asked_at[ack_id])
        if _GOOD not in message:
            count.faults += 1
        if not count.stopped:
            self._asked_at[ack_id] = now
            self.say(_FRAMES[ack_id])

    def lost(self) -> None:
        if not self._count.stopped:
            self._count.faults += 1


async def run_echo(server: Server, *, connections: int, seconds: float) -> Figure:
    """Acks per second."""
    count = Count()
    phones = await connect_all(
        server.address, lambda number: Echoer(server.address, server.auth(number + 1), count), connections
    )
    for phone in phones:
        phone.begin()
    await asyncio.sleep(WARM_UP_S)
    meter, before, begun = Meter(server.pid), count.acks, time.perf_counter()
    count.waits.clear()
    await asyncio.sleep(seconds)
    done, elapsed, usage = count.acks - before, time.perf_counter() - begun, meter.usage()
    waits, count.stopped = count.waits, True
    await hang_up(phones)
    return Figure(
        measure="echo",
        server=server.name,
        value=done / elapsed,
        unit="acks/s",
        samples=done,
        latency_ms=latency(waits),
        server_cores=usage.server,
        database_cores=usage.database,
        client_cores=usage.client,
        faults=count.faults,
    )
