"""Many who do nothing: what an idle connection costs in memory, and how fast connections come."""

from __future__ import annotations

import asyncio
import resource
from typing import Final

import msgspec

from loadtest.crew import Crew, Part, Share, Target
from loadtest.figures import Figure, Sample
from loadtest.measure import LOOK_EVERY_S, PLAINLY, Conduct, Watch, Window
from loadtest.phone import Phone, connect_all, hang_up
from loadtest.servers import Server

WARM_UP: Final = 100
SETTLE_S: Final = 2.0
SPARE_FILES: Final = 500


class CrowdJob(msgspec.Struct, frozen=True, tag="crowd", kw_only=True):
    """So many phones of users from `first_user` on; with `resumes`, each says a `lastSeq` of 0."""

    connections: int
    first_user: int
    resumes: bool = False

    def part(self, target: Target, share: Share) -> Part:
        """One process's phones."""
        return CrowdPart(self, target, share)


class CrowdPart(Part):
    """Some of the crowd. Tokens are made first: they are not what is measured."""

    def __init__(self, job: CrowdJob, target: Target, share: Share) -> None:
        super().__init__()
        self._target = target
        last_seq = 0 if job.resumes else None
        people = share.of_people(most_connections(job.connections))
        self._auths = [target.auth(job.first_user + number, last_seq=last_seq) for number in people]
        self._phones: list[Phone] = []

    async def begin(self) -> None:
        address, count = self._target.address, self.count

        def make(number: int) -> Phone:
            return Phone(address, self._auths[number])

        def arrived(_: Phone) -> None:
            count.done += 1

        self._phones = await connect_all(address, make, len(self._auths), arrived=arrived)

    async def end(self) -> None:
        await hang_up(self._phones)


def most_connections(wanted: int) -> int:
    """As many as `wanted`, or as this process (and a server with the same limit) may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < min(hard, wanted + SPARE_FILES):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return min(wanted, soft - SPARE_FILES)


async def run_idle(server: Server, *, connections: int, first_user: int, conduct: Conduct = PLAINLY) -> Figure:
    """KiB of the server's resident memory per idle connection, each of another user. Needs a fresh server: what an
    earlier crowd has left behind would be taken again and hide the cost."""
    count = most_connections(connections)
    early = await connect_all(
        server.address, lambda number: Phone(server.address, server.auth(first_user + count + number)), WARM_UP
    )
    job = CrowdJob(connections=count, first_user=first_user)
    async with Crew(server, job, processes=conduct.processes, door=server.door) as crew:
        await crew.do("prepare")
        await conduct.settle(SETTLE_S)
        before = server.spent().server_kib
        figure = await _arrive(server, crew, Window("idle", "KiB/connection", 0, 0), conduct)
        await conduct.settle(SETTLE_S)
        grown = server.spent().server_kib - before
        await crew.do("end")
    await hang_up(early)
    return msgspec.structs.replace(figure, value=grown / count, samples=count, note=f"at {count:,}")


async def run_connects(server: Server, *, connections: int, first_user: int, conduct: Conduct = PLAINLY) -> Figure:
    """Connects per second up to the welcome, of users that the server knows, with a `lastSeq` to resume from."""
    job = CrowdJob(connections=connections, first_user=first_user, resumes=True)
    async with Crew(server, job, processes=conduct.processes, door=server.door) as crew:
        await crew.do("prepare")
        figure = await _arrive(server, crew, Window("connects", "connects/s", 0, 0), conduct)
        await crew.do("end")
    return msgspec.structs.replace(figure, note=f"of {figure.samples:,}")


async def _arrive(server: Server, crew: Crew, window: Window, conduct: Conduct) -> Figure:
    """All connect; the window closes when the last one is in."""
    watch = Watch(server, await crew.do("look"))
    arriving = asyncio.create_task(crew.do("begin"))
    series: list[Sample] = []
    while not (await asyncio.wait([arriving], timeout=LOOK_EVERY_S))[0]:
        if conduct.processes == 1:  # a load process of its own answers one step at a time
            series.append(watch.sample(await crew.do("look")))
            if conduct.progress is not None:
                conduct.progress.show(window.measure, series[-1], "connects/s")
    series.append(watch.sample(await arriving))
    return watch.figure(window, series)
