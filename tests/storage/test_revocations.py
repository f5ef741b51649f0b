"""Revocations: what they refuse, and that every node hears of each, however late it commits."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from storage.pool import session, transaction
from storage.revocations import (
    FETCH_NEWS,
    KEPT_DAYS,
    fetch_horizon,
    fetch_news,
    fetch_standing,
    list_revoked_tokens,
    revoke_token,
    revoke_user,
    trim,
)
from storage.users import UserChange, upsert_users


async def second_of(conn: asyncpg.Connection) -> int:
    second: int = await conn.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()))::bigint")
    return second


async def test_tokens_up_to_the_second_of_the_revocation_are_refused(conn: asyncpg.Connection) -> None:
    before = await second_of(conn)
    assert not (await fetch_standing(conn, 7, None, before, "t")).is_revoked
    await revoke_user(conn, 7)
    after = await second_of(conn)
    for issued_at, is_revoked in ((before, True), (0, True), (None, True), (after + 1, False), (2**40, False)):
        assert (await fetch_standing(conn, 7, None, issued_at, None)).is_revoked is is_revoked
    assert not (await fetch_standing(conn, 8, None, before, None)).is_revoked


async def test_a_later_revocation_takes_more_and_none_takes_back(conn: asyncpg.Connection) -> None:
    await revoke_user(conn, 7)
    await conn.execute("UPDATE user_revocations SET up_to = up_to - 10")
    await revoke_user(conn, 7)
    now = await second_of(conn)
    assert now - 2 <= await conn.fetchval("SELECT up_to FROM user_revocations") <= now
    await conn.execute("UPDATE user_revocations SET up_to = up_to + 1000")
    await revoke_user(conn, 7)
    assert await conn.fetchval("SELECT up_to FROM user_revocations") > now + 900, "the clock may step back"


async def test_one_token_is_refused_whoever_it_is_of(conn: asyncpg.Connection) -> None:
    for _ in range(2):
        await revoke_token(conn, "t1")
    assert (await fetch_standing(conn, 7, None, 2**40, "t1")).is_revoked
    assert (await fetch_standing(conn, None, ("i", "backend"), 2**40, "t1")).is_revoked
    assert not (await fetch_standing(conn, 7, None, 2**40, "t2")).is_revoked
    assert await list_revoked_tokens(conn, ["t0", "t1", "t2"]) == {"t1"}
    assert await list_revoked_tokens(conn, []) == set()


async def test_standing_tells_who_it_is(conn: asyncpg.Connection) -> None:
    async with conn.transaction():
        await upsert_users(conn, [UserChange(7, "seven"), UserChange(8, "eight", status="suspended")])
    await conn.execute("INSERT INTO identities VALUES ('i', 'auth0|8', 8)")
    assert await fetch_standing(conn, 7, None, 1, None) == (7, "active", False)
    assert await fetch_standing(conn, None, ("i", "auth0|8"), 1, None) == (8, "suspended", False)
    assert await fetch_standing(conn, None, ("j", "auth0|8"), 1, None) == (None, None, False)
    assert await fetch_standing(conn, 9, None, 1, None) == (9, None, False)
    await revoke_user(conn, 8)
    assert (await fetch_standing(conn, None, ("i", "auth0|8"), 1, None)).is_revoked


async def test_a_node_hears_of_what_comes_after_its_last_look(conn: asyncpg.Connection) -> None:
    async with conn.transaction():
        await upsert_users(conn, [UserChange(5, "five", status="suspended"), UserChange(6, "six")])
    await revoke_user(conn, 4)
    horizon = await fetch_horizon(conn)
    quiet = await fetch_news(conn, horizon)
    assert (quiet.users, quiet.jtis, quiet.suspended) == ([], [], [])

    await revoke_user(conn, 7)
    await revoke_token(conn, "t1")
    async with conn.transaction():
        await upsert_users(conn, [UserChange(6, status="suspended"), UserChange(5, status="suspended")])
    news = await fetch_news(conn, horizon)
    assert ([user for user, _ in news.users], news.jtis, news.suspended) == ([7], ["t1"], [6])
    assert abs(news.users[0][1] - await second_of(conn)) <= 2
    later = await fetch_news(conn, news.horizon)
    assert (later.users, later.jtis, later.suspended) == ([], [], [])

    async with conn.transaction():
        await upsert_users(conn, [UserChange(6, status="active")])
    await revoke_user(conn, 7)
    again = await fetch_news(conn, horizon)
    assert ([user for user, _ in again.users], again.suspended) == ([7], []), "who is active again is left alone"


async def test_what_commits_late_is_not_passed_over(pool: asyncpg.Pool) -> None:
    """A transaction stays open while others come and go and a node looks again and again."""
    async with session(pool) as node:
        horizon = await fetch_horizon(node)
        async with transaction(pool) as late:
            await revoke_user(late, 7)
            await revoke_token(late, "late")
            await upsert_users(late, [UserChange(9, "nine", status="suspended")])
            heard: list[int] = []
            for user_id in range(100, 110):
                async with session(pool) as other:
                    await revoke_user(other, user_id)
                news = await fetch_news(node, horizon)
                horizon = news.horizon
                heard += [user for user, _ in news.users]
                assert 7 not in heard
            assert set(heard) == set(range(100, 110))
        news = await fetch_news(node, horizon)
        assert 7 in [user for user, _ in news.users]
        assert (news.jtis, news.suspended) == (["late"], [9])


async def test_a_node_that_looks_while_many_revoke_hears_of_each(pool: asyncpg.Pool) -> None:
    async with session(pool) as node:
        horizon = await fetch_horizon(node)
        heard: set[int] = set()

        async def revoke(user_id: int) -> None:
            async with transaction(pool) as conn:
                await revoke_user(conn, user_id)
                await conn.execute("SELECT pg_sleep(random() * 0.02)")

        async def look() -> None:
            nonlocal horizon
            news = await fetch_news(node, horizon)
            horizon = news.horizon
            heard.update(user for user, _ in news.users)

        revoking = asyncio.gather(*(revoke(user_id) for user_id in range(1, 201)))
        while not revoking.done():
            await look()
            await asyncio.sleep(0)
        await revoking
        await look()
        assert heard == set(range(1, 201))


@pytest.mark.parametrize(("days", "is_left"), [(KEPT_DAYS - 1, True), (KEPT_DAYS + 1, False)])
async def test_ids_of_tokens_are_forgotten_when_no_such_token_can_live(
    conn: asyncpg.Connection, days: int, is_left: bool
) -> None:
    await revoke_token(conn, "t1")
    await conn.execute("UPDATE token_revocations SET revoked_at = revoked_at - make_interval(days => $1)", days)
    await trim(conn)
    assert (await list_revoked_tokens(conn, ["t1"]) == {"t1"}) is is_left


async def test_looking_reads_no_table_from_end_to_end(conn: asyncpg.Connection) -> None:
    await conn.execute("INSERT INTO users (id, username) SELECT n, 'u' FROM generate_series(1, 5000) n")
    await conn.execute("INSERT INTO user_revocations (user_id, up_to) SELECT n, 1 FROM generate_series(1, 5000) n")
    await conn.execute("INSERT INTO token_revocations (jti) SELECT n FROM generate_series(1, 5000) n")
    await conn.execute("ANALYZE users, user_revocations, token_revocations")
    plan = await conn.fetch("EXPLAIN " + FETCH_NEWS.replace("$1", f"'{await fetch_horizon(conn)}'"))
    text = "\n".join(row[0] for row in plan)
    assert text.count("Index") >= 3, text
    assert "Seq Scan" not in text, text
