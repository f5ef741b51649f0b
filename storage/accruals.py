"""What waits for a popular creator: written with each action, taken by the settler."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from storage.statement import Write, micros, moment_of

if TYPE_CHECKING:
    from asyncpg import Connection


class Accrual(NamedTuple):
    """One batch's engagement with one creator's video of one kind. Points are minor units, judged already."""

    creator_id: int
    video_id: str
    kind: int
    points: int
    paid: int
    change: int
    notify: int
    actors: list[int]
    username: str | None
    channel: str | None
    created_at: datetime


# The lists of actors travel as text, since an array in a row of an array is one level too deep for the driver.
INSERT = f"""
INSERT INTO accruals (creator_id, video_id, kind, points, paid, change, notify, actors, username, channel, created_at)
SELECT creator_id, video_id, kind, points, paid, change, notify, actors::bigint[], username, channel,
    {moment_of("created_us")} FROM unnest($1::accrual_row[])
"""


def insert_accruals(accruals: Sequence[Accrual]) -> list[Write]:
    """The write that adds accruals; no lock is needed, nothing is ever updated."""
    rows = [
        (*row[:7], "{" + ",".join(map(str, row.actors)) + "}", row.username, row.channel, micros(row.created_at))
        for row in accruals
    ]
    return [Write(INSERT, (rows,))] if rows else []


LIST_DUE = """
SELECT DISTINCT a.creator_id FROM accruals a
LEFT JOIN video_counters c ON c.video_id = a.video_id AND c.kind = a.kind
WHERE coalesce(c.last_paid_at < clock_timestamp() - interval '1 second', true) LIMIT $1
"""


async def list_due(conn: Connection, limit: int) -> list[int]:
    """Creators with something waiting who have heard nothing of that video and kind for a second."""
    return [row[0] for row in await conn.fetch(LIST_DUE, limit)]


class Settlement(NamedTuple):
    """All that waited for one creator, video and kind, with what is needed to tell them."""

    now: datetime
    creator_id: int
    video_id: str
    kind: int
    points: int
    paid: int
    change: int
    notify: int
    actors: list[int]
    username: str | None
    channel: str | None
    title: str
    total: int  # as settled before
    balance: int
    n: int


# A pair that was settled a moment ago waits for its second: the test of list_due, repeated under
# the creator's head. Lists of actors are gathered newest first as text, since array_agg takes no
# arrays of different length.
TAKE = """
WITH taken AS (
    DELETE FROM accruals a USING unnest($1::bigint[]) AS due(creator_id)
    WHERE a.creator_id = due.creator_id AND NOT EXISTS (
        SELECT FROM video_counters c WHERE c.video_id = a.video_id AND c.kind = a.kind
            AND c.last_paid_at >= clock_timestamp() - interval '1 second')
    RETURNING a.*
), summed AS (
    SELECT creator_id, video_id, kind, sum(points)::bigint AS points, sum(paid)::int AS paid,
        sum(change)::int AS change, sum(notify)::int AS notify,
        string_agg(array_to_string(actors, ','), ',' ORDER BY created_at DESC) FILTER (WHERE notify > 0) AS actors,
        (array_agg(username ORDER BY created_at DESC) FILTER (WHERE notify > 0))[1] AS username,
        (array_agg(channel ORDER BY created_at DESC) FILTER (WHERE notify > 0))[1] AS channel
    FROM taken GROUP BY creator_id, video_id, kind
)
SELECT clock_timestamp(), s.creator_id, s.video_id, s.kind, s.points, s.paid, s.change, s.notify,
    coalesce(s.actors, ''), s.username, s.channel, v.title, coalesce(c.total, 0), b.balance, b.n
FROM summed s
JOIN videos v ON v.id = s.video_id
JOIN accounts b ON b.user_id = s.creator_id AND b.currency = $2
LEFT JOIN video_counters c ON c.video_id = s.video_id AND c.kind = s.kind
ORDER BY s.creator_id, s.video_id, s.kind
"""


async def take(conn: Connection, creator_ids: Sequence[int], currency: str) -> list[Settlement]:
    """Remove what is due of these creators, whose heads the caller holds, and return it summed up."""
    rows = await conn.fetch(TAKE, list(creator_ids), currency)
    return [Settlement._make([*row[:8], _ids(row[8]), *row[9:]]) for row in rows]


def _ids(listed: str) -> list[int]:
    return [int(actor) for actor in listed.split(",") if actor]


WAITING = """
SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8
FROM (SELECT created_at FROM accruals LIMIT 10000) waiting
"""


async def fetch_waiting(conn: Connection) -> tuple[int, float]:
    """(accruals that wait for the settler, age of the oldest in seconds), of 10,000 at most: a look, not a count."""
    row = await conn.fetchrow(WAITING)
    assert row is not None
    return row[0], row[1]
