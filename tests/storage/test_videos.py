"""Videos and backends' events as they are stored."""

from __future__ import annotations

import asyncio
from datetime import datetime

import asyncpg

from storage.ingested import Taken, fetch_taken, insert_event
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
    async def note(fingerprint: bytes) -> tuple[datetime | None, Taken | None]:
        async with transaction(pool) as conn:
            return await insert_event(conn, "source", "e1", fingerprint), await fetch_taken(conn, "source", "e1")

    answers = await asyncio.gather(*(note(bytes([number])) for number in range(6)))
    assert sum(1 for taken_at, _ in answers if taken_at is not None) == 1
    assert len({taken for _, taken in answers}) == 1
