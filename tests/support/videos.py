"""Videos for tests, stored as the doors store them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.videos import insert_video, update_video

if TYPE_CHECKING:
    from asyncpg import Connection


async def upsert_video(conn: Connection, video_id: str, owner_id: int | None, title: str | None) -> None:
    """Create or change one video, as `insert_video` and `update_video` do. With either missing none is created.

    Call it in a transaction.
    """
    if owner_id is not None and title is not None:
        await insert_video(conn, video_id, owner_id, title)
    await update_video(conn, video_id, owner_id, title)
