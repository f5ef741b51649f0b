"""A measurement: a crew at work, watched for a while, then waited for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from loadtest.crew import Checked, Count, Crew, Job
from loadtest.figures import Figure, Sample, summary
from loadtest.histogram import Histogram
from loadtest.progress import Progress
from loadtest.servers import Server

LOOK_EVERY_S: Final = 0.5
LOOKS: Final = 240  # of one measurement at most: a long one is looked at less often
SETTLE_S: Final = 15.0
_KIB_IN_MIB: Final = 1024


@dataclass(frozen=True)
class Conduct:
    """How a scenario is run: in how many load processes, who hears of it, and whether the promises are checked
    afterwards: what is still on its way has `patience_s` to arrive (0: nothing is checked), and `found` gets what was
    looked at. Warm-ups and rests take `settling` of their usual time: less is for those who want no good figures."""

    processes: int = 1
    patience_s: float = 0.0
    progress: Progress | None = None
    settling: float = 1.0
    found: Callable[[list[Checked]], None] = field(default=lambda checked: None)

    async def settle(self, seconds: float) -> None:
        """Warm up, or let the server and the client come to rest, which usually takes `seconds`."""
        await asyncio.sleep(seconds * self.settling)


PLAINLY: Final = Conduct()
CHECKING: Final = Conduct(patience_s=SETTLE_S)


class Window(msgspec.Struct, frozen=True):
    """How long, in seconds, and of what."""

    measure: str
    unit: str
    seconds: float
    warm_up_s: float


class Watch:
    """Server, database and client over time. Each `sample` tells of the time since the one before."""

    def __init__(self, server: Server, count: Count) -> None:
        self._server = server
        self.begun = self._at = time.perf_counter()
        self.first = self._count = count
        self.first_spent = self._spent = server.spent()

    def sample(self, count: Count) -> Sample:
        """How it went lately."""
        now, spent_now = time.perf_counter(), self._server.spent()
        lately, elapsed = count.waits.since(self._count.waits), max(now - self._at, 1e-9)
        wait = summary(lately)
        sample = Sample(
            at=round(now - self.begun, 2),
            rate=round((count.done - self._count.done) / elapsed, 1),
            p50_ms=wait.p50 if wait else None,
            p99_ms=wait.p99 if wait else None,
            server_cores=_cores(spent_now.server_s - self._spent.server_s, elapsed),
            database_cores=_cores(spent_now.database_s - self._spent.database_s, elapsed),
            client_cores=_cores(sum(count.cpu_s) - sum(self._count.cpu_s), elapsed),
            server_mib=round(spent_now.server_kib / _KIB_IN_MIB, 1),
            database_mib=round(spent_now.database_kib / _KIB_IN_MIB, 1),
            client_mib=round(count.rss_kib / _KIB_IN_MIB, 1),
        )
        self._at, self._count, self._spent = now, count, spent_now
        return sample

    @property
    def waits(self) -> Histogram:
        """Of what was answered between the first and the last sample."""
        return self._count.waits.since(self.first.waits)

    def figure(self, window: Window, series: list[Sample]) -> Figure:
        """What the window from the first to the last sample comes to."""
        elapsed, before, within = max(self._at - self.begun, 1e-9), self.first, self._count
        per_process = [_cores(b - a, elapsed) for a, b in zip(before.cpu_s, within.cpu_s, strict=True)]
        return Figure(
            measure=window.measure,
            server=self._server.name,
            value=(within.done - before.done) / elapsed,
            unit=window.unit,
            samples=within.done - before.done,
            server_cores=_cores(self._spent.server_s - self.first_spent.server_s, elapsed),
            database_cores=_cores(self._spent.database_s - self.first_spent.database_s, elapsed),
            client_cores=round(sum(per_process), 3),
            client_most=max(per_process, default=0.0),
            series=series,
        )


async def measured(server: Server, job: Job, window: Window, conduct: Conduct = PLAINLY) -> tuple[Figure, Count]:
    """Prepare and begin, look on for the window's time, stop, wait for all answers (or SETTLE_S), and end.

    The latencies are of all that was answered after the warm-up, also what came after the window: what is slow must
    not be left out for being slow. Returns the figure and the whole count. Raises WorkerFailed, PhoneFailed.
    """
    async with Crew(server, job, processes=conduct.processes, door=server.door) as crew:
        await crew.do("prepare")
        await crew.do("begin")
        await conduct.settle(window.warm_up_s)
        watch = Watch(server, await crew.do("look"))
        series = await look_on(watch, crew, window, conduct.progress)
        figure = watch.figure(window, series)
        after = await wound_up(crew)
    waits = after.waits.since(watch.first.waits)
    figure = msgspec.structs.replace(
        figure,
        latency_ms=summary(waits),
        histogram=waits,
        faults=after.faults,
        refused=after.refused,
        note=after.first_fault,
    )
    return figure, after


async def wound_up(crew: Crew) -> Count:
    """What a crew has done once it has stopped and all is answered (or SETTLE_S are over), and it has ended."""
    await crew.do("stop")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while (count := await crew.do("look")).done < count.sent:
                await asyncio.sleep(0.05)
    return await crew.do("end")


async def look_on(watch: Watch, crew: Crew, window: Window, progress: Progress | None) -> list[Sample]:
    """Samples until the window's time is over."""
    series: list[Sample] = []
    every = max(LOOK_EVERY_S, window.seconds / LOOKS)
    while (left := watch.begun + window.seconds - time.perf_counter()) > 0:
        await asyncio.sleep(min(every, left))
        if left < every / 2 and series:
            continue  # too short to say anything by itself
        series.append(watch.sample(await crew.do("look")))
        if progress is not None:
            progress.show(window.measure, series[-1], window.unit)
    return series


def _cores(spent_s: float, elapsed: float) -> float:
    return round(spent_s / elapsed, 3)
