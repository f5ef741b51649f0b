"""Users: created with all they need, changed field by field, never by an older version."""

from __future__ import annotations

import asyncio

import asyncpg

from storage.pool import session, transaction
from storage.users import UserChange, fetch_status, fetch_user, insert_unknown_users, upsert_users


async def test_unknown_users_get_head_wallet_and_name(pool: asyncpg.Pool) -> None:
    async with transaction(pool) as conn:
        assert await insert_unknown_users(conn, [9, 7, 8], [None, "john", None]) == {7, 8, 9}
        assert await insert_unknown_users(conn, [7, 10], ["other", "ten"]) == {10}
        names = await conn.fetch("SELECT id, username FROM users WHERE id IN (7, 8, 9, 10) ORDER BY id")
        heads = await conn.fetch("SELECT user_id, seq, oldest_seq FROM heads WHERE user_id IN (7, 8, 9, 10)")
        wallets = await conn.fetch("SELECT user_id, currency, balance FROM accounts WHERE user_id IN (7, 8, 9, 10)")
    assert [tuple(row) for row in names] == [(7, "john"), (8, "user_8"), (9, "user_9"), (10, "ten")]
    assert sorted(tuple(row) for row in heads) == [(id_, 0, 1) for id_ in (7, 8, 9, 10)]
    assert sorted(tuple(row) for row in wallets) == [(id_, "LYK", 0) for id_ in (7, 8, 9, 10)]


async def test_left_out_keeps_and_empty_removes(pool: asyncpg.Pool) -> None:
    full = UserChange(21, "john", "John", "https://x/y", "j@x.org", "viewer,creator", "suspended", 100, 1000, 5)
    async with transaction(pool) as conn:
        await upsert_users(conn, [full])
        assert await fetch_user(conn, 21) == (*full[:5], ["viewer", "creator"], *full[6:], 0)
        await upsert_users(conn, [UserChange(21)])
        assert await fetch_user(conn, 21) == (*full[:5], ["viewer", "creator"], *full[6:], 0)
        await upsert_users(
            conn, [UserChange(21, display_name="", picture_url="", email="", roles="", following_count=0)]
        )
        stored = await fetch_user(conn, 21)
    assert stored is not None
    assert stored[1:8] == ("john", None, None, None, [], "suspended", 0)


async def test_many_at_once_in_any_order(pool: asyncpg.Pool) -> None:
    async with transaction(pool) as conn:
        await insert_unknown_users(conn, [33], [None])
        await upsert_users(
            conn,
            [UserChange(34, "d"), UserChange(33, following_count=3), UserChange(31, "a"), UserChange(32, email="a@b")],
        )
        assert [await fetch_status(conn, user_id) for user_id in (31, 32, 33, 34)] == [
            "active",
            None,
            "active",
            "active",
        ]
        known = await fetch_user(conn, 33)
        assert known is not None
        assert (known.username, known.following_count) == ("user_33", 3)


async def test_older_versions_are_ignored(pool: asyncpg.Pool) -> None:
    cases = [(None, 1, True), (5, None, True), (5, 6, True), (5, 5, True), (5, 4, False), (None, None, True)]
    async with transaction(pool) as conn:
        for user_id, (before, given, is_applied) in enumerate(cases, start=41):
            await upsert_users(conn, [UserChange(user_id, "before", followers_count=1, version=before)])
            await upsert_users(conn, [UserChange(user_id, "after", followers_count=2, version=given)])
            user = await fetch_user(conn, user_id)
            assert user is not None
            assert (user.username, user.followers_count) == (("after", 2) if is_applied else ("before", 1))
            assert user.version == max((version for version in (before, given) if version is not None), default=None)


async def test_simultaneous_changes_of_different_fields_all_hold(pool: asyncpg.Pool) -> None:
    async def put(change: UserChange) -> None:
        async with transaction(pool) as conn:
            await upsert_users(conn, [change])

    for user_id in range(50, 60):
        await asyncio.gather(
            put(UserChange(user_id, "john", display_name="John")),
            put(UserChange(user_id, "john", email="j@x.org")),
            put(UserChange(user_id, "john", following_count=7)),
            put(UserChange(user_id, "john", followers_count=8)),
        )
        async with session(pool) as conn:
            user = await fetch_user(conn, user_id)
        assert user is not None
        assert (user.display_name, user.email, user.following_count, user.followers_count) == ("John", "j@x.org", 7, 8)


async def test_simultaneous_batches_do_not_deadlock(pool: asyncpg.Pool) -> None:
    async def put(ids: list[int]) -> None:
        async with transaction(pool) as conn:
            await upsert_users(conn, [UserChange(user_id, f"u{user_id}", following_count=1) for user_id in ids])

    ids = list(range(100, 200))
    await asyncio.gather(*(put(ids if turn % 2 else ids[::-1]) for turn in range(12)))


async def test_nobody(pool: asyncpg.Pool) -> None:
    async with session(pool) as conn:
        assert await fetch_user(conn, 404) is None
        assert await fetch_status(conn, 404) is None
        assert await insert_unknown_users(conn, [], []) == set()
        await upsert_users(conn, [])
