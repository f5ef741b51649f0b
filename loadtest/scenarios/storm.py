"""A storm: all phones come back at once, each with so many events to resume from, against the bare connects.

What is measured is how long it takes until the last one is caught up. The bare connects are the same phones, all at
once, with nothing to resume; they are taken before and after, and their middle counts.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

import msgspec

from loadtest.backend import Asked, ask_all
from loadtest.crew import Checked, Crew, Part, Share, Target, batches, new_run
from loadtest.figures import Figure, Sample, middle, summary
from loadtest.measure import PLAINLY, Conduct, Watch, Window
from loadtest.phone import Address, Phone, PhoneFailed, connect, hang_up
from loadtest.scenarios.crowd import most_connections
from loadtest.servers import Server

RECIPIENTS: Final = 500  # of one event
PATIENCE_S: Final = 60.0
BACK_OFF_S: Final = 0.5  # at most, before a phone that was turned away tries again
SETTLE_S: Final = 1.0
REASON, REASONS = 60, 3  # letters of one, and how many, that are reported

RESUMED: Final = "phones that resumed exactly what they had missed, in the order of seq"


class StormJob(msgspec.Struct, frozen=True, tag="storm", kw_only=True):
    """So many phones, each knowing everything up to `last_seq`, whose inbox ends at `head`."""

    phones: int
    first_user: int
    last_seq: int
    head: int

    def part(self, target: Target, share: Share) -> Part:
        """One process's phones."""
        return StormPart(self, target, share)


class Returner(Phone):
    """Comes back and listens until it is caught up."""

    __slots__ = ("seqs",)

    def __init__(self, address: Address, auth: bytes) -> None:
        super().__init__(address, auth)
        self.seqs: list[int] = []

    def heard(self, message: bytes) -> None:
        at = message.find(b'"seq":') + 6
        self.seqs.append(int(message[at : message.index(b",", at)]))


class StormPart(Part):
    """Some of the phones. Tokens are made first: they are not what is measured."""

    def __init__(self, job: StormJob, target: Target, share: Share) -> None:
        super().__init__()
        self._job, self._address = job, target.address
        people = share.of_people(job.phones)
        self._auths = [target.auth(job.first_user + number, last_seq=job.last_seq) for number in people]
        self._resumed = Checked(4, RESUMED)
        self._phones: list[Returner] = []

    async def begin(self) -> None:
        begun = time.perf_counter()
        await asyncio.gather(*(self._return(auth, begun) for auth in self._auths))

    async def end(self) -> None:
        self.count.checked = [self._resumed]
        await hang_up(self._phones)

    async def _return(self, auth: bytes, begun: float) -> None:
        """One phone, until it is caught up: turned away it comes again, as official clients do."""
        expected = list(range(self._job.last_seq + 1, self._job.head + 1))
        while True:
            phone = Returner(self._address, auth)
            try:
                await connect(self._address, phone, patience_s=PATIENCE_S)
            except (PhoneFailed, OSError) as error:
                if time.perf_counter() - begun > PATIENCE_S:
                    raise
                self.count.refused += 1
                self.count.note(f"{str(error).splitlines()[0][:REASON]!r}")
                await asyncio.sleep(random.uniform(BACK_OFF_S / 2, BACK_OFF_S))
                continue
            break
        self.count.done += 1
        self.count.waits.record(time.perf_counter() - begun)
        self._resumed.count += 1
        if phone.seqs != expected:
            self._resumed.fault(f"after {self._job.last_seq} of {self._job.head} came {phone.seqs[:30]}")
        self._phones.append(phone)


async def run_storm(
    server: Server, *, phones: int, events: int, first_user: int, rounds: int = 1, conduct: Conduct = PLAINLY
) -> list[Figure]:
    """Seconds until all are caught up, bare and with `events` each; of several rounds the middle one."""
    count = most_connections(phones)
    nothing_yet = StormJob(phones=count, first_user=first_user, last_seq=0, head=0)
    await _storm(server, nothing_yet, "storm, first connects", conduct)  # which create them
    bare = [await _storm(server, nothing_yet, "storm, bare connects", conduct)]
    await _deposit(server, range(first_user, first_user + count), events)
    storms: list[Figure] = []
    for _ in range(rounds):
        missed = StormJob(phones=count, first_user=first_user, last_seq=0, head=events)
        storms.append(await _storm(server, missed, "storm", conduct))
        missed_none = StormJob(phones=count, first_user=first_user, last_seq=events, head=events)
        bare.append(await _storm(server, missed_none, "storm, bare connects", conduct))
    calm, storm = middle(bare), middle(storms)
    times = f"{count:,} phones × {events} events; {storm.value / calm.value:.2f} × the bare connects"
    return [
        msgspec.structs.replace(calm, note="; ".join(filter(None, (f"{count:,} phones", calm.note)))),
        msgspec.structs.replace(storm, note="; ".join(filter(None, (times, storm.note)))),
    ]


async def _storm(server: Server, job: StormJob, measure: str, conduct: Conduct) -> Figure:
    async with Crew(server, job, processes=conduct.processes, door=server.door) as crew:
        await crew.do("prepare")
        watch, window = Watch(server, await crew.do("look")), Window(measure, "s", 0, 0)
        begun = time.perf_counter()
        within = await crew.do("begin")
        elapsed = time.perf_counter() - begun
        series: list[Sample] = [watch.sample(within)]
        figure = watch.figure(window, series)
        after = await crew.do("end")
    if conduct.patience_s:
        conduct.found(after.checked)
    await conduct.settle(SETTLE_S)  # the server notices that all are gone
    return msgspec.structs.replace(
        figure,
        value=elapsed,
        latency_ms=summary(after.waits),
        histogram=after.waits,
        refused=after.refused,
        note=", ".join(f"{count:,} × {reason}" for reason, count in sorted(after.more.items())[:REASONS]),
        faults=sum(checked.broken for checked in after.checked),
        series=[],
    )


async def _deposit(server: Server, users: range, events: int) -> None:
    """`events` in each one's inbox, while they are away."""
    run = new_run()
    asked = [
        Asked(
            "POST",
            "/v1/events",
            {
                "id": f"{run}-{number}-{few[0]}",
                "type": "live_stream_started",
                "recipientIds": few,
                "data": {"streamId": f"stream-{number}", "title": "Live now"},
            },
        )
        for number in range(events)
        for few in batches(list(users), RECIPIENTS)
    ]
    await ask_all(server.address.host, server.address.port, server.token("loadtest", "service"), asked)
