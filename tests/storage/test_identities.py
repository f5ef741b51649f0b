"""Identities: one user for each, whoever is first and however many are."""

from __future__ import annotations

import asyncio

import asyncpg

from storage.identities import Identity, NewIdentity, insert_identities, list_identities
from storage.pool import session, transaction
from storage.users import fetch_user, insert_unknown_users

FIRST = 2**52


async def first_use(pool: asyncpg.Pool, *new: NewIdentity) -> dict[Identity, int]:
    async with transaction(pool) as conn:
        await insert_identities(conn, new)
        return await list_identities(conn, [(each.issuer, each.subject) for each in new])


async def test_the_first_use_makes_a_user_with_all_that_users_have(pool: asyncpg.Pool) -> None:
    found = await first_use(pool, NewIdentity("i", "auth0|1", "ada"), NewIdentity("i", "auth0|2", None))
    assert found == {("i", "auth0|1"): FIRST, ("i", "auth0|2"): FIRST + 1}
    async with session(pool) as conn:
        names = [user.username for user_id in found.values() if (user := await fetch_user(conn, user_id))]
        assert names == ["ada", f"user_{FIRST + 1}"]
        assert await conn.fetchval("SELECT count(*) FROM accounts JOIN heads USING (user_id)") == 2
    assert await first_use(pool, NewIdentity("i", "auth0|1", "other")) == {("i", "auth0|1"): FIRST}


async def test_the_same_subject_of_two_issuers_is_two_people(pool: asyncpg.Pool) -> None:
    found = await first_use(pool, *(NewIdentity(issuer, "1x", None) for issuer in ("", "a", "b")))
    assert len(set(found.values())) == 3
    async with session(pool) as conn:
        assert await list_identities(conn, [("c", "1x"), ("a", "1X"), ("a", "1x ")]) == {}
        assert await list_identities(conn, []) == {}


async def test_ids_that_the_app_has_given_out_are_passed_over(pool: asyncpg.Pool) -> None:
    async with session(pool) as conn:
        await insert_unknown_users(conn, [FIRST, FIRST + 1, FIRST + 3], ["the", "app's", "own"])
    found = await first_use(pool, *(NewIdentity("i", str(n), f"n{n}") for n in range(3)))
    assert sorted(found.values()) == [FIRST + 2, FIRST + 4, FIRST + 5]
    async with session(pool) as conn:
        for (_, subject), user_id in found.items():
            user = await fetch_user(conn, user_id)
            assert user is not None
            assert user.username == f"n{subject}", "no name lands on another user"


async def test_many_first_uses_at_once_give_one_id_each(pool: asyncpg.Pool) -> None:
    new = [NewIdentity("i", f"s{n}", None) for n in range(40)]
    results = await asyncio.gather(*(first_use(pool, *(new if turn % 2 else new[::-1])) for turn in range(16)))
    assert all(result == results[0] for result in results)
    assert len(set(results[0].values())) == 40
    async with session(pool) as conn:
        assert await conn.fetchval("SELECT count(*) FROM users") == 40, "nobody beside them"


async def test_a_first_use_that_is_taken_back_leaves_nobody(pool: asyncpg.Pool) -> None:
    async with transaction(pool) as slow:
        await insert_identities(slow, [NewIdentity("i", "s", "slow")])
        waiting = asyncio.create_task(first_use(pool, NewIdentity("i", "s", "quick")))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await slow.execute("ROLLBACK")
        await slow.execute("BEGIN")
    [user_id] = (await waiting).values()
    async with session(pool) as conn:
        user = await fetch_user(conn, user_id)
        assert user is not None
        assert user.username == "quick"
        assert await conn.fetchval("SELECT count(*) FROM users") == 1
