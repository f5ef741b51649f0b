"""Amounts, thresholds and caps of awards: the newest version of an action holds, older ones are its history."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asyncpg import Connection


class AwardVersion(NamedTuple):
    """One version of an award; `changed_by` None: as the program came."""

    action: str
    version: int
    points: int  # minor units
    threshold: int
    daily_cap: int | None
    changed_by: str | None
    valid_from: datetime


LAST_CHANGE = "SELECT coalesce(max(number), 0) FROM awards"


async def fetch_last_change(conn: Connection) -> int:
    """A number that is another one once any award has changed: one look at an index."""
    return int(await conn.fetchval(LAST_CHANGE))


LIST_IN_FORCE = """
SELECT DISTINCT ON (action) (SELECT max(number) FROM awards), action, version, points, threshold, daily_cap, changed_by,
    valid_from
FROM awards ORDER BY action, version DESC
"""


async def list_in_force(conn: Connection) -> tuple[int, list[AwardVersion]]:
    """(the last change, each action's version that holds), in one snapshot."""
    rows = await conn.fetch(LIST_IN_FORCE)
    return rows[0][0] if rows else 0, [AwardVersion(*row[1:]) for row in rows]


LIST_VERSIONS = """
SELECT action, version, points, threshold, daily_cap, changed_by, valid_from FROM awards
WHERE action = $1 AND version < $2 ORDER BY version DESC LIMIT $3
"""


async def list_versions(conn: Connection, action: str, before: int, limit: int) -> list[AwardVersion]:
    """An award's versions below `before`, newest first."""
    return [AwardVersion(*row) for row in await conn.fetch(LIST_VERSIONS, action, before, limit)]


FETCH_VERSION = """
SELECT action, version, points, threshold, daily_cap, changed_by, valid_from FROM awards
WHERE action = $1 ORDER BY version DESC LIMIT 1
"""


async def fetch_award(conn: Connection, action: str) -> AwardVersion | None:
    """The version that holds now."""
    row = await conn.fetchrow(FETCH_VERSION, action)
    return AwardVersion(*row) if row else None


LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('applause.awards', 0))"


async def lock_awards(conn: Connection) -> None:
    """Wait for others who change awards, until the end of the transaction: so versions have no gap, and `number` rises
    in the order of the commits."""
    await conn.execute(LOCK)


INSERT_VERSION = """
INSERT INTO awards (action, version, points, threshold, daily_cap, changed_by) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING action, version, points, threshold, daily_cap, changed_by, valid_from
"""


async def insert_version(
    conn: Connection,
    action: str,
    version: int,
    points: int,
    threshold: int,
    daily_cap: int | None,
    changed_by: str,
) -> AwardVersion:
    """Store a version, which holds from the commit on. The caller holds `lock_awards` and read the one before."""
    row = await conn.fetchrow(INSERT_VERSION, action, version, points, threshold, daily_cap, changed_by)
    assert row is not None
    return AwardVersion(*row)
