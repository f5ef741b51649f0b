"""Deliveries to the listeners of a live topic: a backend publishes, the next when all have heard an earlier one."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import Final

from loadtest.backend import Asked, Backend
from loadtest.figures import Figure, latency
from loadtest.machine import Meter
from loadtest.phone import Address, Phone, connect_all, hang_up, text_frame
from loadtest.servers import Server

TOPIC: Final = "live:loadtest"
WARM_UP_S: Final = 0.5
SETTLE_S: Final = 10.0

_SUBSCRIBE: Final = text_frame(f'420["topic:subscribe",{{"topic":"{TOPIC}"}}]'.encode())
_MARK: Final = b'42["notification",'


class Room:
    """What all listeners share. All hear the events of the topic in the same order, so the n-th of one is the n-th
    of all, and counting is enough; one of them keeps the whole messages, to be checked."""

    def __init__(self, size: int, outstanding: int) -> None:
        self.size = size
        self.deliveries = 0
        self.faults = 0
        self.subscribed = 0
        self.missing: list[int] = []  # of each event: listeners that have not heard it yet
        self.free = asyncio.Semaphore(outstanding)
        self.published_at: list[float] = []
        self.waits: list[float] = []
        self.kept: list[bytes] = []

    def hear(self, number: int) -> None:
        """One listener has heard its `number`-th event."""
        self.deliveries += 1
        if number == len(self.missing):
            self.missing.append(self.size)
        self.missing[number] -= 1
        if not self.missing[number]:
            self.waits.append(time.perf_counter() - self.published_at[number])
            self.free.release()


class Listener(Phone):
    """Subscribes and listens."""

    __slots__ = ("_heard", "_keeps", "_room")

    def __init__(self, address: Address, auth: bytes, room: Room, *, keeps: bool) -> None:
        super().__init__(address, auth)
        self._room = room
        self._heard = 0
        self._keeps = keeps

    def acked(self, ack_id: int, message: bytes) -> None:
        self._room.subscribed += 1

    def heard(self, message: bytes) -> None:
        room = self._room
        if message[:18] != _MARK:
            room.faults += 1
            return
        if self._keeps:
            room.kept.append(message)
        room.hear(self._heard)
        self._heard += 1


async def run_fanout(server: Server, *, listeners: int, outstanding: int, seconds: float) -> Figure:
    """Deliveries per second, and how long an event takes to its last listener."""
    room = Room(listeners, outstanding)
    phones = await connect_all(
        server.address,
        lambda number: Listener(server.address, server.auth(number + 1), room, keeps=number == 0),
        listeners,
    )
    for phone in phones:
        phone.say_now(_SUBSCRIBE)
    async with asyncio.timeout(SETTLE_S):
        while room.subscribed < listeners:
            await asyncio.sleep(0.02)
    figure = await _measure(server, room, outstanding, seconds)
    await hang_up(phones)
    return figure


async def _measure(server: Server, room: Room, outstanding: int, seconds: float) -> Figure:
    token, run = server.token("loadtest", "service"), uuid.uuid4().hex[:8]
    stop = asyncio.Event()
    publishers = [asyncio.create_task(_publish(server, token, run, room, stop)) for _ in range(outstanding)]
    await asyncio.sleep(WARM_UP_S)
    meter, before, begun = Meter(server.pid), room.deliveries, time.perf_counter()
    room.waits.clear()
    await asyncio.sleep(seconds)
    done, elapsed, usage = room.deliveries - before, time.perf_counter() - begun, meter.usage()
    waits = list(room.waits)
    stop.set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            await asyncio.gather(*publishers)
            while room.deliveries < len(room.published_at) * room.size:
                await asyncio.sleep(0.02)
    for publisher in publishers:
        publisher.cancel()
    missing = len(room.published_at) * room.size - room.deliveries
    repeated = len(room.kept) - len(set(room.kept))
    return Figure(
        measure=f"fanout, {outstanding} outstanding",
        server=server.name,
        value=done / elapsed,
        unit="deliveries/s",
        samples=done,
        latency_ms=latency(waits),
        server_cores=usage.server,
        database_cores=usage.database,
        client_cores=usage.client,
        faults=room.faults + abs(missing) + repeated,
        note=f"{room.size:,} listeners",
    )


async def _publish(server: Server, token: str, run: str, room: Room, stop: asyncio.Event) -> None:
    async with Backend(server.address.host, server.address.port, token) as backend:
        while not stop.is_set():
            await room.free.acquire()
            number = len(room.published_at)
            room.published_at.append(time.perf_counter())
            event = {"id": f"{run}-{number:08}", "type": "goal", "topic": TOPIC, "data": {"home": 2, "away": 1}}
            await backend.ask(Asked("POST", "/v1/events", event))
