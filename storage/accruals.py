"""What waits for a popular creator: written with each action, taken by the settler."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from storage.statement import Write, columns, micros, moment_of

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


class Place(NamedTuple):
    """What is settled by itself: one creator's video, one kind of engagement."""

    creator_id: int
    video_id: str
    kind: int


# When the creator last heard of d, and the settled total. OFFSET keeps the planner from joining with the whole table:
# a plan is kept for as long as the session, and there may be few places now and many counters later.
COUNTED = """LEFT JOIN LATERAL (SELECT c.total, c.last_paid_at FROM video_counters c
    WHERE c.video_id = d.video_id AND c.kind = d.kind OFFSET 0) c ON true
WHERE coalesce(c.last_paid_at < clock_timestamp() - interval '1 second', true)"""

LIST_DUE = f"""
SELECT d.creator_id, d.video_id, d.kind FROM (SELECT DISTINCT creator_id, video_id, kind FROM accruals) d
{COUNTED} LIMIT $1
"""


async def list_due(conn: Connection, limit: int) -> list[Place]:
    """Where something waits, and its creator has heard nothing of that video and kind for a second."""
    return [Place(*row) for row in await conn.fetch(LIST_DUE, limit)]


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


# A place that was settled a moment ago waits for its second: the test of list_due, repeated under the creator's head.
# Rows are summed up by their place's number, since sorting by texts takes longer than all the rest. Lists of actors are
# gathered newest first as text, since array_agg takes no arrays of different length.
TAKE = f"""
WITH due AS MATERIALIZED (
    SELECT d.creator_id, d.video_id, d.kind, d.place, coalesce(c.total, 0) AS total
    FROM unnest($1::bigint[], $2::text[], $3::smallint[]) WITH ORDINALITY AS d(creator_id, video_id, kind, place)
    {COUNTED}
), taken AS (
    DELETE FROM accruals a USING due d
    WHERE a.creator_id = d.creator_id AND a.video_id = d.video_id AND a.kind = d.kind
    RETURNING d.place, d.total, a.creator_id, a.video_id, a.kind, a.points, a.paid, a.change, a.notify, a.actors,
        a.username, a.channel, a.created_at
), summed AS (
    SELECT place, min(total) AS total, min(creator_id) AS creator_id, min(video_id) AS video_id, min(kind) AS kind,
        sum(points)::bigint AS points, sum(paid)::int AS paid, sum(change)::int AS change, sum(notify)::int AS notify,
        string_agg(array_to_string(actors, ','), ',' ORDER BY created_at DESC) FILTER (WHERE notify > 0) AS actors,
        (array_agg(username ORDER BY created_at DESC) FILTER (WHERE notify > 0))[1] AS username,
        (array_agg(channel ORDER BY created_at DESC) FILTER (WHERE notify > 0))[1] AS channel
    FROM taken GROUP BY place
)
SELECT clock_timestamp(), s.creator_id, s.video_id, s.kind, s.points, s.paid, s.change, s.notify,
    coalesce(s.actors, ''), s.username, s.channel, v.title, s.total, b.balance, b.n
FROM summed s
JOIN videos v ON v.id = s.video_id
JOIN accounts b ON b.user_id = s.creator_id AND b.currency = $4
ORDER BY s.place
"""


async def take(conn: Connection, places: Sequence[Place], currency: str) -> list[Settlement]:
    """Remove what is due at these places, whose creators' heads the caller holds, and return it summed up, in their
    order."""
    rows = await conn.fetch(TAKE, *columns(places, 3), currency)
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
