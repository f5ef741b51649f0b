"""Videos and backends' events as they are stored."""

from __future__ import annotations

import asyncio

import asyncpg

from storage.ingested import EventKey, Taken, insert_events, list_taken
from storage.pool import transaction
from storage.videos import StoredVideo, fetch_owner, fetch_video, mark_deleted
from tests.support.videos import upsert_video


async def test_a_video_is_created_only_whole_and_changed_in_parts(pool: asyncpg.Pool) -> None:
    async with transaction(pool) as conn:
        await upsert_video(conn, "v1", 7, None)
        await upsert_video(conn, "v1", None, "Dance")
        assert await fetch_video(conn, "v1") is None
        await upsert_video(conn, "v1", 7, "Dance")
        await upsert_video(conn, "v1", None, "Amazing Dance")
        await upsert_video(conn, "v1", 8, None)
        assert await fetch_video(conn, "v1") == StoredVideo("v1", 8, "Amazing Dance", 0, 0, 0, 0)


async def test_totals_are_by_kind(pool: asyncpg.Pool) -> None:
    async with transaction(pool) as conn:
        await upsert_video(conn, "v2", 7, "Dance")
        await conn.execute(
            "INSERT INTO video_counters SELECT 'v2', kind, total, now()"
            " FROM (VALUES (1, 3), (3, 5), (4, 2)) AS t(kind, total)"
        )
        assert await fetch_video(conn, "v2") == StoredVideo("v2", 7, "Dance", 3, 0, 5, 2)


async def test_a_deleted_video_keeps_its_owner_and_comes_back_whole_only(pool: asyncpg.Pool) -> None:
    async with transaction(pool) as conn:
        assert not await mark_deleted(conn, "v3")
        await upsert_video(conn, "v3", 7, "Dance")
        assert await mark_deleted(conn, "v3")
        assert not await mark_deleted(conn, "v3")
        for owner, title in ((None, "Title"), (8, None), (None, None)):
            await upsert_video(conn, "v3", owner, title)
            assert (await fetch_video(conn, "v3"), await fetch_owner(conn, "v3")) == (None, 7)
        await upsert_video(conn, "v3", 8, "Back")
        assert await fetch_video(conn, "v3") == StoredVideo("v3", 8, "Back", 0, 0, 0, 0)
        assert await fetch_owner(conn, "v4") is None


async def test_an_event_is_noted_once_whoever_comes_first(pool: asyncpg.Pool) -> None:
    keys = [("source", f"e{number}") for number in range(4)]

    async def note(number: int) -> tuple[set[EventKey], dict[EventKey, Taken]]:
        """Some of them, in any order."""
        some = keys[number % 3 :: -1] + keys[3:]
        async with transaction(pool) as conn:
            _, new = await insert_events(conn, {key: Taken(bytes([number]), number, 0) for key in some})
            return set(some) if new is None else new, await list_taken(conn, some)

    answers = await asyncio.gather(*(note(number) for number in range(9)))
    assert sorted(key for new, _ in answers for key in new) == keys
    for key in keys:
        assert len({taken[key] for _, taken in answers if key in taken}) == 1
