"""Comments, their pages, and on which day whom they paid."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from storage.engagement import StoredEngagement
from storage.statement import Write, columns

if TYPE_CHECKING:
    from asyncpg import Connection


class StoredComment(NamedTuple):
    """One comment; `username` as of then."""

    video_id: str
    id: UUID
    user_id: int
    username: str
    text: str
    created_at: datetime


INSERT = """
INSERT INTO comments (video_id, id, user_id, username, text, created_at)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::timestamptz[])
"""


def insert_comments(comments: Sequence[StoredComment]) -> list[Write]:
    """The write that adds comments, in their order; the caller holds the heads of the videos' owners."""
    return [Write(INSERT, columns(comments, 6))] if comments else []


LIST_PAID_DAYS = """
SELECT d.actor_id, d.video_id, e.paid_day, e.paid_on_day
FROM unnest($1::bigint[], $2::text[]) AS d(actor_id, video_id)
JOIN engagements e ON e.actor_id = d.actor_id AND e.video_id = d.video_id AND e.kind = 4
WHERE e.paid_day IS NOT NULL
"""


async def list_paid_days(conn: Connection, keys: Sequence[tuple[int, str]]) -> dict[tuple[int, str], tuple[date, int]]:
    """(actor, video) -> (the last UTC day on which comments paid, how often on that day), where they ever did.

    A statement of its own, so that likes don't pay for it.
    """
    rows = await conn.fetch(LIST_PAID_DAYS, *columns(keys, 2))
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


# As storage.engagement has it for the other kinds, with the day. Nobody earns by another's comment but its actor.
INSERT_ENGAGEMENTS = """
INSERT INTO engagements AS e (actor_id, video_id, kind, count, actor_points, actor_paid, creator_id,
    paid_day, paid_on_day)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bool[], $7::bigint[],
    $8::date[], $9::int[])
ON CONFLICT (actor_id, video_id, kind) DO UPDATE SET
    count = excluded.count,
    actor_points = e.actor_points + excluded.actor_points,
    actor_paid = excluded.actor_paid,
    creator_id = CASE WHEN excluded.actor_points > 0 THEN excluded.creator_id ELSE e.creator_id END,
    paid_day = excluded.paid_day,
    paid_on_day = excluded.paid_on_day
"""


def insert_engagements(rows: Sequence[tuple[StoredEngagement, tuple[date, int] | None]]) -> list[Write]:
    """The write of each (actor, video)'s state with the day on which comments paid last; points are those that this
    batch adds."""
    if not rows:
        return []
    stored = [
        (e.actor_id, e.video_id, e.kind, e.counted, e.actor_points, e.actor_paid, e.creator_id, *(paid or (None, None)))
        for e, paid in rows
    ]
    return [Write(INSERT_ENGAGEMENTS, columns(sorted(stored, key=itemgetter(0, 1)), 9))]


LIST_NEWEST = """
SELECT number, video_id, id, user_id, username, text, created_at FROM comments
WHERE video_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3
"""


async def list_newest(conn: Connection, video_id: str, before: int, limit: int) -> list[tuple[int, StoredComment]]:
    """(number, comment) of a video, newest first, those below `before`."""
    rows = await conn.fetch(LIST_NEWEST, video_id, before, limit)
    return [(row[0], StoredComment(*row[1:])) for row in rows]
