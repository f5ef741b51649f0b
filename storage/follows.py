"""Who follows whom, and the counts of those whom follow verbs count for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from storage.statement import Write, columns

if TYPE_CHECKING:
    from asyncpg import Connection


class Reading(NamedTuple):
    """What one deed reads after its locks, in one row; None where nobody has followed yet."""

    now: datetime
    username: str
    picture_url: str | None
    user_following: int  # the follower's count
    followers: int  # the followed's count
    following: bool | None
    counted: bool | None
    notified: bool | None
    is_blocked: bool  # the followed does not want to hear of the follower


READ = """
SELECT clock_timestamp(), u.username, u.picture_url, u.following_count, o.followers_count,
    f.following, f.counted, f.notified_at > clock_timestamp() - interval '24 hours', b.blocker_id IS NOT NULL
FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS d(follower_id, followed_id, place)
JOIN users u ON u.id = d.follower_id
JOIN users o ON o.id = d.followed_id
LEFT JOIN follows f ON f.follower_id = d.follower_id AND f.followed_id = d.followed_id
LEFT JOIN blocks b ON b.blocker_id = d.followed_id AND b.blocked_id = d.follower_id
ORDER BY d.place
"""


async def list_readings(conn: Connection, pairs: Sequence[tuple[int, int]]) -> list[Reading]:
    """One Reading per (follower, followed), in their order; both exist."""
    return [Reading(*row) for row in await conn.fetch(READ, *columns(pairs, 2))]


class StoredFollow(NamedTuple):
    """A pair after the batch; `notified_at` where the followed is told now."""

    follower_id: int
    followed_id: int
    following: bool
    counted: bool
    notified_at: datetime | None
    changed_at: datetime


INSERT = """
INSERT INTO follows AS f (follower_id, followed_id, following, counted, notified_at, changed_at)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bool[], $4::bool[], $5::timestamptz[], $6::timestamptz[])
ON CONFLICT (follower_id, followed_id) DO UPDATE SET
    following = excluded.following, counted = excluded.counted, changed_at = excluded.changed_at,
    notified_at = coalesce(excluded.notified_at, f.notified_at)
"""


def insert_follows(rows: Sequence[StoredFollow]) -> list[Write]:
    """The write of each pair's new state; the caller holds the followers' heads."""
    return [Write(INSERT, columns(sorted(rows, key=itemgetter(0, 1)), 6))] if rows else []


class CountChange(NamedTuple):
    """By how much a user's counts change, and by how many the follows that they hold."""

    user_id: int
    following: int
    followers: int
    counted_following: int
    counted_followers: int


# The rows are locked in order of their ids first, as storage.users does: both wait for each other otherwise. Counts
# don't go below zero, so that a base takes what could not be taken from its count.
ADD_TO_COUNTS = """
WITH locked AS (
    SELECT id FROM users WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE
)
UPDATE users u SET
    following_count = greatest(u.following_count + d.following, 0),
    followers_count = greatest(u.followers_count + d.followers, 0),
    following_base = coalesce(u.following_base, u.following_count)
        + greatest(u.following_count + d.following, 0) - u.following_count - d.counted_following,
    followers_base = coalesce(u.followers_base, u.followers_count)
        + greatest(u.followers_count + d.followers, 0) - u.followers_count - d.counted_followers
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS d(user_id, following, followers, counted_following, counted_followers)
JOIN locked ON locked.id = d.user_id
WHERE u.id = d.user_id
"""


def add_to_counts(changes: Sequence[CountChange]) -> list[Write]:
    """The write that moves follow counts; the caller holds the users' heads."""
    return [Write(ADD_TO_COUNTS, columns(sorted(changes), 5))] if changes else []
