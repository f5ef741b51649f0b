"""Bare acks: an event that stores nothing, a few in flight on each connection, as fast as they are answered."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from loadtest.crew import Asking, Crew, Part, Share, Target
from loadtest.figures import Figure
from loadtest.measure import PLAINLY, Conduct, Window, measured
from loadtest.phone import Address, Phone, connect_all, hang_up, text_frame
from loadtest.servers import Server

IN_FLIGHT: Final = 4
WARM_UP_S: Final = 0.5

_ASK: Final = b'42%d["topic:unsubscribe",{"topic":"live:nobody"}]'
_FRAMES: Final = [text_frame(_ASK % number) for number in range(IN_FLIGHT)]
_GOOD: Final = b'"ok":true'


class EchoJob(msgspec.Struct, frozen=True, tag="echo", kw_only=True):
    """`rate`: requests a second of all parts, open loop; None: IN_FLIGHT on each connection."""

    connections: int
    base: int = 0
    rate: float | None = None

    def part(self, target: Target, share: Share) -> Part:
        """One process's phones."""
        return EchoPart(self, target, share)


class Echoer(Phone):
    """In a closed loop it asks again as soon as it is answered, in each of its slots."""

    __slots__ = ("_asked_at", "_next", "_part")

    def __init__(self, address: Address, auth: bytes, part: EchoPart) -> None:
        super().__init__(address, auth)
        self._part = part
        self._asked_at: dict[int, float] = {}
        self._next = 0

    def begin(self) -> None:
        self._asked_at = dict.fromkeys(range(IN_FLIGHT), time.perf_counter())
        self._part.count.sent += IN_FLIGHT
        self.say_now(b"".join(_FRAMES))

    def ask(self, due: float) -> None:
        """Ask once; the wait is counted from `due`."""
        number, self._next = self._next, self._next + 1
        self._asked_at[number] = due
        self._part.count.sent += 1
        self.say_now(text_frame(_ASK % number))

    def acked(self, ack_id: int, message: bytes) -> None:
        part, now = self._part, time.perf_counter()
        count = part.count
        count.done += 1
        count.waits.record(now - self._asked_at.pop(ack_id))
        if _GOOD not in message:
            count.fault(message)
        if part.is_closed_loop and not part.stopped:
            count.sent += 1
            self._asked_at[ack_id] = now
            self.say(_FRAMES[ack_id])

    def lost(self) -> None:
        if not self._part.stopped:
            self._part.count.fault("a connection was lost")

    @property
    def unanswered(self) -> list[float]:
        """When what has no ack yet should have been sent."""
        return list(self._asked_at.values())


class EchoPart(Asking[Echoer]):
    """Some of the phones."""

    def __init__(self, job: EchoJob, target: Target, share: Share) -> None:
        super().__init__(job.rate, share)
        self._job, self._target, self._share = job, target, share
        self._turn = 0

    async def prepare(self) -> None:
        people, target = self._share.of_people(self._job.connections), self._target
        self.phones = await connect_all(
            target.address,
            lambda at: Echoer(target.address, target.auth(self._job.base + people[at] + 1), self),
            len(people),
        )

    async def end(self) -> None:
        self.count_unanswered()
        await hang_up(self.phones)

    def send_one(self, due: float) -> bool:
        self.phones[self._turn % len(self.phones)].ask(due)
        self._turn += 1
        return True


async def run_echo(
    server: Server,
    *,
    connections: int,
    seconds: float,
    conduct: Conduct = PLAINLY,
    rate: float | None = None,
    base: int = 0,
) -> Figure:
    """Acks per second; with a `rate`, the latency at that rate."""
    job = EchoJob(connections=connections, base=base, rate=rate)
    window = Window("echo" if rate is None else f"echo, {rate:,.0f}/s", "acks/s", seconds, WARM_UP_S)
    async with Crew(server, job, processes=conduct.processes, door=server.door) as crew:
        figure, _ = await measured(server, crew, window, conduct, is_complete=lambda count: count.done >= count.sent)
    return figure
