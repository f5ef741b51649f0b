"""People with phones that are told by a push: a job on the test's database, and a provider that keeps what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from handlers.caller import Caller, Claims
from handlers.deed import fresh_id
from handlers.push.handler import DevicesHandler
from handlers.push.job import Limits, PushJob
from handlers.push.provider import Answer
from handlers.push.wire import RegisterRequest
from storage import db, heads, inbox
from storage.inbox import StoredEvent
from storage.statement import write_together
from tests.support.chats import Chats

if TYPE_CHECKING:
    import asyncpg

TYPES = ("message_preview", "video_like", "video_comment", "profile_followed", "live_stream_started")
LIMITS = Limits(TYPES, after_s=0, recheck_s=600, max_age_s=3600, most_events=20, in_flight=10, timeout_s=60)


class Provider:
    """Keeps each message that it takes. `answers`: of the next ones by token; `gate` holds all up until it is set."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.answers: dict[str, list[Answer]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.entered: list[str] = []

    async def send(self, message: dict[str, Any]) -> Answer:
        token = message["token"]
        self.entered.append(token)
        if token in self.gates:
            await self.gates[token].wait()
        answer = self.answers[token].pop(0) if self.answers.get(token) else Answer("sent")
        if answer.result in ("sent", "unknown"):
            self.told.append(message)
        return answer

    async def close(self) -> None: ...

    def bodies(self, token: str) -> list[str]:
        """What a device was shown."""
        return [message["notification"]["body"] for message in self.told if message["token"] == token]

    def seqs(self, token: str) -> list[int]:
        return [int(message["data"]["seq"]) for message in self.told if message["token"] == token]


class Phones:
    """Devices, events and jobs. `connected`: user -> the devices that they are connected with."""

    def __init__(self, conn: asyncpg.Connection, pool: asyncpg.Pool, dsn: str) -> None:
        self.conn = conn
        self.chats = Chats(conn, pool)
        self.devices = DevicesHandler(pool=pool, most_devices=3, most_token_chars=100)
        self.provider = Provider()
        self.connected: dict[int, list[str]] = {}
        self.now = 1_000.0
        self.tasks: set[asyncio.Task[None]] = set()
        self.job = self.new_job()
        self._dsn = dsn
        self._sessions: list[asyncpg.Connection] = []

    def new_job(self, limits: Limits = LIMITS) -> PushJob:
        """Another node's, or that of one that was started again."""
        return PushJob(
            provider=self.provider,
            devices_of=self._devices_of,
            spawn=self._spawn,
            limits=limits,
            clock=lambda: self.now,
        )

    async def session(self) -> asyncpg.Connection:
        """A job's own."""
        session = await db.connect_lane(self._dsn)
        self._sessions.append(session)
        return session

    async def _devices_of(self, user_id: int) -> list[str]:
        return self.connected.get(user_id, [])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        return task

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for session in self._sessions:
            session.terminate()

    async def register(self, user: int, device: str = "phone", token: str = "", **more: Any) -> str:
        """A device; its token."""
        token = token or f"token-{user}-{device}"
        caller = Caller(str(user), user, frozenset({"viewer"}))
        claims = Claims(caller=caller, expires_at=2e10, issued_at=more.pop("issued_at", 1e9), jti=more.pop("jti", None))
        await self.devices.register(user, claims, RegisterRequest(device, token, more.pop("platform", "android")))
        return token

    async def tell(self, user: int, type_: str = "profile_followed", data: str = '{"actorUsername": "ana"}') -> int:
        """An event for a user; its `seq`."""
        async with self.conn.transaction():
            seq = (await heads.lock(self.conn, [user]))[user] + 1
            now = await self.conn.fetchval("SELECT clock_timestamp()")
            event = StoredEvent(user, seq, fresh_id(), type_, None, data, now)
            await write_together(self.conn, inbox.append([event], {user: seq}))
        return seq

    async def push(self, job: PushJob | None = None, conn: asyncpg.Connection | None = None) -> None:
        """Until nothing is left to do now."""
        job, conn = job or self.job, conn or self.conn
        await job.run(conn)
        while job.in_flight:
            await asyncio.gather(*self.tasks)
            await job.run(conn)

    async def due(self) -> list[int]:
        return [row[0] for row in await self.conn.fetch("SELECT user_id FROM push_due ORDER BY 1")]

    async def be_due_now(self) -> None:
        """Whatever is put off is not any more."""
        await self.conn.execute("UPDATE push_due SET since = clock_timestamp() - interval '1 second'")

    async def pushed(self, user: int, device: str = "phone") -> int | None:
        seq: int | None = await self.conn.fetchval(
            "SELECT pushed_seq FROM push_devices WHERE user_id = $1 AND device_id = $2", user, device
        )
        return seq


@pytest.fixture
async def phones(conn: asyncpg.Connection, pool: asyncpg.Pool, dsn: str) -> AsyncIterator[Phones]:
    """Ten people."""
    made = Phones(conn, pool, dsn)
    await made.chats.people(10)
    yield made
    await made.close()
