"""Small stand-ins for what the fan-out is given: a sink that records, an owner of tasks, an inbox in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple

from fanout.broker import Listeners
from fanout.pages import Page, Wanted
from fanout.presence import Presence


class Told(NamedTuple):
    """A committed event, as brokers take it."""

    user_id: int
    seq: int
    envelope: bytes = b"{}"


def told(pairs: Iterable[tuple[int, int]]) -> list[Told]:
    """Events of (user, seq)."""
    return [Told(user_id, seq) for user_id, seq in pairs]


class Heard:
    """What a node's listeners were told."""

    def __init__(self) -> None:
        self.heads: list[tuple[int, int]] = []
        self.events: list[tuple[int, int, bytes]] = []
        self.topics: list[tuple[str, bytes]] = []
        self.users: list[tuple[list[int], bytes]] = []
        self.users_of_topics: list[tuple[list[int], bytes, str]] = []
        self.replaced: list[tuple[int, str, int]] = []
        self.compares = 0
        self.listeners = Listeners(
            on_heads=self.heads.extend,
            on_events=self.events.extend,
            on_compare=self._compare,
            on_topic=lambda topic, envelope: self.topics.append((topic, envelope)),
            on_users=self._hear_users,
            on_replaced=lambda *device: self.replaced.append(device),
        )

    def _compare(self) -> None:
        self.compares += 1

    def _hear_users(self, user_ids: Sequence[int], envelope: bytes, topic: str | None) -> None:
        if topic is None:
            self.users.append((list(user_ids), envelope))
        else:
            self.users_of_topics.append((list(user_ids), envelope, topic))

    @property
    def reached(self) -> dict[int, int]:
        """user -> how far its inbox was said to reach, by a head or by an event itself"""
        pairs = [*self.heads, *((user_id, seq) for user_id, seq, _ in self.events)]
        return {user_id: max(seq for each, seq in pairs if each == user_id) for user_id in {user for user, _ in pairs}}

    def anything(self) -> bool:
        return bool(self.heads or self.events or self.topics or self.users or self.replaced or self.compares) or bool(
            self.users_of_topics
        )


async def devices_of(presence: Presence, user_id: int) -> list[str]:
    """Of each of a user's connections."""
    return [held.device_id for held in await presence.connections_of(user_id)]


async def until(true: Callable[[], object], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.002)


class Recorder:
    """A sink that keeps what it is given. `congest_after` frames it asks for a pause by itself."""

    def __init__(self, *, congest_after: int | None = None) -> None:
        self.congested = False
        self.frames: list[bytes] = []
        self.cuts: list[str] = []
        self.congest_after = congest_after

    def write(self, frame: bytes) -> None:
        self.frames.append(frame)
        if self.congest_after is not None and len(self.frames) >= self.congest_after:
            self.congested = True

    def cut(self, code: str) -> None:
        self.cuts.append(code)


class Tasks:
    """Owns tasks, as the supervisor does; a failure comes out at `settle`."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException] = []

    def __call__(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)

    async def settle(self, turns: int = 20) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        assert not self.failures, self.failures

    async def end(self) -> None:
        for task in tuple(self.running):
            task.cancel()
        await asyncio.sleep(0)


class Inbox:
    """A user's stored events; `seq` n is the envelope b"n". Reading can be made to fail or to wait."""

    def __init__(self, head: int = 0) -> None:
        self.head = head
        self.oldest = 1
        self.reads: list[tuple[int, int]] = []
        self.failures_left = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read_pages(self, wanted: Sequence[Wanted], limit: int) -> list[Page | None]:
        self.reads += [(after, upto) for _, after, upto in wanted]
        await asyncio.sleep(0)
        if self.failures_left:
            self.failures_left -= 1
            raise OSError("the database is away")
        pages: list[Page | None] = []
        for _, after, upto in wanted:
            first, last = max(after + 1, self.oldest), min(upto, self.head)
            pages.append([(seq, b"%d" % seq) for seq in range(first, last + 1)][:limit])
        await self.gate.wait()
        return pages
