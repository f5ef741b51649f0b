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

# What waits for the creator of d's video and kind: null where nothing does.
WAITING = """LEFT JOIN LATERAL (SELECT sum(w.change)::bigint AS change FROM accruals w
    WHERE w.creator_id = v.owner_id AND w.video_id = d.video_id AND w.kind = d.kind) w ON true"""

# Nothing waits to be settled, and the creator has heard nothing of this video and kind for a second.
QUIET = "coalesce(c.last_paid_at < clock_timestamp() - interval '1 second', true) AND w.change IS NULL"

LIST_CONCERNED = f"""
SELECT d.video_id, d.kind, v.owner_id, v.title, o.followers_count, {QUIET} AS quiet,
    coalesce(c.total, 0) + coalesce(w.change, 0) AS total,
    o.has_blocked
FROM unnest($1::text[], $2::smallint[]) AS d(video_id, kind)
JOIN videos v ON v.id = d.video_id AND v.deleted_at IS NULL
JOIN users o ON o.id = v.owner_id
LEFT JOIN video_counters c ON c.video_id = d.video_id AND c.kind = d.kind
{WAITING}
"""


class Concerned(NamedTuple):
    """Whose video it is, how many follow them, whether they may hear of this kind of engagement at once, its total with
    what waits to be settled, and whether they have blocked anybody."""

    owner_id: int
    title: str
    followers: int
    quiet: bool
    total: int
    has_blocked: bool


async def list_concerned(conn: Connection, keys: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Concerned]:
    """Owner, title, quietness and total per (video id, kind), unlocked; unknown and deleted videos are
    missing."""
    rows = await conn.fetch(LIST_CONCERNED, *columns(keys, 2))
    return {(row[0], row[1]): Concerned(*row[2:]) for row in rows}


class Reading(NamedTuple):
    """What one action reads after its locks, in one row; None where nothing is stored."""

    now: datetime | None  # in the first row
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
    # Of the video's owner, where they hear of it at once.
    owner_balance: int = 0
    owner_n: int = 0
    total: int | None = None
    quiet: bool = False
    owner_id: int | None = None  # who owns the video now: may not be who did before the locks


def _read(columns: str, joins: str) -> str:
    return f"""
SELECT CASE d.place WHEN 1 THEN clock_timestamp() END,
    coalesce(r.fingerprint, m.fingerprint), coalesce(r.outcome, m.outcome),
    e.count, e.actor_paid, e.creator_paid, e.notified_at > clock_timestamp() - interval '24 hours',
    u.following_count, u.username, a.balance, a.n{columns}
FROM unnest($1::deed_row[]) WITH ORDINALITY AS d(user_id, action_id, video_id, kind, currency, place)
JOIN users u ON u.id = d.user_id
JOIN accounts a ON a.user_id = d.user_id AND a.currency = d.currency
{JOIN_TAKEN}LEFT JOIN engagements e ON e.actor_id = d.user_id AND e.video_id = d.video_id AND e.kind = d.kind
{joins}ORDER BY d.place
"""


READ = _read("", "")
READ_WITH_CREATORS = _read(
    f", oa.balance, oa.n, c.total, {QUIET}, v.owner_id",
    f"""JOIN videos v ON v.id = d.video_id
JOIN accounts oa ON oa.user_id = v.owner_id AND oa.currency = d.currency
LEFT JOIN video_counters c ON c.video_id = d.video_id AND c.kind = d.kind
{WAITING}
""",
)


async def list_readings(
    conn: Connection, keys: Sequence[tuple[int, str, str, int, str]], *, with_creators: bool
) -> list[Reading]:
    """One Reading per (actor, action id, video id, kind, currency), in their order; what they say of the videos'
    owners, under their heads, costs as much again."""
    rows = await conn.fetch(READ_WITH_CREATORS if with_creators else READ, keys)
    return [Reading(*row) for row in rows]


class StoredEngagement(NamedTuple):
    """The business key with its flags after the batch, as `engagement_row` has it; `notified_us` is the moment of a
    notification of now, in microseconds since 1970."""

    actor_id: int
    video_id: str
    kind: int
    counted: int
    actor_points: int
    creator_points: int
    actor_paid: bool
    creator_paid: bool
    creator_id: int
    notified_us: int | None


# Whether a row is there is known, since its actor's head is held from before it was read: ON CONFLICT would look for it
# again, and write half as much again to the log.
INSERT = f"""
INSERT INTO engagements (actor_id, video_id, kind, count, actor_points, creator_points, actor_paid, creator_paid,
    creator_id, notified_at)
SELECT actor_id, video_id, kind, count, actor_points, creator_points, actor_paid, creator_paid, creator_id,
    {moment_of("notified_us")} FROM unnest($1::engagement_row[])
"""


def insert_engagements(rows: Sequence[StoredEngagement]) -> list[Write]:
    """The write of engagements that are new; the caller holds the actors' heads and saw no such row."""
    return [Write(INSERT, (rows,))] if rows else []


# creator_id is whose video it was when it was paid, for good once its creator was: videos change hands.
UPDATE = f"""
UPDATE engagements e SET
    count = new.count,
    actor_points = e.actor_points + new.actor_points,
    creator_points = e.creator_points + new.creator_points,
    actor_paid = new.actor_paid,
    creator_paid = new.creator_paid,
    creator_id = CASE WHEN e.creator_points = 0 AND new.actor_points + new.creator_points > 0
        THEN new.creator_id ELSE e.creator_id END,
    notified_at = coalesce({moment_of("new.notified_us")}, e.notified_at)
FROM unnest($1::engagement_row[]) AS new
WHERE e.actor_id = new.actor_id AND e.video_id = new.video_id AND e.kind = new.kind
"""


def update_engagements(rows: Sequence[StoredEngagement]) -> list[Write]:
    """The write of the new states of engagements that are stored; points are those that this batch adds."""
    return [Write(UPDATE, (rows,))] if rows else []


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
    values = [
        (*change[:3], None if change.paid_at is None else micros(change.paid_at))
        for change in sorted(changes, key=itemgetter(0, 1))
    ]
    return [Write(ADD_TO_COUNTERS, (values,))] if values else []
