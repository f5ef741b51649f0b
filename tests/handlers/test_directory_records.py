"""Records of the directory: each is taken in once, all of a step or none, and older versions change nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from gateway.intake.records import directory_record
from handlers.directory.records import RecordsHandler, RecordsRefused
from storage import ingress
from storage.audit import audit
from storage.ingress import Overtaken, Step
from tests.support.intake import user, video

AT = ("t.directory", 0)


class Taker:
    """Takes records in as their partition does, from where it stands."""

    def __init__(self, pool: asyncpg.Pool, *, follows_count: bool = False) -> None:
        self.handler = RecordsHandler(pool=pool, follows_count=follows_count)
        self.at = 0

    async def take(self, *records: dict[str, Any]) -> int:
        read = [directory_record(json.dumps(each).encode()) for each in records]
        repeated = await self.handler.take(read, Step(*AT, self.at, self.at + len(read)))
        self.at += len(read)
        return repeated

    async def refused(self, *records: dict[str, Any]) -> dict[int, tuple[str, str | None]]:
        with pytest.raises(RecordsRefused) as refused:
            await self.take(*records)
        return {at: (each.code, each.field) for at, each in refused.value.refusals.items()}


@pytest.fixture
async def taker(pool: asyncpg.Pool, conn: asyncpg.Connection) -> Any:
    await ingress.begin(conn, {AT: 0})
    yield Taker(pool)
    assert await audit(conn) == []


async def person(conn: asyncpg.Connection, user_id: int, *columns: str) -> Any:
    return tuple(await conn.fetchrow(f"SELECT {', '.join(columns)} FROM users WHERE id = $1", user_id))


async def test_people_and_videos_come_and_change(taker: Taker, conn: asyncpg.Connection) -> None:
    assert (
        await taker.take(
            video("v", ownerId=7, title="First"),  # behind its owner or before: of one step users come first
            user(7, username="ann", followersCount=5, version=3),
            user(8, username="ben", roles=["creator"], email="ben@example.org"),
            user(7, followersCount=6, version=4),
        )
        == 0
    )
    assert await person(conn, 7, "username", "followers_count", "version") == ("ann", 6, 4)
    assert await person(conn, 8, "email", "roles") == ("ben@example.org", ["creator"])
    assert tuple(await conn.fetchrow("SELECT owner_id, title, version FROM videos")) == (7, "First", None)
    await taker.take(video("v", title="Second", version=2), user(8, email=None, status="suspended"))
    assert tuple(await conn.fetchrow("SELECT owner_id, title, version FROM videos")) == (7, "Second", 2)
    assert await person(conn, 8, "email", "status") == (None, "suspended")
    assert await ingress.list_offsets(conn, [AT]) == {AT: 6}
    [logged] = await conn.fetch("SELECT who, what, target, after ->> 'status' FROM audit_log")
    assert tuple(logged) == ("crm", "user:status", "user:8", "suspended")


async def test_an_older_version_changes_nothing(taker: Taker, conn: asyncpg.Connection) -> None:
    await taker.take(user(7, username="ann", followersCount=5, version=3), video("v", ownerId=7, title="A", version=3))
    await taker.take(user(7, username="old", followersCount=4, version=2), video("v", title="Old", version=2))
    assert await person(conn, 7, "username", "followers_count", "version") == ("ann", 5, 3)
    assert await conn.fetchval("SELECT title FROM videos") == "A"
    await taker.take(user(7, email="a@b", version=3), video("v", title="B", version=3), video("v", title="C"))
    assert await person(conn, 7, "username", "email", "version") == ("ann", "a@b", 3)
    assert tuple(await conn.fetchrow("SELECT title, version FROM videos")) == ("C", 3)


async def test_a_repetition_undoes_nothing(taker: Taker, conn: asyncpg.Connection) -> None:
    first, second = user(7, username="ann"), user(7, username="anna")
    assert await taker.take(first, second, first) == 1
    assert await taker.take(second, first, {**first, "username": "other"}) == 3
    assert await person(conn, 7, "username") == ("anna",)
    assert await taker.take({**first, "source": "another"}) == 0
    assert await person(conn, 7, "username") == ("ann",)


async def test_where_one_is_refused_nothing_is_stored(taker: Taker, conn: asyncpg.Connection) -> None:
    good = user(7, username="ann")
    assert await taker.refused(
        good, user(9, followersCount=3), video("v", ownerId=99, title="V"), video("w", ownerId=7)
    ) == {1: ("invalid_payload", "username"), 2: ("not_found", "ownerId"), 3: ("invalid_payload", "title")}
    assert await conn.fetchval("SELECT count(*) FROM users") == 0
    assert await taker.take(good) == 0, "nor was it noted"
    assert await person(conn, 7, "username") == ("ann",)


async def test_follow_verbs_counts_are_nobody_elses(pool: asyncpg.Pool, conn: asyncpg.Connection) -> None:
    await ingress.begin(conn, {AT: 0})
    taker = Taker(pool, follows_count=True)
    assert await taker.refused(user(7, username="ann", followersCount=1)) == {0: ("conflict", "followersCount")}
    assert await taker.take(user(7, username="ann", followersCount=0)) == 0


async def test_one_that_is_wrong_about_the_partition_stores_nothing(taker: Taker, conn: asyncpg.Connection) -> None:
    taker.at = 3
    with pytest.raises(Overtaken):
        await taker.take(user(7, username="ann"))
    assert await conn.fetchval("SELECT count(*) FROM users") == 0


async def test_of_two_members_that_take_the_same_step_one_does(taker: Taker, pool: asyncpg.Pool) -> None:
    records = [user(number, username=f"u{number}") for number in range(1, 50)]

    async def take(other: Taker) -> bool:
        try:
            await other.take(*records)
        except Overtaken:
            return False
        return True

    assert sum(await asyncio.gather(*(take(Taker(pool)) for _ in range(4)))) == 1
