"""Bare acks: an event that stores nothing, a few in flight on each connection, as fast as they are answered."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from loadtest.asking import Asker, Asking
from loadtest.crew import Part, Share, Target
from loadtest.figures import Figure
from loadtest.measure import PLAINLY, Conduct, Window, measured
from loadtest.phone import hang_up, text_frame
from loadtest.servers import Server

IN_FLIGHT: Final = 4
WARM_UP_S: Final = 0.5

_TOPIC: Final = b'{"topic":"live:nobody"}'
_FRAMES: Final = [text_frame(b'42%d["topic:unsubscribe",%b]' % (number, _TOPIC)) for number in range(IN_FLIGHT)]
_GOOD: Final = b'"ok":true'


class EchoJob(msgspec.Struct, frozen=True, tag="echo", kw_only=True):
    """`rate`: requests a second of all parts, open loop; None: IN_FLIGHT on each connection."""

    connections: int
    base: int = 0
    rate: float | None = None

    def part(self, target: Target, share: Share) -> Part:
        """One process's phones."""
        return EchoPart(self, target, share)


class Echoer(Asker):
    """In a closed loop it asks again as soon as it is answered, in each of its slots."""

    __slots__ = ()

    event = b"topic:unsubscribe"

    def begin(self) -> None:
        self._asked_at = dict.fromkeys(range(IN_FLIGHT), time.perf_counter())
        self._part.count.sent += IN_FLIGHT
        self.say_now(b"".join(_FRAMES))

    def payload(self, number: int) -> bytes:
        return _TOPIC

    def acked(self, ack_id: int, message: bytes) -> None:
        """As any asker's, but with frames that are made: nothing is cheaper for a server than this, and nothing must
        be for its client."""
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


class EchoPart(Asking[Echoer]):
    """Some of the phones."""

    def __init__(self, job: EchoJob, target: Target, share: Share) -> None:
        super().__init__(target, share, rate=job.rate)
        self._users = [job.base + person + 1 for person in share.of_people(job.connections)]

    async def prepare(self) -> None:
        await self.connect([Echoer(self, user) for user in self._users])

    async def end(self) -> None:
        self.count_unanswered()
        await hang_up(self.phones)


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
    figure, _ = await measured(server, job, window, conduct)
    return figure
