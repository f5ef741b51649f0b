"""Events of other backends through Kafka, one recipient each, from the topic into inboxes.

The topic is kept filled, or at a `rate` each record is written when it is due; then it is measured besides how long an
event takes from there to a phone. How many were taken in the gateway says itself, in its metrics; afterwards inboxes
are asked for what was written for them.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Final

import msgspec

from handlers.directory.wire import PutUserRequest
from loadtest.backend import Asked, Backend
from loadtest.crew import Checked, Part, Share, Target, new_run
from loadtest.figures import Figure
from loadtest.machine import spent
from loadtest.measure import PLAINLY, Conduct, Window, measured
from loadtest.phone import Address, Phone, connect_all, hang_up
from loadtest.promises import AT_ONCE
from loadtest.scenarios.likes import seed
from loadtest.servers import Kafka, Server
from loadtest.witness import NOTIFICATION

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

USERS: Final = 20_000
LISTENERS: Final = 100  # of them have a phone
ASKED: Final = 400  # and of so many the inbox is asked afterwards
BACKLOG: Final = 20_000  # records that wait in Kafka where there is no rate
WARM_UP_S: Final = 2.0
LOOK_EVERY_S: Final = 0.5  # a look costs the gateway as much as a hundred events
WRITTEN: Final = "inboxes that hold what was written to Kafka for them, once"

_TAKEN_IN: Final = re.compile(rb'^applause_intake_records_total\{outcome="ok",topic="events"\} (\S+)$', re.MULTILINE)


class IntakeJob(msgspec.Struct, frozen=True, tag="intake", kw_only=True):
    """`rate`: events a second of all parts, open loop; None: as fast as they are taken in."""

    kafka: str
    topic: str
    first_user: int
    run: str
    users: int = USERS
    rate: float | None = None

    def part(self, target: Target, share: Share) -> Part:
        """One process's users, and who writes for them."""
        return IntakePart(self, target, share)


class Listener(Phone):
    """One user's phone."""

    __slots__ = ("_part",)

    def __init__(self, address: Address, auth: bytes, part: IntakePart) -> None:
        super().__init__(address, auth)
        self._part = part

    def heard(self, message: bytes) -> None:
        if message.startswith(NOTIFICATION):
            self._part.heard(message)


class IntakePart(Part):
    """Writes for its users in turn. What was taken in is that of all parts; the first one counts it."""

    def __init__(self, job: IntakeJob, target: Target, share: Share) -> None:
        super().__init__()
        self._job, self._target, self._share = job, target, share
        self._users = [job.first_user + number for number in share.of_people(job.users)]
        self._listeners = self._users[: LISTENERS // share.of]
        self._due: dict[bytes, float] = {}  # of what no listener has heard yet
        self._taken_in = self._before = 0
        self._stopped = False
        self._heads: dict[int, int] = {}
        self._phones: list[Listener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._producer: AIOKafkaProducer

    async def prepare(self) -> None:
        from aiokafka import AIOKafkaProducer  # with what only this scenario needs

        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._job.kafka, acks="all", linger_ms=5, max_batch_size=2**18
        )
        await self._producer.start()
        target, listeners = self._target, self._listeners
        self._phones = await connect_all(
            target.address, lambda at: Listener(target.address, target.auth(listeners[at]), self), len(listeners)
        )
        self._heads = await self._read_heads()
        self._before = await self._read_taken_in()

    async def begin(self) -> None:
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._follow())]

    async def stop(self) -> None:
        self._stopped = True
        await self._producer.flush()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._producer.stop()
        await hang_up(self._phones)
        self.count.faults += len(self._due)
        self.count.checked.append(await self._check())

    def check(self) -> None:
        for task in self._tasks:
            if task.done() and not self._stopped:
                task.result()

    def heard(self, message: bytes) -> None:
        """A listener has heard of an event."""
        begin = message.find(b'"id":"') + 6
        due = self._due.pop(message[begin : message.find(b'"', begin)], None)
        if due is None:
            self.count.fault(message)
        else:
            self.count.waits.record(time.perf_counter() - due)

    async def _write(self) -> None:
        job, users, of, begun = self._job, self._users, self._share.of, time.perf_counter()
        with_phone = len(self._listeners)
        head = f"{job.run}-{self._share.number}-"
        while not self._stopped:
            number = self.count.sent
            if job.rate is None:
                due, may = time.perf_counter(), number * of < self._taken_in + BACKLOG
            else:
                due = begun + number * of / job.rate
                may = due <= time.perf_counter()
            if not may:
                await asyncio.sleep(0.001)
                continue
            at = number % len(users)
            event_id = f"{head}{number}"
            if at < with_phone:
                self._due[event_id.encode()] = due
            self.count.sent += 1
            await self._producer.send(job.topic, _record(event_id, users[at]), key=b"%d" % users[at])

    async def _follow(self) -> None:
        while True:
            self._taken_in = await self._read_taken_in() - self._before
            if self._share.number == 0:
                self.count.done = self._taken_in
            await asyncio.sleep(LOOK_EVERY_S)

    async def _read_taken_in(self) -> int:
        async with self._backend() as backend:
            found = _TAKEN_IN.search(await backend.ask(Asked("GET", "/metrics", {})))
        return int(float(found[1])) if found else 0

    async def _read_heads(self) -> dict[int, int]:
        waiting = iter(self._users[: ASKED // self._share.of])
        heads: dict[int, int] = {}

        async def some() -> None:
            async with self._backend() as backend:
                for user in waiting:
                    answer = await backend.ask(Asked("GET", f"/v1/users/{user}/inbox", {}))
                    heads[user] = msgspec.json.decode(answer, type=_Inbox).seq

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        return heads

    async def _check(self) -> Checked:
        after = await self._read_heads()
        checked = Checked(4, WRITTEN, count=len(after))
        for at, user in enumerate(self._users[: len(after)]):
            written = (self.count.sent - at + len(self._users) - 1) // len(self._users)
            if after[user] - self._heads[user] != written:
                checked.fault(f"user {user}: {written} were written, {after[user] - self._heads[user]} are there")
        return checked

    def _backend(self) -> Backend:
        address = self._target.address
        return Backend(address.host, address.port, self._target.token("loadtest", "service"))


class _Inbox(msgspec.Struct):
    seq: int


def _record(event_id: str, user: int) -> bytes:
    data = {"actorId": user, "actorUsername": "somebody", "videoId": "sunrise", "count": 1}
    event = {"source": "loadtest", "id": event_id, "type": "video_like", "recipientIds": [user], "data": data}
    return msgspec.json.encode(event)


async def run_intake(
    server: Server,
    kafka: Kafka,
    *,
    first_user: int,
    seconds: float,
    rate: float | None = None,
    users: int = USERS,
    conduct: Conduct = PLAINLY,
) -> Figure:
    """Events taken in per second; what Kafka itself takes is in the note."""
    await seed(server, {first_user + at: PutUserRequest(username="reader") for at in range(users)}, {})
    job = IntakeJob(
        kafka=kafka.servers, topic=kafka.topic("events"), first_user=first_user, run=new_run(), rate=rate,
        users=users,
    )  # fmt: skip
    window = Window("intake" if rate is None else f"intake, {rate:,.0f}/s", "events/s", seconds, WARM_UP_S)
    before, begun = spent(kafka.pid, memory=False).server_s, time.perf_counter()
    figure, count = await measured(server, job, window, conduct)
    cores = (spent(kafka.pid, memory=False).server_s - before) / (time.perf_counter() - begun)
    conduct.found(count.checked)
    note = "; ".join(filter(None, (figure.note, f"Kafka {cores:.2f} cores" if kafka.pid else "")))
    faults = figure.faults + abs(count.sent - count.done)
    return msgspec.structs.replace(figure, faults=faults, note=note, latency_ms=figure.latency_ms if rate else None)
