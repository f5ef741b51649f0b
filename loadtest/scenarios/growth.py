"""Growth: what one event for one user costs while ever more others are connected and do nothing. It should not grow.

A backend publishes one event after the other, each for one of a few listeners, and each when the one before was heard.
What the server spends on its connections at rest (pings, the comparison of heads) is measured just before and taken
off; it does grow with them.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

import msgspec

from loadtest.backend import Asked, Backend
from loadtest.crew import Checked, Crew, Part, Share, Target, new_run
from loadtest.figures import Figure, per
from loadtest.measure import PLAINLY, Conduct, Window, measured
from loadtest.phone import Address, Phone, connect_all, hang_up
from loadtest.scenarios.crowd import CrowdJob, most_connections
from loadtest.servers import Server

LISTENERS: Final = 100
PARTS: Final = (15, 3, 1)  # of the most connections: at 15,000 also 1,000 and 5,000
WARM_UP_S: Final = 1.0
SETTLE_S: Final = 2.0
PATIENCE_S: Final = 10.0  # for one event
US: Final = 1e6

HEARD: Final = "events for one user, heard by that one alone, next in seq"


class GrowthJob(msgspec.Struct, frozen=True, tag="growth", kw_only=True):
    """Listeners from `first_user` on, and the backend that tells one after the other something."""

    first_user: int
    run: str

    def part(self, target: Target, share: Share) -> Part:
        """One process's listeners."""
        return GrowthPart(self, target, share)


class Event(msgspec.Struct):
    """Of an envelope what is looked at."""

    id: str
    seq: int


class Welcome(msgspec.Struct):
    """Of the welcome."""

    seq: int


class Listener(Phone):
    """Tells its part what it hears, and keeps to the order of `seq`."""

    __slots__ = ("_part", "seq")

    def __init__(self, address: Address, auth: bytes, part: GrowthPart) -> None:
        super().__init__(address, auth)
        self._part = part
        self.seq = 0

    def welcomed(self, message: bytes) -> None:
        self.seq = msgspec.json.decode(message[2:], type=tuple[str, Welcome])[1].seq

    def heard(self, message: bytes) -> None:
        event = msgspec.json.decode(message[2:], type=tuple[str, Event])[1]
        self.seq += 1
        self._part.take(self, event, is_next=event.seq == self.seq)


class GrowthPart(Part):
    """The first part has the listeners and the backend: there is one event at a time, however many processes."""

    def __init__(self, job: GrowthJob, target: Target, share: Share) -> None:
        super().__init__()
        self._job, self._target = job, target
        self._people = range(LISTENERS) if share.number == 0 else range(0)
        self._phones: list[Listener] = []
        self._heard = Checked(4, HEARD)
        self._stopped = False
        # What is on its way: who is to hear it, as what, since when.
        self._whose: Listener | None = None
        self._event_id = ""
        self._begun = 0.0
        self._arrived = asyncio.Event()

    async def prepare(self) -> None:
        target, first = self._target, self._job.first_user
        self._phones = [Listener(target.address, target.auth(first + number), self) for number in self._people]
        await connect_all(target.address, self._phones.__getitem__, len(self._phones))  # in any order

    async def begin(self) -> None:
        if self._phones:
            self.pacing = asyncio.create_task(self._publish())

    async def stop(self) -> None:
        self._stopped = True
        if self.pacing is not None:
            await self.pacing

    async def end(self) -> None:
        self.count.checked = [self._heard]
        self.count.faults += self.count.sent - self.count.done
        await hang_up(self._phones)

    def take(self, listener: Listener, event: Event, *, is_next: bool) -> None:
        """A listener has heard something."""
        if listener is self._whose and event.id == self._event_id and is_next:
            self.count.waits.record(time.perf_counter() - self._begun)
            self.count.done += 1
            self._whose = None
            self._arrived.set()
        else:
            self._heard.fault(f"{event.id} came as {event.seq}")

    async def _publish(self) -> None:
        address = self._target.address
        async with Backend(address.host, address.port, self._target.token("loadtest", "service")) as backend:
            while not self._stopped:
                number = self.count.sent
                self._whose, self._event_id = self._phones[number % len(self._phones)], f"{self._job.run}-{number}"
                self._arrived.clear()
                self._begun = time.perf_counter()
                self.count.sent += 1
                self._heard.count += 1
                user = self._job.first_user + number % len(self._phones)
                data = {"videoId": "sunrise", "text": "so good"}
                event = {"id": self._event_id, "type": "video_comment", "recipientIds": [user], "data": data}
                async with asyncio.timeout(PATIENCE_S):
                    await backend.ask(Asked("POST", "/v1/events", event))
                    await self._arrived.wait()


async def run_growth(
    server: Server, *, connections: int, seconds: float, first_user: int, conduct: Conduct = PLAINLY
) -> list[Figure]:
    """Microseconds of the server's CPU for one event, at a fifteenth, a third and all of so many connections; and what
    the connections take of its memory. Needs a fresh server, as `idle` does."""
    most, run = most_connections(connections + LISTENERS) - LISTENERS, new_run()
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        await _cost(
            server, GrowthJob(first_user=first_user, run=f"{run}-0"), seconds / 4, "growth, warming up", conduct
        )
        empty, here = server.spent().server_kib, 0
        for size in (most // part for part in PARTS):
            crowd = CrowdJob(connections=size - here, first_user=first_user + LISTENERS + here)
            crew = Crew(server, crowd, processes=conduct.processes, door=server.door)
            await stack.enter_async_context(crew)
            await crew.do("prepare")
            await crew.do("begin")
            stack.push_async_callback(crew.do, "end")
            here = size
            await conduct.settle(SETTLE_S)
            each_kib = (server.spent().server_kib - empty) / here
            job = GrowthJob(first_user=first_user, run=f"{run}-{here}")
            figure = await _cost(server, job, seconds, f"growth, {here:,} connections", conduct)
            times = f"{per(figure.value, figures[0].value):.2f} × the first; " if figures else ""
            note = f"{times}{each_kib:.1f} KiB/connection; {figure.note}"
            figures.append(msgspec.structs.replace(figure, note=note))
    return figures


async def _cost(server: Server, job: GrowthJob, seconds: float, measure: str, conduct: Conduct) -> Figure:
    """Of one event, without what is spent at rest."""
    before, begun = server.spent(memory=False), time.perf_counter()
    await asyncio.sleep(seconds)
    after, rested = server.spent(memory=False), time.perf_counter() - begun
    server_rest, database_rest = ((late - early) / rested for late, early in zip(after[:2], before[:2], strict=True))
    window = Window(measure, "events/s", seconds, WARM_UP_S)
    figure, count = await measured(server, job, window, conduct)
    if conduct.patience_s:
        conduct.found(count.checked)
    database_us = per(figure.database_cores - database_rest, figure.value) * US
    return msgspec.structs.replace(
        figure,
        value=per(figure.server_cores - server_rest, figure.value) * US,
        unit="µs CPU/event",
        note=f"PostgreSQL {database_us:.0f} µs; at rest {server_rest:.3f} cores",
        faults=figure.faults + sum(checked.broken for checked in count.checked),
        series=[],
    )
