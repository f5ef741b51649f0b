"""Those who load a server: parts of a scenario, in this process or in several of their own (`worker.py`).

A part is prepared (its phones connect), begins, is counted as often as one likes, stops, and ends. What parts count
can be added up, so it makes no difference to a scenario how many there are.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import msgspec

from loadtest.histogram import Histogram
from loadtest.machine import rss_kib
from loadtest.phone import Address

TOKEN_TTL_S: Final = 7200
TICK_S: Final = 0.001
LINE_BYTES: Final = 1 << 24  # the longest answer of a worker

MOST_NAMED: Final = 5  # faults that are told word by word


def _base64(raw: bytes) -> bytes:
    """As tokens have it."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


# Signed here and not by a library: importing one was nearly half of what a load process took to start.
_HS256: Final = _base64(b'{"alg":"HS256","typ":"JWT"}')


class WorkerFailed(Exception):
    """A load process ended before its time; the message has what it said."""


class Target(Protocol):
    """What a part knows of the server: a `Server`, or in another process the `Door` of it."""

    @property
    def address(self) -> Address: ...
    def token(self, subject: str, *roles: str) -> str: ...
    def auth(self, user_id: int, *, last_seq: int | None = None) -> bytes: ...


class Door(msgspec.Struct, frozen=True):
    """Where a server is and what its tokens are signed with; servers that ask for none have no secret."""

    address: Address
    secret: str = ""

    def token(self, subject: str, *roles: str) -> str:
        """A token of a user (digits) or a backend."""
        if not self.secret:
            return "none"
        claims = {"sub": subject, "exp": int(time.time()) + TOKEN_TTL_S, "roles": roles}
        signed = b"%b.%b" % (_HS256, _base64(msgspec.json.encode(claims)))
        return (signed + b"." + _base64(hmac.digest(self.secret.encode(), signed, "sha256"))).decode()

    def auth(self, user_id: int, *, last_seq: int | None = None) -> bytes:
        """The JSON of a user's CONNECT."""
        resume = "" if last_seq is None else f',"lastSeq":"{last_seq}"'
        return f'{{"token":"{self.token(str(user_id))}"{resume}}}'.encode()


class Share(msgspec.Struct, frozen=True):
    """Which part of how many: the parts deal people out among them, one after the other."""

    number: int = 0
    of: int = 1

    def of_people(self, count: int) -> range:
        """Whom of `count` this part plays."""
        return range(self.number, count, self.of)


class Checked(msgspec.Struct):
    """One thing that was looked at afterwards, `count` times, and what of it broke a promise of spec 8."""

    promise: int
    what: str
    count: int = 0
    broken: int = 0
    examples: list[str] = []

    def fault(self, example: str) -> None:
        """One more that was not as promised."""
        self.broken += 1
        if len(self.examples) < MOST_NAMED:
            self.examples.append(example)

    def add(self, other: Checked) -> None:
        """The same thing, looked at by another part."""
        self.count += other.count
        self.broken += other.broken
        self.examples = [*self.examples, *other.examples][:MOST_NAMED]


class Count(msgspec.Struct, kw_only=True):
    """What a part, or all of them, has done so far. `more` has numbers that only its scenario knows."""

    sent: int = 0
    done: int = 0
    faults: int = 0
    refused: int = 0
    reach: int = 0  # of all parts the largest
    first_fault: str = ""
    waits: Histogram = msgspec.field(default_factory=Histogram)
    more: dict[str, int] = {}
    checked: list[Checked] = []
    cpu_s: list[float] = []  # of each load process
    rss_kib: int = 0

    def fault(self, message: bytes | str) -> None:
        """A wrong answer."""
        self.faults += 1
        if not self.first_fault:
            self.first_fault = message[:200].decode(errors="replace") if isinstance(message, bytes) else message[:200]

    def note(self, name: str, by: int = 1) -> None:
        """Count something of one's own."""
        self.more[name] = self.more.get(name, 0) + by

    def add(self, other: Count) -> None:
        """What another part has done."""
        self.sent += other.sent
        self.done += other.done
        self.faults += other.faults
        self.refused += other.refused
        self.reach = max(self.reach, other.reach)
        self.first_fault = self.first_fault or other.first_fault
        self.waits.add(other.waits)
        for name, number in other.more.items():
            self.note(name, number)
        for checked in other.checked:
            mine = next((mine for mine in self.checked if mine.what == checked.what), None)
            if mine is None:
                self.checked.append(msgspec.structs.replace(checked))
            else:
                mine.add(checked)
        self.cpu_s += other.cpu_s
        self.rss_kib += other.rss_kib


class Part:
    """One process's share of a scenario. `pacing` is what sends at a rate, where something does."""

    def __init__(self) -> None:
        self.count = Count()
        self.pacing: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Raise what has ended the load before its time."""
        if self.pacing is not None and self.pacing.done():
            self.pacing.result()

    async def prepare(self) -> None:
        """Connect."""

    async def begin(self) -> None:
        """Start the load; return at once."""

    async def disturb(self) -> None:
        """Begin what else goes on at times, where something does."""

    async def calm(self) -> None:
        """End it; return when it is over."""

    async def stop(self) -> None:
        """Send nothing new."""

    async def end(self) -> None:
        """Check what is to be checked, and hang up."""


class Job(Protocol):
    """A scenario with its sizes; as JSON it tells a load process what to do."""

    def part(self, target: Target, share: Share) -> Part: ...


class Order(msgspec.Struct, frozen=True):
    """What a load process is told first."""

    door: Door
    share: Share
    job: msgspec.Raw


STEPS: Final = ("prepare", "begin", "disturb", "calm", "look", "stop", "end")


async def take(part: Part, step: str) -> Count:
    """One step of a part, and what it has done by then."""
    if step == "look":
        part.check()
    else:
        await getattr(part, step)()
    now = Count()
    now.add(part.count)
    now.cpu_s, now.rss_kib = [time.process_time()], rss_kib(os.getpid())
    return now


class Crew:
    """All parts of a scenario. Use it as an async context manager: no load process outlives it."""

    def __init__(self, target: Target, job: Job, *, processes: int = 1, door: Door | None = None) -> None:
        self._part = job.part(target, Share()) if processes == 1 else None
        self._workers = (
            [] if self._part else [_Worker(door, Share(number, processes), job) for number in range(processes)]
        )

    async def __aenter__(self) -> Crew:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(worker.end() for worker in self._workers))

    async def do(self, step: str) -> Count:
        """All parts take this step of STEPS; what they have done by then, added up. Raises WorkerFailed."""
        if self._part is not None:
            return await take(self._part, step)
        total = Count()
        for count in await asyncio.gather(*(worker.do(step) for worker in self._workers), return_exceptions=True):
            if isinstance(count, BaseException):
                raise count
            total.add(count)
        return total


class _Worker:
    """One load process: a line with a step in, a line with a Count out."""

    def __init__(self, door: Door | None, share: Share, job: Job) -> None:
        assert door is not None, "load processes of their own need the server's Door"
        self._order = Order(door, share, msgspec.Raw(msgspec.json.encode(job)))
        self._process: asyncio.subprocess.Process | None = None

    async def do(self, step: str) -> Count:
        process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(step.encode() + b"\n")
        if not (line := await process.stdout.readline()):
            raise WorkerFailed(f"a load process ended while it was to {step}; it says why above")
        return msgspec.json.decode(line, type=Count)

    async def _start(self) -> asyncio.subprocess.Process:
        command = [sys.executable, "-P", "-m", "loadtest.worker"]
        pipe = subprocess.PIPE
        self._process = process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, limit=LINE_BYTES
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(self._order) + b"\n")
        return process

    async def end(self) -> None:
        """Make an end of the process, whatever it does."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.communicate()


async def pace(rate: float, send: Callable[[float], bool], is_stopped: Callable[[], bool]) -> None:
    """Open loop: call `send(due)` at `rate` a second whatever is answered when, until it says that it has nothing
    left. A send that comes late, since this loop was busy, still gets the moment when it was due."""
    begun, sent = time.perf_counter(), 0
    while not is_stopped():
        owed = int((time.perf_counter() - begun) * rate)
        while sent < owed:
            if not send(begun + sent / rate):
                return
            sent += 1
        await asyncio.sleep(TICK_S)


def batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    """`items` in lists of at most `size`."""
    for at in range(0, len(items), size):
        yield items[at : at + size]


def new_run() -> str:
    """A short name that no other run has had."""
    return uuid.uuid4().hex[:8]
