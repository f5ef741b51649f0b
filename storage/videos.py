"""Videos as the app's backend describes them, with their settled totals."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from storage.statement import columns

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
    total_comments: int


# The kinds of engagement: 1 like, 2 view, 3 share, 4 comment.
FETCH_VIDEO = """
SELECT v.id, v.owner_id, v.title,
    coalesce(sum(c.total) FILTER (WHERE c.kind = 1), 0)::bigint,
    coalesce(sum(c.total) FILTER (WHERE c.kind = 2), 0)::bigint,
    coalesce(sum(c.total) FILTER (WHERE c.kind = 3), 0)::bigint,
    coalesce(sum(c.total) FILTER (WHERE c.kind = 4), 0)::bigint
FROM videos v LEFT JOIN video_counters c ON c.video_id = v.id WHERE v.id = $1 AND v.deleted_at IS NULL
GROUP BY v.id
"""


async def fetch_video(conn: Connection, video_id: str) -> StoredVideo | None:
    """The video with this id, unless it was deleted."""
    row = await conn.fetchrow(FETCH_VIDEO, video_id)
    return StoredVideo(*row) if row else None


class VideoTotals(NamedTuple):
    """Of one video, with what waits to be settled."""

    likes: int
    views: int
    shares: int
    comments: int


LIST_TOTALS = """
SELECT v.id,
    coalesce(sum(c.total) FILTER (WHERE c.kind = 1), 0)::bigint,
    coalesce(sum(c.total) FILTER (WHERE c.kind = 2), 0)::bigint,
    coalesce(sum(c.total) FILTER (WHERE c.kind = 3), 0)::bigint,
    coalesce(sum(c.total) FILTER (WHERE c.kind = 4), 0)::bigint
FROM unnest($1::text[]) AS asked(id) JOIN videos v ON v.id = asked.id AND v.deleted_at IS NULL
LEFT JOIN LATERAL (
    SELECT kind, total FROM video_counters WHERE video_id = v.id
    UNION ALL SELECT kind, change FROM accruals WHERE creator_id = v.owner_id AND video_id = v.id) c ON true
GROUP BY v.id
"""


async def list_totals(conn: Connection, video_ids: Collection[str]) -> dict[str, VideoTotals]:
    """The totals of now, as an action's answer has them; unknown and deleted videos are missing."""
    return {row[0]: VideoTotals(*row[1:]) for row in await conn.fetch(LIST_TOTALS, list(video_ids))}


FETCH_OWNER = "SELECT owner_id FROM videos WHERE id = $1"


async def fetch_owner(conn: Connection, video_id: str) -> int | None:
    """Whose the id is, also when the video was deleted; None where it is nobody's."""
    owner_id: int | None = await conn.fetchval(FETCH_OWNER, video_id)
    return owner_id


INSERT_VIDEO = "INSERT INTO videos (id, owner_id, title) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING"


async def insert_video(conn: Connection, video_id: str, owner_id: int, title: str) -> None:
    """Create a video unless there is one, deleted or not; waits for whoever is creating it."""
    await conn.execute(INSERT_VIDEO, video_id, owner_id, title)


UPDATE_VIDEO = """
UPDATE videos SET owner_id = coalesce($2, owner_id), title = coalesce($3, title), deleted_at = NULL
WHERE id = $1 AND (deleted_at IS NULL OR ($2::bigint IS NOT NULL AND $3::text IS NOT NULL))
"""


async def update_video(conn: Connection, video_id: str, owner_id: int | None, title: str | None) -> None:
    """Change a video; None keeps what is stored. A deleted one comes back where both are given.

    To hand a video over, hold the heads of both its owners: the counters and accruals of a video are guarded by its
    creator's head.
    """
    await conn.execute(UPDATE_VIDEO, video_id, owner_id, title)


MARK_DELETED = """
UPDATE videos SET deleted_at = clock_timestamp() WHERE id = $1 AND deleted_at IS NULL RETURNING id
"""


async def mark_deleted(conn: Connection, video_id: str) -> bool:
    """Delete a video; False where there is none. Its row stays, for what waits to be settled and was paid."""
    return await conn.fetchval(MARK_DELETED, video_id) is not None


LIST_PRESENT = "SELECT id FROM videos WHERE id = ANY($1::text[]) AND deleted_at IS NULL"


async def list_present(conn: Connection, video_ids: Collection[str]) -> set[str]:
    """Those of the videos that there are and that nobody has deleted."""
    return {row[0] for row in await conn.fetch(LIST_PRESENT, list(video_ids))}


class VideoRecord(NamedTuple):
    """What a directory says of one video; `deleted` ones keep their owner. `version` is the newest that was given with
    it."""

    id: str
    owner_id: int
    title: str
    version: int | None
    deleted: bool = False


LIST_RECORDS = "SELECT id, owner_id, title, version, deleted_at IS NOT NULL FROM videos WHERE id = ANY($1::text[])"


async def list_records(conn: Connection, video_ids: Collection[str]) -> dict[str, VideoRecord]:
    """Those of the videos that there are, deleted ones too."""
    return {row[0]: VideoRecord(*row) for row in await conn.fetch(LIST_RECORDS, list(video_ids))}


INSERT_VIDEOS = """
INSERT INTO videos (id, owner_id, title, version)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[])
ON CONFLICT (id) DO NOTHING RETURNING id
"""


async def insert_videos(conn: Connection, records: Collection[VideoRecord]) -> set[str]:
    """Create videos; the ids of those that nobody else has created meanwhile."""
    rows = [record[:4] for record in sorted(records, key=_id_of)]
    return {row[0] for row in await conn.fetch(INSERT_VIDEOS, *columns(rows, 4))}


UPDATE_VIDEOS = """
UPDATE videos v SET owner_id = given.owner_id, title = given.title, version = given.version, deleted_at = NULL
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) AS given(id, owner_id, title, version)
WHERE v.id = given.id
"""


async def update_videos(conn: Connection, records: Collection[VideoRecord]) -> None:
    """Change videos, as `update_video` does with everything given; hold the heads of those that change hands."""
    rows = [record[:4] for record in sorted(records, key=_id_of)]
    await conn.execute(UPDATE_VIDEOS, *columns(rows, 4))


def _id_of(record: VideoRecord) -> str:
    return record.id
