"""Deliveries to the listeners of a live topic: a backend publishes, the next when all have heard an earlier one."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from loadtest.backend import Asked, Backend
from loadtest.crew import Count, Part, Share, Target, new_run
from loadtest.figures import Figure
from loadtest.measure import PLAINLY, Conduct, Window, measured
from loadtest.phone import Address, Phone, connect_all, hang_up, text_frame
from loadtest.servers import Server

TOPIC: Final = "live:loadtest"
WARM_UP_S: Final = 0.5
SETTLE_S: Final = 10.0

_SUBSCRIBE: Final = text_frame(f'420["topic:subscribe",{{"topic":"{TOPIC}"}}]'.encode())
_MARK: Final = b'42["notification",'
_HEAD: Final = b"\x81\x7e"  # of a text frame whose size stands in two bytes


class FanoutJob(msgspec.Struct, frozen=True, tag="fanout", kw_only=True):
    """So many listeners of one topic. The first part publishes, and times its own share of them."""

    listeners: int
    outstanding: int
    base: int = 0

    def part(self, target: Target, share: Share) -> Part:
        """One process's listeners."""
        return FanoutPart(self, target, share)


class Room:
    """What a part's listeners share. All hear the events of the topic in the same order, so the n-th of one is the
    n-th of all, and counting is enough; one of them keeps the whole messages, to be checked."""

    def __init__(self, size: int, outstanding: int, count: Count) -> None:
        self.size = size
        self.count = count
        self.subscribed = 0
        self.missing: list[int] = []  # of each event: listeners that have not heard it yet
        self.free = asyncio.Semaphore(outstanding)
        self.published_at: list[float] = []  # empty where another part publishes
        self.kept: list[bytes] = []

    def hear(self, first: int, upto: int) -> None:
        """One listener has heard its events from the `first`-th on, below the `upto`-th."""
        missing = self.missing
        self.count.done += upto - first
        for number in range(first, upto):
            if number == len(missing):
                missing.append(self.size)
            missing[number] -= 1
            if not missing[number] and self.published_at:
                self.count.waits.record(time.perf_counter() - self.published_at[number])
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

    def data_received(self, data: bytes) -> None:
        """A chunk of whole events is only counted: a client that looked at each would be slower than a server."""
        events = 0 if self.ready is not None or self._rest or self._keeps else _events_in(data)
        if not events:
            super().data_received(data)
            return
        self._room.hear(self._heard, self._heard + events)
        self._heard += events

    def heard(self, message: bytes) -> None:
        room = self._room
        if message[: len(_MARK)] != _MARK:
            room.count.fault(message)
            return
        if self._keeps:
            room.kept.append(message)
        room.hear(self._heard, self._heard + 1)
        self._heard += 1


def _events_in(data: bytes) -> int:
    """How many there are where it is whole notifications of 126 to 65,535 bytes and nothing else; else 0."""
    at, end, events = 0, len(data), 0
    while at < end:
        if not data.startswith(_HEAD, at) or not data.startswith(_MARK, at + 4):
            return 0
        at += 4 + (data[at + 2] << 8) + data[at + 3]
        events += 1
    return events if at == end else 0


class FanoutPart(Part):
    """Some of the listeners; of the first part the publishers too."""

    def __init__(self, job: FanoutJob, target: Target, share: Share) -> None:
        super().__init__()
        self._job, self._target, self._share = job, target, share
        self._people = share.of_people(job.listeners)
        self._room = Room(len(self._people), job.outstanding, self.count)
        self._phones: list[Listener] = []
        self._publishers: list[asyncio.Task[None]] = []
        self._stopped = False

    async def prepare(self) -> None:
        target, room, people, base = self._target, self._room, self._people, self._job.base
        self._phones = await connect_all(
            target.address,
            lambda at: Listener(target.address, target.auth(base + people[at] + 1), room, keeps=at == 0),
            len(people),
        )
        for phone in self._phones:
            phone.say_now(_SUBSCRIBE)
        async with asyncio.timeout(SETTLE_S):
            while room.subscribed < room.size:
                await asyncio.sleep(0.02)

    async def begin(self) -> None:
        if self._share.number == 0:
            token, run = self._target.token("loadtest", "service"), new_run()
            self._publishers = [asyncio.create_task(self._publish(token, run)) for _ in range(self._job.outstanding)]

    async def stop(self) -> None:
        self._stopped = True

    async def end(self) -> None:
        for publisher in self._publishers:
            publisher.cancel()
        await asyncio.gather(*self._publishers, return_exceptions=True)
        self.count.faults += len(self._room.kept) - len(set(self._room.kept))  # heard twice
        await hang_up(self._phones)

    async def _publish(self, token: str, run: str) -> None:
        room, address = self._room, self._target.address
        async with Backend(address.host, address.port, token) as backend:
            while await room.free.acquire() and not self._stopped:
                number = len(room.published_at)
                room.published_at.append(time.perf_counter())
                self.count.sent += self._job.listeners
                event = {"id": f"{run}-{number:08}", "type": "goal", "topic": TOPIC, "data": {"home": 2, "away": 1}}
                await backend.ask(Asked("POST", "/v1/events", event))


async def run_fanout(
    server: Server, *, listeners: int, outstanding: int, seconds: float, conduct: Conduct = PLAINLY, base: int = 0
) -> Figure:
    """Deliveries per second, and how long an event takes to its last listener."""
    job = FanoutJob(listeners=listeners, outstanding=outstanding, base=base)
    window = Window(f"fanout, {outstanding} outstanding", "deliveries/s", seconds, WARM_UP_S)
    figure, count = await measured(server, job, window, conduct)
    note = "; ".join(filter(None, (figure.note, f"{listeners:,} listeners")))
    return msgspec.structs.replace(figure, faults=figure.faults + abs(count.sent - count.done), note=note)
