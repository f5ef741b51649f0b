"""Durable, paid likes: each of another (user, video), so that each pays the viewer and the creator.

`uniform` spreads them over the videos of many creators. `hot` has everybody like one creator's videos, one after the
other and all the same one at about the same time, since a user is paid for a video only once.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any, Final

import msgspec

from handlers.directory.wire import PutUserRequest, PutVideoRequest
from loadtest.backend import Asked, ask_all
from loadtest.figures import Figure, latency
from loadtest.machine import Meter
from loadtest.phone import Address, Phone, connect_all, hang_up, text_frame
from loadtest.servers import Server

VIDEOS: Final = 1_000  # of each kind: more than a connection can like in a run
CREATORS: Final = 50
FIRST_CREATOR: Final = 1_000_001
HOT_CREATOR: Final = 2_000_001
FOLLOWS: Final = 250  # enough to be paid as a viewer
FOLLOWERS: Final = 5_000  # and as a creator

WARM_UP_S: Final = 1.0
TICK_S: Final = 0.001
LAST_ACKS_S: Final = 10.0

_PAID: Final = b'"award":{'


class Run:
    """What all phones of a run share. `paces` is true where the phones don't ask again by themselves."""

    def __init__(self, kind: str, *, paces: bool, first_video: int) -> None:
        self.kind = kind
        self.paces = paces
        self.first_video = first_video
        self.name = uuid.uuid4().hex[:8]
        self.sent = 0
        self.acked = 0
        self.faults = 0
        self.first_fault = b""
        self.waits: list[float] = []
        self.next_video = first_video  # that no phone has liked, once the run is over
        self.stopped = False


class Liker(Phone):
    """One user's likes; their n-th is of another video each."""

    __slots__ = ("_asked_at", "_next", "_run", "_user")

    def __init__(self, address: Address, auth: bytes, run: Run, user: int) -> None:
        super().__init__(address, auth)
        self._run = run
        self._user = user
        self._next = run.first_video
        self._asked_at: dict[int, float] = {}

    def like(self, due: float) -> None:
        """Like the next video; the wait is counted from `due`, when it should have been sent."""
        self.say_now(self._frame(due))

    def acked(self, ack_id: int, message: bytes) -> None:
        run, now = self._run, time.perf_counter()
        run.acked += 1
        run.waits.append(now - self._asked_at.pop(ack_id))
        if _PAID not in message:
            run.faults += 1
            run.first_fault = run.first_fault or message
        if not (run.paces or run.stopped or self.is_done):
            self.say(self._frame(now))

    def lost(self) -> None:
        if not self._run.stopped:
            self._run.faults += 1

    @property
    def next_video(self) -> int:
        """The number of the next like."""
        return self._next

    @property
    def is_done(self) -> bool:
        """Whether this user has liked all there is."""
        return self._next >= VIDEOS

    def _frame(self, due: float) -> bytes:
        number, self._next = self._next, self._next + 1
        run = self._run
        run.sent += 1
        self._asked_at[number] = due
        video = number if run.kind == "hot" else (number + self._user * 37) % VIDEOS
        like = (
            f'42{number}["video:like",{{"videoId":"{run.kind}-{video}","actionId":"{run.name}-{self._user}-{number}"}}]'
        )
        return text_frame(like.encode())


async def seed_likes(server: Server, *, connections: int) -> None:
    """The users and videos of both kinds of run."""
    users = dict.fromkeys(range(1, connections + 1), PutUserRequest(username="viewer", following_count=FOLLOWS))
    creators = [FIRST_CREATOR + number for number in range(CREATORS)]
    users |= dict.fromkeys([*creators, HOT_CREATOR], PutUserRequest(username="creator", followers_count=FOLLOWERS))
    videos = {f"uniform-{number}": creators[number % CREATORS] for number in range(VIDEOS)}
    videos |= {f"hot-{number}": HOT_CREATOR for number in range(VIDEOS)}
    token, host, port = server.token("loadtest", "service"), server.address.host, server.address.port
    await ask_all(host, port, token, [Asked("PUT", f"/v1/users/{user}", _plain(put)) for user, put in users.items()])
    put_videos = [
        Asked("PUT", f"/v1/videos/{video}", _plain(PutVideoRequest(owner_id=owner, title="A video")))
        for video, owner in videos.items()
    ]
    await ask_all(host, port, token, put_videos)


async def run_likes(server: Server, kind: str, *, connections: int, seconds: float) -> list[Figure]:
    """Likes per second with one in flight on each connection, then the latency at half of that rate."""
    closed = Run(kind, paces=False, first_video=0)
    rate = await _measure(server, closed, connections=connections, seconds=seconds, rate=None)
    open_run = Run(kind, paces=True, first_video=closed.next_video)
    paced = await _measure(server, open_run, connections=connections, seconds=seconds, rate=rate.value / 2)
    return [rate, paced]


async def _measure(server: Server, run: Run, *, connections: int, seconds: float, rate: float | None) -> Figure:
    phones = await connect_all(
        server.address,
        lambda number: Liker(server.address, server.auth(number + 1), run, number + 1),
        connections,
    )
    meter = Meter(server.pid)
    driver = asyncio.create_task(_drive(phones, run, rate))
    await asyncio.sleep(WARM_UP_S)
    meter.start()
    begun, before = time.perf_counter(), run.acked
    run.waits.clear()
    await asyncio.sleep(seconds)
    done, elapsed, usage = run.acked - before, time.perf_counter() - begun, meter.usage()
    waits = list(run.waits)
    run.stopped = True
    await driver
    await _last_acks(run)
    run.next_video = max(phone.next_video for phone in phones)
    await hang_up(phones)
    return Figure(
        measure=f"likes {run.kind}" + ("" if rate is None else ", half rate"),
        server=server.name,
        value=done / elapsed,
        unit="likes/s",
        samples=done,
        latency_ms=latency(waits),
        server_cores=usage.server,
        database_cores=usage.database,
        client_cores=usage.client,
        faults=run.faults + run.sent - run.acked,
        note=run.first_fault[:200].decode(errors="replace"),
    )


async def _drive(phones: list[Liker], run: Run, rate: float | None) -> None:
    """Set the phones off; with a rate, send at it whatever is answered when, until the run is stopped."""
    begun = time.perf_counter()
    if rate is None:
        for phone in phones:
            phone.like(begun)
        return
    while not run.stopped:
        due = int((time.perf_counter() - begun) * rate)
        while run.sent < due:
            phone = phones[run.sent % len(phones)]
            if phone.is_done:
                return
            phone.like(begun + run.sent / rate)
        await asyncio.sleep(TICK_S)


async def _last_acks(run: Run) -> None:
    deadline = time.perf_counter() + LAST_ACKS_S
    while run.acked < run.sent and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)


def _plain(request: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(request)
    return plain
