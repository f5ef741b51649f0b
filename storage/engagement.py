"""Likes, views, shares and comments: what a batch of them needs to know, and where it is written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from storage.requests import JOIN_TAKEN
from storage.statement import Write, columns, micros, moment_of

if TYPE_CHECKING:
    from asyncpg import Connection

# Nothing waits to be settled, and the creator has heard nothing of this video and kind for a second.
QUIET = """(coalesce(c.last_paid_at < clock_timestamp() - interval '1 second', true)
    AND NOT EXISTS (SELECT FROM accruals w
        WHERE w.creator_id = v.owner_id AND w.video_id = v.id AND w.kind = d.kind))"""

LIST_CONCERNED = f"""
SELECT d.video_id, d.kind, v.owner_id, v.title, {QUIET} AS quiet,
    coalesce(c.total, 0) + coalesce((SELECT sum(w.change) FROM accruals w
        WHERE w.creator_id = v.owner_id AND w.video_id = v.id AND w.kind = d.kind), 0)::bigint AS total
FROM unnest($1::text[], $2::smallint[]) AS d(video_id, kind)
JOIN videos v ON v.id = d.video_id AND v.deleted_at IS NULL
LEFT JOIN video_counters c ON c.video_id = d.video_id AND c.kind = d.kind
"""


class Concerned(NamedTuple):
    """Whose video it is, whether they may hear of this kind of engagement at once, and its total with
    what waits to be settled."""

    owner_id: int
    title: str
    quiet: bool
    total: int


async def list_concerned(conn: Connection, keys: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Concerned]:
    """Owner, title, quietness and total per (video id, kind), unlocked; unknown and deleted videos are
    missing."""
    rows = await conn.fetch(LIST_CONCERNED, *columns(keys, 2))
    return {(row[0], row[1]): Concerned(*row[2:]) for row in rows}


class Reading(NamedTuple):
    """What one action reads after its locks, in one row; None where nothing is stored."""

    now: datetime
    fingerprint: bytes | None
    outcome: bytes | None
    counted: int | None
    actor_paid: bool | None
    creator_paid: bool | None
    notified: bool | None
    following: int
    username: str
    balance: int
    n: int
    owner_followers: int
    owner_balance: int
    owner_n: int
    total: int | None
    quiet: bool
    owner_id: int  # who owns the video now: may not be who did before the locks


READ = f"""
SELECT clock_timestamp(), coalesce(r.fingerprint, m.fingerprint), coalesce(r.outcome, m.outcome),
    e.count, e.actor_paid, e.creator_paid, e.notified_at > clock_timestamp() - interval '24 hours',
    u.following_count, u.username, a.balance, a.n,
    o.followers_count, oa.balance, oa.n, c.total, {QUIET}, v.owner_id
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::smallint[], $5::text[]) WITH ORDINALITY
    AS d(user_id, action_id, video_id, kind, currency, place)
JOIN videos v ON v.id = d.video_id
JOIN users u ON u.id = d.user_id
JOIN accounts a ON a.user_id = d.user_id AND a.currency = d.currency
JOIN users o ON o.id = v.owner_id
JOIN accounts oa ON oa.user_id = v.owner_id AND oa.currency = d.currency
{JOIN_TAKEN}LEFT JOIN engagements e ON e.actor_id = d.user_id AND e.video_id = d.video_id AND e.kind = d.kind
LEFT JOIN video_counters c ON c.video_id = d.video_id AND c.kind = d.kind
ORDER BY d.place
"""


async def list_readings(conn: Connection, keys: Sequence[tuple[int, str, str, int, str]]) -> list[Reading]:
    """One Reading per (actor, action id, video id, kind, currency), in their order."""
    return [Reading(*row) for row in await conn.fetch(READ, *columns(keys, 5))]


class StoredEngagement(NamedTuple):
    """The business key with its flags after the batch; `notified` marks a notification of now."""

    actor_id: int
    video_id: str
    kind: int
    counted: int
    actor_points: int
    creator_points: int
    actor_paid: bool
    creator_paid: bool
    creator_id: int
    notified_at: datetime | None


# creator_id is whose video it was when it was paid, for good once its creator was: videos change hands.
INSERT = f"""
INSERT INTO engagements AS e (actor_id, video_id, kind, count, actor_points, creator_points, actor_paid,
    creator_paid, creator_id, notified_at)
SELECT actor_id, video_id, kind, count, actor_points, creator_points, actor_paid, creator_paid, creator_id,
    {moment_of("notified_us")} FROM unnest($1::engagement_row[])
ON CONFLICT (actor_id, video_id, kind) DO UPDATE SET
    count = excluded.count,
    actor_points = e.actor_points + excluded.actor_points,
    creator_points = e.creator_points + excluded.creator_points,
    actor_paid = excluded.actor_paid,
    creator_paid = excluded.creator_paid,
    creator_id = CASE WHEN e.creator_points = 0 AND excluded.actor_points + excluded.creator_points > 0
        THEN excluded.creator_id ELSE e.creator_id END,
    notified_at = coalesce(excluded.notified_at, e.notified_at)
"""


def insert_engagements(rows: Sequence[StoredEngagement]) -> list[Write]:
    """The write of each engagement's new state; points are those that this batch adds."""
    values = [(*row[:9], micros(row.notified_at)) for row in sorted(rows, key=itemgetter(0, 1, 2))]
    return [Write(INSERT, (values,))] if values else []


class CounterChange(NamedTuple):
    """A change of a settled total; `paid_at` where the creator hears of it now."""

    video_id: str
    kind: int
    change: int
    paid_at: datetime | None


ADD_TO_COUNTERS = f"""
INSERT INTO video_counters AS c (video_id, kind, total, last_paid_at)
SELECT video_id, kind, change, {moment_of("paid_us")} FROM unnest($1::counter_row[])
ON CONFLICT (video_id, kind) DO UPDATE SET
    total = c.total + excluded.total, last_paid_at = coalesce(excluded.last_paid_at, c.last_paid_at)
"""


def add_to_counters(changes: Sequence[CounterChange]) -> list[Write]:
    """The write that moves settled totals; the caller holds the creators' heads."""
    values = [(*change[:3], micros(change.paid_at)) for change in sorted(changes, key=itemgetter(0, 1))]
    return [Write(ADD_TO_COUNTERS, (values,))] if values else []
