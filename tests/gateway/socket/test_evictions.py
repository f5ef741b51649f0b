"""Who is cut off when tokens are revoked and users suspended: also those who are just coming in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import jwt
import pytest

from fanout.cursor import Cursor
from fanout.delivery import Delivery
from fanout.hub import Hub
from fanout.pages import Page, Wanted
from gateway.auth import Authenticator
from gateway.settings import Auth, Settings
from gateway.socket.app import ClientApp
from gateway.socket.evictions import Evictions
from gateway.socket.session import Session
from gateway.socket.wheel import Wheel
from handlers.access.identities import Identities
from handlers.errors import Refusal
from handlers.wire import RefreshRequest
from storage.pool import Pool, session, transaction
from storage.revocations import Standing, revoke_token, revoke_user
from storage.users import UserChange, upsert_users

DEADLINE_S = 10.0
SECRET = "a secret of more than thirty-two bytes"


class Phone:
    """What evictions see of a session."""

    congested = False

    def __init__(self, issued_at: int | None, jti: str | None) -> None:
        self.issued_at = issued_at
        self.token_hash = None if jti is None else hash(jti)
        self.code: str | None = None

    def write(self, frame: bytes) -> None: ...

    def cut(self, code: str) -> None:
        self.code = code


class Hall:
    """A node's connections, watched."""

    def __init__(self, pool: Pool) -> None:
        self.hub = Hub()
        self.delivery = Delivery(
            hub=self.hub, read_pages=self._nothing, frame_of=lambda body: body, spawn=asyncio.create_task
        )
        self.evictions = Evictions(pool=pool, hub=self.hub, delivery=self.delivery)

    async def _nothing(self, wanted: Sequence[Wanted], _: int) -> list[Page | None]:
        return [[] for _ in wanted]

    def enter(self, user_id: int, issued_at: int | None = 0, jti: str | None = None, *, started: bool = True) -> Phone:
        phone = Phone(issued_at, jti)
        cursor: Cursor = self.delivery.attach(user_id, phone)
        if started:
            self.delivery.start(cursor, 0, 0, lambda _: None)
        return phone


async def until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watched(pool: Pool) -> AsyncIterator[Hall]:
    hall = Hall(pool)
    await hall.evictions.start()
    running = asyncio.create_task(hall.evictions.run())
    yield hall
    assert not running.done(), running.exception()
    running.cancel()


async def test_each_hears_what_concerns_it_also_before_it_was_let_in(pool: asyncpg.Pool) -> None:
    future = int(time.time()) + 100
    async with watched(pool) as hall:
        old, new, undated = hall.enter(7), hall.enter(7, future), hall.enter(7, None, "t0")
        arriving = hall.enter(7, started=False)
        lost, lost_arriving = hall.enter(8, future, "t1"), hall.enter(8, future, "t1", started=False)
        kept = hall.enter(8, future, "t2")
        suspended, suspended_arriving = hall.enter(9, future), hall.enter(9, future, started=False)
        other = hall.enter(10, None)
        async with transaction(pool) as conn:
            await revoke_user(conn, 7)
            await revoke_token(conn, "t1")
            await upsert_users(conn, [UserChange(9, "nine", status="suspended")])
        hall.evictions.look_soon()
        await until(lambda: hall.evictions.applied)
        assert [phone.code for phone in (old, undated, arriving, lost, lost_arriving)] == ["revoked"] * 5
        assert [phone.code for phone in (suspended, suspended_arriving)] == ["user_suspended"] * 2
        assert [phone.code for phone in (new, kept, other)] == [None] * 3


class Unsteady:
    """The pool of a database that comes and goes."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.is_away = False
        self.refused = 0

    def acquire(self, *, timeout: float | None = None) -> Any:
        if self.is_away:
            self.refused += 1
            raise ConnectionRefusedError
        return self._pool.acquire(timeout=timeout)


async def test_an_outage_is_made_up_for(pool: asyncpg.Pool) -> None:
    unsteady = Unsteady(pool)
    async with watched(unsteady) as hall:
        phones = [hall.enter(user_id) for user_id in range(1, 6)]
        unsteady.is_away = True
        for user_id in range(1, 6):
            async with session(pool) as conn:
                await revoke_user(conn, user_id)
            hall.evictions.look_soon()
            await until(lambda at_least=user_id: unsteady.refused >= at_least)
        assert [phone.code for phone in phones] == [None] * 5
        unsteady.is_away = False
        await until(lambda: hall.evictions.applied)
        assert [phone.code for phone in phones] == ["revoked"] * 5


class Answers:
    """Stands for the database while a fresh token is checked: says one standing after the other, and lets a look of
    the evictions go by meanwhile where it is told to."""

    def __init__(self, evictions: Evictions, *standings: tuple[Standing, bool]) -> None:
        self._evictions = evictions
        self._standings = list(standings)

    async def standing(self, _: object) -> Standing:
        found, look_meanwhile = self._standings.pop(0)
        await asyncio.sleep(0)
        self._evictions.applied += look_meanwhile
        return found


GOOD, REVOKED = Standing(7, "active", False), Standing(7, "active", True)


@pytest.mark.parametrize(
    ("standings", "code"),
    [
        ([(GOOD, False)], None),
        ([(GOOD, True), (GOOD, False)], None),
        ([(REVOKED, False)], "unauthorized"),
        ([(GOOD, True), (REVOKED, False)], "unauthorized"),  # revoked right after the first answer
        ([(Standing(8, "active", False), False)], "unauthorized"),
        ([(Standing(None, None, False), False)], "unauthorized"),
    ],
)
async def test_a_fresh_token_is_not_taken_past_a_revocation(
    standings: list[tuple[Standing, bool]], code: str | None
) -> None:
    nobody: Any = None
    hall = Hall(nobody)
    app = ClientApp(
        settings=Settings(auth=Auth(secret=SECRET)),
        node="n",
        epoch=lambda: "",
        authenticator=Authenticator(Auth(secret=SECRET)),
        identities=Identities(pool=nobody, create_unknown=True),
        hub=hall.hub,
        wheel=Wheel(asyncio.get_running_loop()),
        event_frame=lambda name, body: body,
        spawn=asyncio.create_task,
    )
    access: Any = Answers(hall.evictions, *standings)
    app.complete(
        dispatch=nobody,
        delivery=hall.delivery,
        arrivals=nobody,
        access=access,
        evictions=hall.evictions,
        announce=nobody,
        left=nobody,
        typing=nobody,
    )
    visit = Session(app, nobody, None)
    visit.user_id = 7
    visit.issued_at, visit.token_hash = 1, hash("old")
    now = int(time.time())
    token = jwt.encode({"sub": "7", "exp": now + 60, "iat": now, "jti": "new"}, SECRET, algorithm="HS256")
    if code is None:
        await app.refresh(visit, RefreshRequest(token))
        assert (visit.issued_at, visit.token_hash) == (now, hash("new"))
    else:
        with pytest.raises(Refusal) as refused:
            await app.refresh(visit, RefreshRequest(token))
        assert refused.value.code == code
        assert (visit.issued_at, visit.token_hash) == (1, hash("old"))
    app.wheel.cancel(visit)
