"""Uploads: whose a video's id becomes, what a batch of uploads needs to know, and for what was paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from storage.statement import Write, columns

if TYPE_CHECKING:
    from asyncpg import Connection

CLAIM = """
INSERT INTO videos (id, owner_id, title) SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[])
ON CONFLICT (id) DO NOTHING
"""


async def claim(conn: Connection, videos: Mapping[str, tuple[int, str]]) -> None:
    """Give each id (-> owner, title) that is nobody's to its owner. Waits for whoever is taking the same one.

    Sorted, since two batches that take the same ids wait for each other's. Whose they are now can only be read in the
    next statement.
    """
    await conn.execute(CLAIM, *columns(sorted((video_id, *video) for video_id, video in videos.items()), 3))


class Reading(NamedTuple):
    """What one upload reads after its locks and claims, in one row."""

    now: datetime
    owner_id: int | None  # None: the id was not claimed
    followers: int
    balance: int
    n: int
    paid: bool


READ = """
SELECT clock_timestamp(), v.owner_id, u.followers_count, a.balance, a.n, w.user_id IS NOT NULL
FROM unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY AS d(user_id, video_id, currency, place)
JOIN users u ON u.id = d.user_id
JOIN accounts a ON a.user_id = d.user_id AND a.currency = d.currency
LEFT JOIN videos v ON v.id = d.video_id
LEFT JOIN upload_awards w ON w.user_id = d.user_id AND w.video_id = d.video_id
ORDER BY d.place
"""


async def list_readings(conn: Connection, keys: Sequence[tuple[int, str, str]]) -> list[Reading]:
    """One Reading per (user, video, currency), in their order."""
    return [Reading(*row) for row in await conn.fetch(READ, *columns(keys, 3))]


SET_TITLES = """
UPDATE videos v SET title = new.title, deleted_at = NULL FROM unnest($1::text[], $2::text[]) AS new(id, title)
WHERE v.id = new.id AND (v.title <> new.title OR v.deleted_at IS NOT NULL)
"""


def set_titles(titles: Mapping[str, str]) -> list[Write]:
    """The write of the titles, which brings deleted videos back; the caller holds the owners' heads."""
    return [Write(SET_TITLES, columns(sorted(titles.items()), 2))] if titles else []


class PaidUpload(NamedTuple):
    """An upload that was paid, in minor units."""

    user_id: int
    video_id: str
    points: int
    paid_at: datetime


INSERT_PAID = """
INSERT INTO upload_awards (user_id, video_id, points, paid_at)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::timestamptz[])
"""


def insert_paid(rows: Sequence[PaidUpload]) -> list[Write]:
    """The write that says for ever what was paid; the caller holds the users' heads and saw no such row."""
    return [Write(INSERT_PAID, columns(sorted(rows, key=itemgetter(0, 1)), 4))] if rows else []
