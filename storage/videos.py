"""Videos as the app's backend describes them, with their settled totals."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asyncpg import Connection


class StoredVideo(NamedTuple):
    """One video. The totals may lag by a second, while accruals wait to be settled."""

    id: str
    owner_id: int
    title: str
    total_likes: int
    total_views: int
    total_shares: int


# The kinds of engagement: 1 like, 2 view, 3 share.
FETCH_VIDEO = """
SELECT v.id, v.owner_id, v.title,
    coalesce(sum(c.total) FILTER (WHERE c.kind = 1), 0)::bigint,
    coalesce(sum(c.total) FILTER (WHERE c.kind = 2), 0)::bigint,
    coalesce(sum(c.total) FILTER (WHERE c.kind = 3), 0)::bigint
FROM videos v LEFT JOIN video_counters c ON c.video_id = v.id WHERE v.id = $1
GROUP BY v.id
"""


async def fetch_video(conn: Connection, video_id: str) -> StoredVideo | None:
    """The video with this id."""
    row = await conn.fetchrow(FETCH_VIDEO, video_id)
    return StoredVideo(*row) if row else None


INSERT_VIDEO = "INSERT INTO videos (id, owner_id, title) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING"

UPDATE_VIDEO = """
UPDATE videos SET owner_id = coalesce($2, owner_id), title = coalesce($3, title) WHERE id = $1
"""


async def upsert_video(conn: Connection, video_id: str, owner_id: int | None, title: str | None) -> None:
    """Create or change one video; None keeps what is stored. With either missing none is created.

    Call it in a transaction. To hand a video over, hold the heads of both its owners: the counters
    and accruals of a video are guarded by its creator's head.
    """
    if owner_id is not None and title is not None:
        await conn.execute(INSERT_VIDEO, video_id, owner_id, title)
    await conn.execute(UPDATE_VIDEO, video_id, owner_id, title)
